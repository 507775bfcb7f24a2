"""The step ingest: any folder of sound and text to 24 kHz mono conversations.

The output folder:

| file | what it is |
| --- | --- |
| `manifest.json` | written last: digest, counts, seconds, speakers, splits, licences |
| `cuts.jsonl.gz` | one lhotse cut a conversation, its turns as supervisions |
| `audio/ID.flac` | the sound of a conversation |
| `rejected.jsonl` | every record that was left out, and why |
| `parts/ID.json` | what is committed of one conversation; a killed run goes on from these |
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from csm_components.ingest.catalogue import (
    CUTS,
    FORMAT,
    Catalogue,
    catalogue,
    manifest_of,
    thin_out,
    with_default_license,
    write_cuts,
    write_rejected,
)
from csm_components.ingest.checks import Rules
from csm_components.ingest.convert import Task, committed_part, convert, file_name, key_of, part_path
from csm_components.ingest.layouts import find_sounds, read_corpus
from csm_components.ingest.licenses import license_of_folder
from csm_components.ingest.records import Corpus, Rejection
from csm_components.ingest.table import kept_table, rejection_table
from csm_components.settings import worker_count
from csm_components.workers import run_parallel
from csm_model.errors import InputError
from csm_model.files import digest_of, digest_of_file, read_json, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """What ingest made; JSON-able."""

    out: str
    digest: str
    conversations: int
    turns: int
    speech_seconds: float
    speakers: dict[str, str]
    rejected: int
    reused: bool
    """Whether the committed result of an earlier run was taken as it is."""


def ingest(
    corpus: Path,
    out: Path,
    *,
    default_license: str | None = None,
    rules: Rules | None = None,
    speakers: Mapping[str, int] | None = None,
    max_conversations: int | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> IngestResult:
    """Checks every record of a corpus and writes what can be used as conversations of 24 kHz mono sound.

    Args:
        corpus: folder of sound and text (see `layouts`).
        out: folder for the result; may hold part of one from a run that was killed.
        default_license: licence of records that name none; without it, what the corpus's LICENSE file names.
        rules: bounds of the checks.
        speakers: number of each of the corpus's speaker labels; without it they are kept or given in order.
        max_conversations: take only so many, evenly spread over the corpus and over its splits.
        workers: processes; `CSM_WORKERS` or one a core without it.
        console: where progress and tables go; standard error without it.

    Raises:
        InputError: no such folder, no sound or no text in it, nothing left after the checks, or splits that leak.
    """
    console = console or Console(stderr=True)
    rules = rules or Rules()
    if not corpus.is_dir():
        what = "is not a folder" if corpus.exists() else "no such folder"
        raise InputError(f"{corpus}: {what}; a corpus is a folder of audio and text")
    sounds = find_sounds(corpus, leave_out=out.absolute())
    found = with_default_license(read_corpus(corpus, sounds), default_license or license_of_folder(corpus))
    if max_conversations is not None:
        found, sounds = thin_out(found, max_conversations), []
    others = [*found.rejections, *_without_text(found, sounds)]
    _refuse_twins(found)

    keys = _keys(corpus, found, rules)
    inputs = digest_of(
        {
            "format": FORMAT,
            "keys": keys,
            "splits": {source.id: source.split for source in found.conversations},
            "speakers": dict(speakers) if speakers is not None else None,
            "names": found.speaker_names,
            "others": [asdict(row) for row in others],
        }
    )
    committed = _committed(out, inputs)
    if committed is not None:
        return _result(out, committed, reused=True)

    (out / MANIFEST).unlink(missing_ok=True)
    tasks = [
        Task(source=source, key=keys[source.id], corpus=corpus, out=out, rules=rules)
        for source in found.conversations
        if not committed_part(out, source, keys[source.id])
    ]
    _convert(tasks, len(found.conversations), worker_count(workers), console)
    parts = [read_json(part_path(out, source.id)) for source in found.conversations]
    result = catalogue(found, parts, others, speakers)
    write_rejected(out, result.rejections)
    _show_rejections(console, result)
    _refuse_nothing(corpus, out, result)
    write_cuts(out, result)
    _prune(out, parts)
    manifest = manifest_of(found, result, inputs=inputs, cuts_sha256=digest_of_file(out / CUTS))
    write_json(out / MANIFEST, manifest)
    console.print(kept_table(manifest))
    return _result(out, manifest, reused=False)


def _without_text(corpus: Corpus, sounds: list[str]) -> list[Rejection]:
    """Sound files that no record names."""
    named = {turn.audio for source in corpus.conversations for turn in source.turns}
    named |= {row.audio for row in corpus.rejections}
    return [
        Rejection(conversation="", turn="", audio=sound, reason="no text", detail="no record names this file")
        for sound in sounds
        if sound not in named
    ]


def _refuse_twins(corpus: Corpus) -> None:
    """Raises when two turns have one id."""
    seen: set[str] = set()
    for source in corpus.conversations:
        for turn in source.turns:
            if turn.id in seen:
                raise InputError(f"turn {turn.id} is there twice (again in conversation {source.id}); ids must differ")
            seen.add(turn.id)


def _keys(corpus: Path, found: Corpus, rules: Rules) -> dict[str, str]:
    """The key of each conversation, which covers the bytes of its sound files."""

    def digest(audio: str) -> str:
        try:
            return digest_of_file(corpus / audio)
        except OSError:
            return "missing"

    audios = sorted({turn.audio for source in found.conversations for turn in source.turns})
    with ThreadPoolExecutor(worker_count()) as threads:
        digests = dict(zip(audios, threads.map(digest, audios), strict=True))
    return {source.id: key_of(source, rules, digests) for source in found.conversations}


def _committed(out: Path, inputs: str) -> dict[str, Any] | None:
    """The manifest of an earlier run over the same inputs, where all it names is still there."""
    if not (out / MANIFEST).exists():
        return None
    manifest: dict[str, Any] = read_json(out / MANIFEST)
    whole = (
        manifest.get("inputs") == inputs
        and (out / CUTS).exists()
        and digest_of_file(out / CUTS) == manifest["cuts_sha256"]
        and len(list((out / "audio").glob("*.flac"))) >= manifest["conversations"]
    )
    return manifest if whole else None


def _convert(tasks: list[Task], total: int, workers: int, console: Console) -> None:
    """Converts what is not committed yet, with progress."""
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("ingest", total=total, completed=total - len(tasks))
        for _ in run_parallel(convert, tasks, workers=min(workers, len(tasks))):
            progress.advance(bar)


def _show_rejections(console: Console, result: Catalogue) -> None:
    if result.rejections:
        console.print(rejection_table(result.rejections))


def _refuse_nothing(corpus: Path, out: Path, result: Catalogue) -> None:
    """Raises when no training conversation is left."""
    splits = [part["split"] for part in result.conversations]
    if "train" in splits:
        return
    first = next(iter(result.rejections), None)
    why = f"; the first: {first.turn or first.audio}: {first.detail}" if first else ""
    what = "no conversation for training is left" if splits else "no record can be used"
    raise InputError(f"{corpus}: {what} ({len(result.rejections)} left out, see {out / 'rejected.jsonl'}){why}")


def _prune(out: Path, parts: list[dict[str, Any]]) -> None:
    """Removes what belongs to no conversation of this corpus: older ones, and halves that a kill left behind."""
    keep = {part["file"] for part in parts} | {f"parts/{file_name(part['id'])}.json" for part in parts}
    for folder in ("audio", "parts"):
        for path in (out / folder).glob("*"):
            if f"{folder}/{path.name}" not in keep:
                path.unlink()


def _result(out: Path, manifest: Mapping[str, Any], *, reused: bool) -> IngestResult:
    return IngestResult(
        out=str(out),
        digest=manifest["digest"],
        conversations=manifest["conversations"],
        turns=manifest["turns"],
        speech_seconds=manifest["speech_seconds"],
        speakers=manifest["speakers"],
        rejected=sum(manifest["rejected"].values()),
        reused=reused,
    )
