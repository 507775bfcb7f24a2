"""Ingest, fanned out: a corpus is divided by its conversations, each shard is converted alone, and all are joined.

What is joined is, file by file, what `step.ingest` would have written. A shard's folder:

| file | what it is |
| --- | --- |
| `made.json` | written last: what it was made of, and came to |
| `shard.json` | the keys of its conversations, and the digests of the sound they were made from |
| `audio/ID.flac`, `parts/ID.json` | its conversations, as in the folder of the whole |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from rich.console import Console

from csm_components import made
from csm_components.ingest import step
from csm_components.ingest.convert import committed_part, part_path
from csm_components.ingest.corpora import Chosen, describe, digests_of_sounds, keys_of, open_corpus, work_of
from csm_components.ingest.speakers import Numbering
from csm_components.program import code_digest
from csm_components.settings import Settings
from csm_components.sharding import SHARD, shard_names, shard_span, shard_store
from csm_model.errors import ArtifactError, InputError
from csm_model.files import copy_file, digest_of, read_json, write_json

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """How a corpus is divided; JSON-able."""

    shards: list[str]
    """Names of the shards."""
    conversations: int
    reused: bool = False


@dataclass(frozen=True, kw_only=True)
class IngestShardResult:
    """One shard; JSON-able."""

    out: str
    shard: str
    key: str
    """Digest of all that it was made from."""
    conversations: int
    reused: bool
    """Whether it was made before, here or by another run."""


def plan_ingest(
    corpus: str,
    *,
    shards: int,
    settings: Settings | None = None,
    **chosen: Unpack[Chosen],
) -> ShardPlan:
    """Divides a corpus into at most `shards` shards that take about the same time.

    Raises:
        InputError: what `corpora.describe` raises, or a number of shards that cannot be.
    """
    with open_corpus(corpus, settings) as files:
        described = describe(files, **chosen)
    count = len(described.corpus.conversations)
    return ShardPlan(shards=shard_names(shards, count), conversations=count)


def ingest_shard(
    corpus: str,
    shard: str,
    out: Path,
    *,
    workers: int | None = None,
    settings: Settings | None = None,
    console: Console | None = None,
    **chosen: Unpack[Chosen],
) -> IngestShardResult:
    """Converts the conversations of one shard; takes what this or another run has made of the same inputs.

    Args:
        corpus: folder, or a tree in the storage, of which only the texts and this shard's sound are fetched.
        shard: name of the shard.
        out: folder for the result; may hold part of one from a run that was killed.
        workers: processes; `CSM_WORKERS` or one a core without it.
        settings: of the storage that holds the corpus; the environment's without them.
        console: where progress goes; standard error without it.
        chosen: what of the corpus is taken.

    Raises:
        InputError: what `corpora.describe` raises, or no such shard.
    """
    console = console or Console(stderr=True)
    with open_corpus(corpus, settings) as files:
        described = describe(files, **chosen)
        everything = described.corpus.conversations
        sources = everything[shard_span(shard, work_of(files, everything))]
        digests = digests_of_sounds(files, sources)
        keys = keys_of(sources, described, digests)
        key = _key_of_shard(keys)
        store = shard_store("ingest", key, out)
        reused = store.made() or store.fetch()
        if not reused:
            store.resume()

            def keep(part: dict[str, Any]) -> None:
                here = part_path(out, part["id"]).relative_to(out).as_posix()
                store.keep(*([part["file"]] if part["file"] else []), here)

            step.convert_all(files, out, sources, keys, described, workers=workers, console=console, on_part=keep)
            step.prune(out, [read_json(part_path(out, source.id)) for source in sources])
            write_json(out / SHARD, {"format": FORMAT, "keys": keys, "sounds": digests})
    store.commit()  # also where the one that made it here was killed before it could
    result = IngestShardResult(out=str(out), shard=shard, key=key, conversations=len(sources), reused=reused)
    made.commit(out, "ingest-shard", key, result)
    return result


def shard_keys(
    corpus: str,
    *,
    shards: int,
    settings: Settings | None = None,
    **chosen: Unpack[Chosen],
) -> dict[str, str]:
    """The key that each shard of a corpus will have, by its name; for whoever asks what the storage holds already."""
    with open_corpus(corpus, settings) as files:
        described = describe(files, **chosen)
        everything = described.corpus.conversations
        keys = keys_of(everything, described, digests_of_sounds(files, everything))
        work = work_of(files, everything)
    return {
        name: _key_of_shard({source.id: keys[source.id] for source in everything[shard_span(name, work)]})
        for name in shard_names(shards, len(everything))
    }


def join_ingest(
    parts: Sequence[Path],
    corpus: str,
    out: Path,
    *,
    numbering: Numbering = "auto",
    settings: Settings | None = None,
    console: Console | None = None,
    **chosen: Unpack[Chosen],
) -> step.IngestResult:
    """Joins all shards of a corpus; only its texts are read again.

    Args:
        parts: the shards' folders, in any order.
        corpus: the corpus, as the shards had it.
        out: folder for the result.
        numbering: where speakers' numbers count (`speakers`).
        settings: of the storage that holds the corpus.
        console: where tables go; standard error without it.
        chosen: what of the corpus is taken, as the shards had it.

    Raises:
        InputError: a shard is missing, or the corpus has changed since; and what `step.ingest` raises.
    """
    console = console or Console(stderr=True)
    with open_corpus(corpus, settings) as files:
        described = describe(files, **chosen)
    notes = {part: _shard_note(part) for part in parts}
    digests = {audio: digest for note in notes.values() for audio, digest in note["sounds"].items()}
    folders = {name: part for part, note in notes.items() for name in note["keys"]}
    sources = described.corpus.conversations
    for source in sources:
        if source.id not in folders:
            raise InputError(f"conversation {source.id} is in none of {len(parts)} shards; join all of one plan")
    keys = keys_of(sources, described, digests)
    inputs = step.inputs_of(described, keys, numbering=numbering)
    if (known := step.committed(out, inputs)) is not None:
        return known
    made.forget(out)
    (out / step.MANIFEST).unlink(missing_ok=True)
    for source in sources:
        folder = folders[source.id]
        if not committed_part(folder, source, keys[source.id]):
            raise InputError(f"conversation {source.id} has changed since {folder} was made; run the shards again")
        if not committed_part(out, source, keys[source.id]):
            part = part_path(folder, source.id)
            if file := read_json(part)["file"]:
                copy_file(folder / file, out / file)
            copy_file(part, part_path(out, source.id))
    name = corpus.rstrip("/").rpartition("/")[2]
    return step.finish(name, out, described, inputs=inputs, numbering=numbering, console=console)


def _key_of_shard(keys: dict[str, str]) -> str:
    return digest_of({"format": FORMAT, "keys": keys, "code": code_digest()})


def _shard_note(part: Path) -> dict[str, Any]:
    note: dict[str, Any] = read_json(part / SHARD)
    if note.get("format") != FORMAT:
        raise ArtifactError(f"{part}: is not a shard of format {FORMAT}; run the shard again")
    return note
