"""A run on a cluster, from what was asked for to what is submitted; `csm plan-run` stops before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from csm_components.ingest.spec import INGEST
from csm_components.settings import Settings
from csm_components.storage import Storage, open_storage
from csm_model.errors import InputError
from csm_pipelines.checks import check_config
from csm_pipelines.compiling import compile_pipeline
from csm_pipelines.config import RunConfig
from csm_pipelines.keys import StepKey, rights_now, step_keys
from csm_pipelines.pipelines import Pipeline, pipeline_named
from csm_pipelines.presets import preset, resolve
from csm_pipelines.profile import ClusterProfile, load_profile
from csm_pipelines.run_plan import RunPlan, make_plan
from csm_pipelines.shards import ingest_shards
from csm_pipelines.sources import Source, find_sources, send, storage_settings


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for on the command line."""

    pipeline: str
    preset: str
    profile: str
    settings: Sequence[str] = ()
    images: Mapping[str, str] | None = None
    shards: int | None = None
    bundle: str | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can be submitted."""

    pipeline: Pipeline
    config: RunConfig
    profile: ClusterProfile
    sources: Mapping[str, Source]
    keys: Mapping[str, StepKey]
    arguments: Mapping[str, Any]
    storage: Storage
    access: Settings
    """How the storage is reached from here."""

    def plan(self) -> RunPlan:
        """What will become of each step; reads the storage."""
        shards = {}
        if self.keys and INGEST in self.pipeline.steps:
            shards["ingest-shard"] = ingest_shards(
                self.config,
                self.sources,
                self.storage,
                self.access,
                shards=self.arguments["shards"],
            )
        return make_plan(self.pipeline, self.config.release.model, self.keys, self.storage, shards)

    def send(self, console: Console) -> None:
        """Puts what lies here into the storage."""
        send(self.sources, self.storage, console)

    def compile(self) -> str:
        """The IR, with the cache keys in it."""
        return compile_pipeline(
            self.pipeline.name,
            self.profile,
            keys={step: row.key for step, row in self.keys.items()},
            model=self.config.release.model,
        )


@contextmanager
def prepare(request: Request) -> Iterator[Prepared]:
    """Checks all that was asked for, and finds the digests of what the run is made from; sends nothing.

    Raises:
        InputError: an unknown pipeline, preset, profile or setting, or a source that is not there.
    """
    pipeline = pipeline_named(request.pipeline)
    profile = load_profile(request.profile, request.images)
    config = check_config(preset(request.preset), request.settings, target=profile.train)
    shards = profile.run.shards if request.shards is None else request.shards
    if shards < 1:
        raise InputError(f"shards {shards}: must be at least 1")
    bundle = _bundle(request)
    access = storage_settings(profile)
    storage = open_storage(profile.storage.url, access)
    with find_sources(config, profile, access, bundle=bundle) as sources:
        keys = step_keys(pipeline, config, sources, profile, shards=shards)
        if rights := rights_now(storage, keys):
            keys = step_keys(pipeline, config, sources, profile, shards=shards, rights=rights)
        yield Prepared(
            pipeline=pipeline,
            config=config,
            profile=profile,
            sources=sources,
            arguments=arguments_of(pipeline, config, sources, shards=shards),
            keys=keys,
            storage=storage,
            access=access,
        )


def arguments_of(
    pipeline: Pipeline, config: RunConfig, sources: Mapping[str, Source], *, shards: int
) -> dict[str, Any]:
    """The parameters of a run of a pipeline; raises `InputError` for a source that it cannot do without."""
    addresses = {name: source.address for name, source in sources.items()}
    for name in pipeline.sources():
        if pipeline.required(name) and name not in addresses:
            raise InputError(pipeline.needs.get(name, f"{pipeline.name} needs a {name}: name one with --set"))
    placed = {f"data.{name}": address for name, address in addresses.items()}
    return {
        **{name: addresses.get(name, "") for name in pipeline.sources()},
        "shards": shards,
        **{knob.parameter: knob.to_parameter(placed.get(knob.dotted, config.value(knob))) for knob in pipeline.knobs()},
    }


def _bundle(request: Request) -> str | None:
    """The float bundle of a release, an address or an absolute folder."""
    if request.bundle is None or "://" in request.bundle:
        return request.bundle
    folder: Path = resolve(request.bundle).absolute()
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{request.bundle}: not a bundle (no manifest.json)")
    return str(folder)


def run_name(prepared: Prepared) -> str:
    """A name for a run: what it is of, for which model, and when it was asked for."""
    import time

    return f"{prepared.pipeline.name} {prepared.config.release.model} {time.strftime('%Y-%m-%d %H:%M:%S')}"
