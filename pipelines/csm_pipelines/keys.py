"""Cache keys: for each step of a pipeline, the digest of all that its result is made from.

A key is of the step's settings, the content of what is read, the program, the image, and the keys of the steps before
it; so it is known before anything runs. Kubeflow's own fingerprint sees none of these but the image's name. Its cache
is one for each pipeline, so the pipeline's name is in the keys too.

Not in the table, and so always run: shards (all of one step share what is compiled, so they look up their own content
in the storage), and what has an effect outside: register, deploy, end-run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from csm_model.files import digest_of, digest_of_file
from csm_pipelines.presets import RunConfig
from csm_pipelines.profile import ClusterProfile
from csm_pipelines.sources import Source

_PACKAGES = ("csm_model", "csm_serving", "csm_components")
"""The program of the steps; `csm_pipelines` only says what they are given, which is in the keys."""


@dataclass(frozen=True, kw_only=True)
class StepKey:
    """What a step's result is made from."""

    step: str
    inputs: Mapping[str, Any]
    """Settings by their dotted names, digests of what is read, the program and the image."""
    upstream: tuple[str, ...]
    """Steps whose results it reads."""
    key: str


@cache
def code_digest() -> str:
    """Digest of the installed packages' sources."""
    from importlib.util import find_spec

    files = {}
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"{package}/{path.relative_to(root).as_posix()}"] = digest_of_file(path)
    return digest_of(files)


def code_version() -> str:
    """Version of the program, with the digest of its sources."""
    return f"{version('csm-foundry')}+{code_digest()[:12]}"


def step_keys(
    pipeline: str, config: RunConfig, sources: Mapping[str, Source], profile: ClusterProfile, *, shards: int
) -> dict[str, StepKey]:
    """The keys of a pipeline's steps, in order; none for nightly, whose data are not known before it runs."""
    if pipeline == "nightly":
        return {}
    data, train, judge, release = config.data, config.train, config.judge, config.release
    content = {name: source.digest for name, source in sources.items()}
    texts = {"base": content.get("bundle" if pipeline == "release" else "base")}
    if pipeline == "training":
        texts |= {
            "data.tokenizer": content.get("tokenizer", data.tokenizer),
            "data.prompt_format": data.prompt_format,
        }
    corpus = {"corpus": content["corpus"], "data.license": data.license, "data.conversations": data.conversations}
    encoding = {"codec": content["codec"], **texts}
    parent = "fetch" if pipeline == "release" else "train"
    table: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
        ("plan-ingest", {**corpus, "shards": shards}, ()),
        ("ingest", corpus, ()),
        ("plan-tokenise", {**encoding, "shards": shards}, ("ingest",)),
        (
            "tokenise",
            {**encoding, "data.min_energy_correlation": data.min_energy_correlation},
            ("ingest",),
        ),
        ("fetch", {"bundle": content.get("bundle")}, ())
        if pipeline == "release"
        else (
            "train",
            {
                "base": content.get("base"),
                **{f"train.recipe.{name}": value for name, value in train.recipe.items()},
                "train.nodes": train.nodes,
                "train.threads": train.threads,
            },
            ("tokenise",),
        ),
        ("keep", {}, ("train",)),
        ("export", {"release.precision": release.precision}, (parent,)),
        (
            "evaluate",
            {
                "base": content.get("base"),
                **{f"judge.{name}": value for name, value in asdict(judge).items()},
                **{f"gate.{name}": value for name, value in config.gate.thresholds().items()},
            },
            ("export", "ingest", "tokenise"),
        ),
    ]
    keys: dict[str, StepKey] = {}
    for step, values, upstream in table:
        if step == "keep" and pipeline == "release":
            continue
        inputs = {**values, "code": code_digest(), "image": profile.image(step)}
        key = digest_of({"step": step, "inputs": inputs, "upstream": {before: keys[before].key for before in upstream}})
        keys[step] = StepKey(step=step, inputs=inputs, upstream=upstream, key=key)
    return keys
