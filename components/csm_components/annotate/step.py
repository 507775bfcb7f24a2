"""The step annotate: recordings, with or without texts, to who says what and when (`annotations`).

Every recording is a part of its own, keyed by the content of its file, what was asked, and the versions of the stages:
what is committed is taken as it is, whichever run made it, and a step that was killed loses the recordings that were
in work. A recording that cannot be read costs itself, and the manifest counts it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from csm_components import made
from csm_components.annotate.annotations import FORMAT, MANIFEST, RECORDINGS, TURNS, write_rows
from csm_components.annotate.duplicates import Duplicates, Fingerprint
from csm_components.annotate.knobs import AnnotateSettings
from csm_components.annotate.recording import STAGES, Asked, RecordingTask, annotate_recording, committed
from csm_components.annotate.words import recogniser_digest, recogniser_folder
from csm_components.events import progress as tell
from csm_components.ingest.archives import file_of, is_archive
from csm_components.ingest.corpora import CorpusFiles
from csm_components.ingest.layouts import is_described, read_corpus
from csm_components.ingest.records import SourceTurn
from csm_components.settings import worker_count
from csm_components.workers import run_parallel
from csm_model.errors import InputError
from csm_model.files import copy_file, digest_of, digest_of_file, known_json, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class AnnotateResult:
    """What annotate made; JSON-able."""

    out: str
    digest: str
    recordings: int
    left_out: int
    """Recordings that could not be read."""
    turns: int
    sound_seconds: float
    speech_seconds: float
    reused: bool
    """Whether the committed result of an earlier run was taken as it is."""


def annotate(
    files: CorpusFiles,
    out: Path,
    settings: AnnotateSettings,
    *,
    layout: str | None = None,
    kept: Path | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> AnnotateResult:
    """Annotates every recording of a corpus.

    Args:
        files: the corpus.
        out: folder for the result; may hold part of one from a run that was killed.
        settings: what is asked.
        layout: name of the corpus's reader; without it, the one that recognises it, if any.
        kept: folder that parts of recordings are kept in for runs with other folders; none keeps none.
        workers: processes; `CSM_WORKERS` or one a core without it.
        console: where progress goes; standard error without it.

    Raises:
        InputError: there is no sound, or none of it can be read.
        MissingDependencyError: what reads speech is not installed.
    """
    console = console or Console(stderr=True)
    tasks = plan_annotate(files, out, settings, layout=layout)
    inputs = inputs_of(tasks)
    if (known := committed_result(out, inputs)) is not None:
        return known
    made.forget(out)
    (out / MANIFEST).unlink(missing_ok=True)
    if kept is not None:
        for task in tasks:
            _take(task, kept)

    def keep(task: RecordingTask) -> None:
        if kept is not None:
            copy_file(task.part, _kept_part(kept, task))

    annotate_all(files, tasks, workers=workers, console=console, on_part=keep)
    return finish(out, tasks, inputs, console=console)


def _kept_part(kept: Path, task: RecordingTask) -> Path:
    return kept / task.key[:2] / f"{task.key}.json"


def _take(task: RecordingTask, kept: Path) -> None:
    """Takes what another run has made of the same recording, asked the same."""
    there = _kept_part(kept, task)
    if committed(task) is None and (known_json(there) or {}).get("key") == task.key:
        copy_file(there, task.part)


def plan_annotate(
    files: CorpusFiles, out: Path, settings: AnnotateSettings, *, layout: str | None = None
) -> list[RecordingTask]:
    """A task for each recording of a corpus, in the order of their names: those its texts name, and all other sound."""
    given: dict[str, list[SourceTurn]] = {}
    if layout is not None or is_described(files.folder, files.sounds):
        corpus = read_corpus(files.folder, list(files.sounds), layout)
        for source in corpus.conversations:
            for turn in source.turns:
                given.setdefault(turn.audio, []).append(turn)
    named = {file_of(audio) for audio in given}
    alone = [sound for sound in files.sounds if sound not in named and not is_archive(sound)]
    if not given and not alone:
        raise InputError(f"{files.folder}: holds no sound to annotate; check the path")
    asked = _asked(settings)
    sums: dict[str, str] = {}
    tasks = []
    for audio in sorted({*given, *alone}):
        name = file_of(audio)
        if name not in sums:
            sums[name] = files.digest(name)
        tasks.append(
            RecordingTask(
                audio=audio,
                sha256=sums[name],
                corpus=files.folder,
                out=out,
                asked=asked,
                size=files.size(name),
                given=tuple(given.get(audio, ())),
            )
        )
    return tasks


def _asked(settings: AnnotateSettings) -> Asked:
    recogniser_folder(settings.recogniser)
    return Asked(
        recogniser=settings.recogniser,
        recogniser_digest=recogniser_digest(settings.recogniser),
        language=settings.language,
        speakers=settings.speakers,
        vad=settings.vad,
        channels=settings.channels,
        pause=settings.pause,
    )


def inputs_of(tasks: Iterable[RecordingTask]) -> str:
    """Digest of all that annotations are made of."""
    return digest_of([FORMAT, {task.audio: task.key for task in tasks}])


def annotate_all(
    files: CorpusFiles,
    tasks: Sequence[RecordingTask],
    *,
    workers: int | None,
    console: Console,
    on_part: Callable[[RecordingTask], None] = lambda _: None,
) -> None:
    """Annotates the recordings that are not committed yet, the longest first, with progress.

    Args:
        files: the corpus.
        tasks: its recordings.
        workers: processes.
        console: where progress goes.
        on_part: called with each recording that is now committed.
    """
    todo = sorted((task for task in tasks if committed(task) is None), key=lambda task: (-task.size, task.audio))
    files.fetch(task.audio for task in todo)
    by_audio = {task.audio: task for task in todo}
    pace = _Pace(total=len(tasks), done=len(tasks) - len(todo), left=sum(task.size for task in todo))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("annotate", total=len(tasks), completed=pace.done)
        for part in run_parallel(annotate_recording, todo, workers=min(worker_count(workers), len(todo))):
            pace.advance(part["size"], part["recording"].get("seconds", 0.0))
            on_part(by_audio[part["recording"]["audio"]])
            progress.update(bar, completed=pace.done, description=pace.words)
            tell(pace.words)


class _Pace:
    """How far it is, how fast, and what is left."""

    def __init__(self, *, total: int, done: int, left: int) -> None:
        self._total, self.done, self._left = total, done, left
        self._begun, self._bytes, self._seconds = time.monotonic(), 0, 0.0

    def advance(self, size: int, seconds: float) -> None:
        """One more recording, of so many bytes and seconds."""
        self.done += 1
        self._bytes += size
        self._left -= size
        self._seconds += seconds

    @property
    def words(self) -> str:
        """In a line."""
        took = max(1e-3, time.monotonic() - self._begun)
        line = f"{self.done} of {self._total} recordings, {self._seconds / 3600:.2f} hours of sound"
        line += f", {self._seconds / took:.1f} hours an hour"
        if self.done < self._total and self._bytes:
            line += f", about {took * self._left / self._bytes / 60:.0f} min left"
        return line


def finish(out: Path, tasks: Sequence[RecordingTask], inputs: str, *, console: Console) -> AnnotateResult:
    """Writes the tables of all recordings, which are committed in `out`; the manifest last.

    Raises:
        InputError: no recording can be read.
    """
    recordings: list[dict[str, Any]] = []

    seen = Duplicates()

    def turns() -> Iterable[dict[str, Any]]:
        for task in tasks:
            part = read_json(task.part)
            recordings.append(part["recording"])
            for row in part["turns"]:
                if (first := seen.add(row["id"], Fingerprint(*row.pop("fingerprint")))) is not None:
                    row["figures"]["duplicate_of"] = first
                yield row

    count = write_rows(out / TURNS, turns())
    write_rows(out / RECORDINGS, recordings)
    bad = [row for row in recordings if "reason" in row]
    for row in bad[:10]:
        console.print(f"left out: {row['reason']}", markup=False, highlight=False)
    if len(bad) == len(recordings):
        raise InputError(f"none of {len(recordings)} recordings can be annotated; the first: {bad[0]['reason']}")
    keep = {task.part.name for task in tasks}
    for path in (out / "parts").glob("*"):
        if path.name not in keep:
            path.unlink()
    sha256 = {name: digest_of_file(out / name) for name in (RECORDINGS, TURNS)}
    manifest = {
        "format": FORMAT,
        "kind": "annotations",
        "digest": digest_of([FORMAT, sha256]),
        "inputs": inputs,
        "sha256": sha256,
        "stages": STAGES,
        "recordings": len(recordings) - len(bad),
        "left_out": len(bad),
        "turns": count,
        "sound_seconds": round(sum(row.get("seconds", 0.0) for row in recordings), 3),
        "speech_seconds": round(sum(row.get("speech_seconds", 0.0) for row in recordings), 3),
        "speakers": dict(sorted(Counter(str(row["speakers"]) for row in recordings if "speakers" in row).items())),
    }
    write_json(out / MANIFEST, manifest)
    console.print(
        f"{manifest['turns']} turns in {manifest['sound_seconds'] / 3600:.2f} hours of {manifest['recordings']} "
        f"recordings; {len(bad)} cannot be read",
        highlight=False,
    )
    result = _result(out, manifest)
    made.commit(out, "annotate", inputs, result)
    return result


def committed_result(out: Path, inputs: str) -> AnnotateResult | None:
    """The result of an earlier run over the same inputs, where all of it is still there."""
    known = made.committed(out, inputs)
    return AnnotateResult(**known) if known is not None else None


def _result(out: Path, manifest: dict[str, Any]) -> AnnotateResult:
    return AnnotateResult(
        out=str(out),
        digest=manifest["digest"],
        recordings=manifest["recordings"],
        left_out=manifest["left_out"],
        turns=manifest["turns"],
        sound_seconds=manifest["sound_seconds"],
        speech_seconds=manifest["speech_seconds"],
        reused=False,
    )
