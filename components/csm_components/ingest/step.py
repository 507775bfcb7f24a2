"""The step ingest: any folder of sound and text to conversations at 24 kHz, mono or a channel a speaker.

The output folder:

| file | what it is |
| --- | --- |
| `made.json` | written last: what it was made of, and came to |
| `manifest.json` | digest, counts, seconds, speakers, splits, licences |
| `cuts.jsonl.gz` | one lhotse cut a conversation, its turns as supervisions |
| `audio/ID.flac` | the sound of a conversation |
| `card.md` | hours by language, licence and reason, histograms: numbers alone |
| `rejected.jsonl` | every record that was left out, and why |
| `parts/ID.json` | what is committed of one conversation; a killed run goes on from these |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

from rich.console import Console
from rich.progress import Progress

from csm_components import made
from csm_components.datacard.summary import write_card
from csm_components.events import progress as tell
from csm_components.ingest.catalogue import (
    CUTS,
    FORMAT,
    Catalogue,
    catalogue,
    manifest_of,
    write_cuts,
    write_rejected,
)
from csm_components.ingest.convert import ConvertTask, committed_part, convert, file_name, part_path
from csm_components.ingest.corpora import (
    Chosen,
    CorpusFiles,
    Described,
    corpus_in,
    describe,
    digests_of_sounds,
    keys_of,
    sounds_of,
)
from csm_components.ingest.records import SourceConversation
from csm_components.ingest.speakers import Numbering
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
    expires: str | None = None
    """The last day on which all of it may be used; none where nothing expires."""


def ingest(
    corpus: Path,
    out: Path,
    *,
    speakers: Mapping[str, int] | None = None,
    numbering: Numbering = "auto",
    workers: int | None = None,
    console: Console | None = None,
    **chosen: Unpack[Chosen],
) -> IngestResult:
    """Checks every record of a corpus and writes what can be used as conversations of sound at 24 kHz.

    Args:
        corpus: folder of sound and text (see `layouts`).
        out: folder for the result; may hold part of one from a run that was killed.
        speakers: number of each of the corpus's speaker labels; without it they are kept or given in order.
        numbering: where numbers count that are not given (`speakers`).
        workers: processes; `CSM_WORKERS` or one a core without it.
        console: where progress and tables go; standard error without it.
        chosen: what of the corpus is taken.

    Raises:
        InputError: no such folder, no sound or no text in it, or nothing left after the checks.
    """
    console = console or Console(stderr=True)
    files = corpus_in(corpus, leave_out=out.absolute())
    described = describe(files, **chosen)
    sources = described.corpus.conversations
    keys = keys_of(sources, described, digests_of_sounds(files, sources))
    inputs = inputs_of(described, keys, speakers, numbering)
    if (known := committed(out, inputs)) is not None:
        return known
    made.forget(out)
    (out / MANIFEST).unlink(missing_ok=True)
    convert_all(files, out, sources, keys, described, workers=workers, console=console)
    return finish(corpus.name, out, described, inputs=inputs, speakers=speakers, numbering=numbering, console=console)


def inputs_of(
    described: Described,
    keys: Mapping[str, str],
    speakers: Mapping[str, int] | None = None,
    numbering: Numbering = "auto",
) -> str:
    """Digest of all that the conversations are made from.

    Args:
        described: the corpus.
        keys: key of each of its conversations.
        speakers: numbers given for its speaker labels.
        numbering: where numbers count that are not given.
    """
    return digest_of(
        {
            "format": FORMAT,
            "keys": dict(keys),
            "splits": {source.id: source.split for source in described.corpus.conversations},
            "speakers": dict(speakers) if speakers is not None else None,
            "names": described.corpus.speaker_names,
            "others": [asdict(row) for row in described.others],
            "numbering": numbering,
        }
        | described.gate.inputs
    )


def convert_all(
    files: CorpusFiles,
    out: Path,
    sources: Sequence[SourceConversation],
    keys: Mapping[str, str],
    described: Described,
    *,
    workers: int | None,
    console: Console,
    on_part: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Converts the conversations that are not committed in `out` yet, with progress; hands each part to `on_part`."""
    tasks = [
        ConvertTask(
            source=source,
            key=keys[source.id],
            corpus=files.folder,
            out=out,
            rules=described.gate.policy.checks,
            refused={turn.id: found for turn in source.turns if (found := described.refused.get(turn.id))},
        )
        for source in sources
        if not committed_part(out, source, keys[source.id])
    ]
    files.fetch(sounds_of(task.source for task in tasks))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("ingest", total=len(sources), completed=len(sources) - len(tasks))
        for part in run_parallel(convert, tasks, workers=min(worker_count(workers), len(tasks))):
            on_part(part)
            progress.advance(bar)
            tell(f"{progress.tasks[0].completed:.0f} of {len(sources)} conversations")


