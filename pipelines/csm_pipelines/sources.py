"""What a run on a cluster is made from, its corpus, codec, base, policy and the like, each by its content's digest.

What lies in a folder here is put into the cluster's storage under its digest, `inputs/DIGEST`; what is there already is
not sent again. What is in the storage already is named by its address, and its digest is that of the tree's list.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from csm_components.ingest.policy import pack_policy
from csm_components.settings import Settings
from csm_components.settings import load_settings as load_component_settings
from csm_components.storage import Storage, open_tree
from csm_components.tree_list import tree_of
from csm_model.errors import InputError
from csm_pipelines.checks import RANDOM_CODEC
from csm_pipelines.config import MAKE, RunConfig
from csm_pipelines.pipelines import SOURCES
from csm_pipelines.profile import ClusterProfile

INPUTS = "inputs"
"""Where the storage keeps what was sent from here."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One of the things that a run is made from."""

    address: str
    """Where a step finds it."""
    digest: str
    """Of its content."""
    folder: Path | None = None
    """Where it lies here; None for what is in the storage."""


def storage_settings(profile: ClusterProfile) -> Settings:
    """How the storage is reached from here: the environment's address and keys, else the profile's address."""
    found = load_component_settings()
    known = {"storage": profile.storage.url, "s3_endpoint": found.s3_endpoint or profile.storage.endpoint}
    if "s3_region" not in found.model_fields_set:
        known["s3_region"] = profile.storage.region
    return found.model_copy(update=known)


@contextmanager
def find_sources(
    config: RunConfig, profile: ClusterProfile, settings: Settings, *, bundle: str | None = None
) -> Iterator[Mapping[str, Source]]:
    """The digests of what a run is made from, by the names of sources, `tokenizer` and `policy`; sends nothing.

    Args:
        config: a run whose folders are absolute (`check_config`).
        profile: the cluster.
        settings: how its storage is reached from here.
        bundle: a float bundle to release, a folder or an address.

    Raises:
        InputError: an address that is no tree of the storage.
    """
    data = config.data
    if data.annotations == MAKE:
        raise InputError(
            "data.annotations make: on a cluster the pipeline annotate makes them; submit it, and name what it has "
            "kept with --set data.annotations=s3://..."
        )
    given = {name: getattr(data, name) for name in SOURCES.values() if name in type(data).model_fields}
    given["bundle"] = bundle
    if data.tokenizer and ("/" in data.tokenizer or "://" in data.tokenizer):
        given["tokenizer"] = data.tokenizer
    with tempfile.TemporaryDirectory(prefix="csm-inputs-") as scratch:
        if data.policy:
            given["policy"] = data.policy if "://" in data.policy else _packed(data.policy, Path(scratch) / "policy")
        if data.codec == RANDOM_CODEC:
            from csm_pipelines.tiny import random_codec

            given["codec"] = str(random_codec(Path(scratch) / "codec"))
        yield {name: _source(value, profile, settings, Path(scratch)) for name, value in given.items() if value}


def _packed(policy: str, folder: Path) -> str:
    """A folder with the policy and all that it names."""
    pack_policy(Path(policy), folder)
    return str(folder)


def _source(value: str, profile: ClusterProfile, settings: Settings, scratch: Path) -> Source:
    if "://" in value:
        storage, key = open_tree(value, settings)
        return Source(address=value.rstrip("/"), digest=storage.read_tree(key)["digest"])
    folder = Path(value)
    if folder.is_file():  # a tokenizer.json; only a folder can be a tree
        inside = scratch / f"file-{folder.name}"
        inside.mkdir(exist_ok=True)
        (inside / folder.name).write_bytes(folder.read_bytes())
        folder = inside
    digest = str(tree_of(folder)["digest"])
    return Source(address=f"{profile.storage.url.rstrip('/')}/{INPUTS}/{digest}", digest=digest, folder=folder)


def send(sources: Mapping[str, Source], storage: Storage, console: Console) -> None:
    """Puts what lies here into the storage, with a bar on a terminal; one that was stopped goes on."""
    for name, source in sources.items():
        if source.folder is None:
            continue
        key = f"{INPUTS}/{source.digest}"
        if storage.has_tree(key):
            console.print(f"{name}: in the storage already ({source.digest[:12]})", highlight=False)
            continue
        files = [path for path in source.folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        console.print(f"{name}: sending {len(files)} files, {size / 1e6:.1f} MB", highlight=False)
        with Progress(
            BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True,
            disable=not console.is_terminal,
        ) as bar:  # fmt: skip
            task = bar.add_task(name, total=size)
            storage.put_tree(source.folder, key, on_file=partial(bar.advance, task))
