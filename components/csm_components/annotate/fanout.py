"""Annotate, fanned out: recordings are divided by the bytes of their files, each shard is annotated alone.

What is joined is, file by file, what `step.annotate` would have written. A shard's folder holds `made.json` and the
parts of its recordings, as in the folder of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from csm_components import made
from csm_components.annotate import step
from csm_components.annotate.annotations import MANIFEST
from csm_components.annotate.knobs import AnnotateSettings
from csm_components.annotate.recording import RecordingTask, committed
from csm_components.ingest.corpora import open_corpus
from csm_components.program import code_digest
from csm_components.settings import Settings
from csm_components.sharding import shard_names, shard_span, shard_store
from csm_model.errors import InputError
from csm_model.files import copy_file, digest_of, sweep

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class AnnotatePlan:
    """How recordings are divided; JSON-able."""

    shards: list[str]
    """Names of the shards."""
    recordings: int
    reused: bool = False


@dataclass(frozen=True, kw_only=True)
class AnnotateShardResult:
    """One shard; JSON-able."""

    out: str
    shard: str
    key: str
    """Digest of all that it was made of."""
    recordings: int
    reused: bool
    """Whether it was made before, here or by another run."""


def plan_shards(
    corpus: str,
    annotate: AnnotateSettings,
    *,
    shards: int,
    layout: str | None = None,
    settings: Settings | None = None,
) -> AnnotatePlan:
    """Divides the recordings of a corpus into at most `shards` shards."""
    with open_corpus(corpus, settings) as files:
        tasks = step.plan_annotate(files, Path(), annotate, layout=layout)
    return AnnotatePlan(shards=shard_names(shards, len(tasks)), recordings=len(tasks))


def annotate_shard(
    corpus: str,
    shard: str,
    out: Path,
    annotate: AnnotateSettings,
    *,
    layout: str | None = None,
    workers: int | None = None,
    settings: Settings | None = None,
    console: Console | None = None,
) -> AnnotateShardResult:
    """Annotates the recordings of one shard; takes what this or another run has made of the same.

    Args:
        corpus: folder, or a tree in the storage, of which only the texts and this shard's sound are fetched.
        shard: name of the shard.
        out: folder for the result; may hold part of one from a run that was killed.
        annotate: what is asked.
        layout: name of the corpus's reader.
        workers: processes.
        settings: of the storage that holds the corpus; the environment's without them.
        console: where progress goes; standard error without it.

    Raises:
        InputError: what `step.annotate` raises, or no such shard.
    """
    console = console or Console(stderr=True)
    with open_corpus(corpus, settings) as files:
        mine = share(step.plan_annotate(files, out, annotate, layout=layout), shard)
        key = digest_of({"format": FORMAT, "inputs": step.inputs_of(mine), "code": code_digest()})
        store = shard_store("annotate", key, out)
        reused = store.made() or store.fetch()
        if not reused:
            sweep(out)
            store.resume()
            step.annotate_all(
                files,
                mine,
                workers=workers,
                console=console,
                on_part=lambda task: store.keep(task.part.relative_to(out).as_posix()),
            )
    store.commit()  # also where the one that made it here was killed before it could
    result = AnnotateShardResult(out=str(out), shard=shard, key=key, recordings=len(mine), reused=reused)
    made.commit(out, "annotate-shard", key, result)
    return result


def share(tasks: Sequence[RecordingTask], shard: str) -> list[RecordingTask]:
    """The recordings of a shard; all shards have about as many bytes."""
    return list(tasks[shard_span(shard, [max(1, task.size) for task in tasks])])


def join_annotate(
    parts: Sequence[Path],
    corpus: str,
    out: Path,
    annotate: AnnotateSettings,
    *,
    layout: str | None = None,
    settings: Settings | None = None,
    console: Console | None = None,
) -> step.AnnotateResult:
    """Joins all shards of a corpus; no sound is read.

    Args:
        parts: the shards' folders, in any order.
        corpus: the corpus, as the shards had it.
        out: folder for the result.
        annotate: as the shards had it.
        layout: as the shards had it.
        settings: of the storage that holds the corpus.
        console: where the closing line goes; standard error without it.

    Raises:
        InputError: a recording is in none of the shards, or has changed since.
    """
    console = console or Console(stderr=True)
    with open_corpus(corpus, settings) as files:
        tasks = step.plan_annotate(files, out, annotate, layout=layout)
    inputs = step.inputs_of(tasks)
    if (known := step.committed_result(out, inputs)) is not None:
        return known
    made.forget(out)
    (out / MANIFEST).unlink(missing_ok=True)
    for task in tasks:
        there = next((one for part in parts if committed(one := replace(task, out=part)) is not None), None)
        if there is None:
            raise InputError(f"recording {task.audio} is in none of {len(parts)} shards; join all of one plan")
        copy_file(there.part, task.part)
    return step.finish(out, tasks, inputs, console=console)
