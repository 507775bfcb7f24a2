"""How many shards of a corpus are in the storage already, before a run is submitted."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from csm_components.settings import Settings
from csm_components.sharding import shard_tree
from csm_components.storage import Storage, open_tree
from csm_pipelines.config import RunConfig
from csm_pipelines.sources import Source


@dataclass(frozen=True, kw_only=True)
class ShardsInStorage:
    """Shards of a fanned-out step."""

    there: int
    """Whole in the storage."""
    planned: int
    """That the run will have."""

    @property
    def whole(self) -> bool:
        """Whether nothing is left to do."""
        return self.there == self.planned

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.there} of {self.planned} shards are in the storage"


def ingest_shards(
    config: RunConfig, sources: Mapping[str, Source], storage: Storage, settings: Settings, *, shards: int
) -> ShardsInStorage:
    """Those of ingest; tokenise's are known only when ingest has ended, for they are made from its result.

    Args:
        config: the run.
        sources: its corpus, and its annotations, here or in the storage.
        storage: the cluster's storage.
        settings: how it is reached from here.
        shards: parts that the corpus is cut into.
    """
    from csm_components.annotate.annotations import TABLES
    from csm_components.ingest.fanout import shard_keys
    from csm_components.ingest.rights import open_gate

    corpus, found = sources["corpus"], sources.get("annotations")
    with tempfile.TemporaryDirectory(prefix="csm-annotations-") as scratch:
        annotations = None if found is None else found.folder or Path(scratch)
        if found is not None and found.folder is None:
            part, key = open_tree(found.address, settings)
            files = part.read_tree(key)["files"]
            part.get_files(key, {name: row for name, row in files.items() if name in TABLES}, Path(scratch))
        with open_gate(config.data.policy, use=config.data.use, storage=storage, settings=settings) as gate:
            keys = shard_keys(
                str(corpus.folder or corpus.address),
                shards=shards,
                layout=config.data.layout,
                default_license=config.data.license,
                max_conversations=config.data.conversations,
                annotations=annotations,
                gate=gate,
                settings=settings,
            )
    there = sum(storage.has_tree(shard_tree("ingest", key)) for key in keys.values())
    return ShardsInStorage(there=there, planned=len(keys))