def finish(
    name: str,
    out: Path,
    described: Described,
    *,
    inputs: str,
    console: Console,
    speakers: Mapping[str, int] | None = None,
    numbering: Numbering = "auto",
) -> IngestResult:
    """Writes what goes beside the sound in `out`, where every conversation is committed; the manifest last.

    Args:
        name: what to call the corpus in an error.
        out: folder for the result.
        described: the corpus.
        inputs: digest of all that the result is made from.
        console: where tables go.
        speakers: numbers given for the corpus's speaker labels.
        numbering: where numbers count that are not given.
    """
    corpus = described.corpus
    parts = [read_json(part_path(out, source.id)) for source in corpus.conversations]
    contents = catalogue(corpus, parts, described.others, speakers, numbering)
    write_rejected(out, contents.rejections)
    if contents.rejections:
        console.print(rejection_table(contents.rejections))
    _refuse_nothing(name, out, contents)
    write_cuts(out, contents)
    prune(out, parts)
    manifest = manifest_of(corpus, contents, inputs=inputs, cuts_sha256=digest_of_file(out / CUTS))
    manifest |= described.gate.leaves(contents.conversations)
    write_json(out / MANIFEST, manifest)
    write_card(out)
    console.print(kept_table(manifest))
    result = _result(out, manifest)
    made.commit(out, "ingest", inputs, result)
    return result


def committed(out: Path, inputs: str) -> IngestResult | None:
    """The result of an earlier run over the same inputs, where all it names is still there."""
    known = made.committed(out, inputs)
    if known is None or not (out / MANIFEST).exists():
        return None
    manifest: dict[str, Any] = read_json(out / MANIFEST)
    whole = (
        (out / CUTS).exists()
        and digest_of_file(out / CUTS) == manifest["cuts_sha256"]
        and len(list((out / "audio").glob("*.flac"))) >= manifest["conversations"]
    )
    return IngestResult(**known) if whole else None


def _refuse_nothing(corpus: str, out: Path, result: Catalogue) -> None:
    """Raises when no training conversation is left."""
    splits = [part["split"] for part in result.conversations]
    if "train" in splits:
        return
    said = (row for row in result.rejections if row.reason != "no text")  # a cause first, then what follows from it
    first = next(said, next(iter(result.rejections), None))
    why = f"; the first: {first.turn or first.audio}: {first.detail}" if first else ""
    what = "no conversation for training is left" if splits else "no record can be used"
    raise InputError(f"{corpus}: {what} ({len(result.rejections)} left out, see {out / 'rejected.jsonl'}){why}")


def prune(out: Path, parts: list[dict[str, Any]]) -> None:
    """Removes what belongs to no conversation of this corpus: older ones, and halves that a kill left behind."""
    keep = {part["file"] for part in parts} | {f"parts/{file_name(part['id'])}.json" for part in parts}
    for folder in ("audio", "parts"):
        for path in (out / folder).glob("*"):
            if f"{folder}/{path.name}" not in keep:
                path.unlink()


def _result(out: Path, manifest: Mapping[str, Any]) -> IngestResult:
    return IngestResult(
        out=str(out),
        digest=manifest["digest"],
        conversations=manifest["conversations"],
        turns=manifest["turns"],
        speech_seconds=manifest["speech_seconds"],
        speakers=manifest["speakers"],
        rejected=sum(manifest["rejected"].values()),
        reused=False,
        expires=manifest.get("expires"),
    )
