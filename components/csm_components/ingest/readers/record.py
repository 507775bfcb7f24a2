"""What every reader yields, and how a corpus is made of it.

A reader goes through a corpus's texts and yields a `TurnRecord` for each spoken turn, and a `BadRecord` for what
cannot be one. `assemble` holds the rules that all corpora share: an id is there once, times go forward, the sound is
there. What breaks one costs itself: it is left out with its reason and its file and line, and the others go on.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from csm_components.ingest.archives import file_of
from csm_components.ingest.records import Corpus, Reason, Rejection, SourceConversation, SourceTurn, Split, TurnRights


@dataclass(frozen=True, kw_only=True)
class TurnRecord:
    """One spoken turn, as its corpus describes it."""

    id: str
    conversation: str
    sound: str
    """Path relative to the corpus's folder, or `ARCHIVE::MEMBER` (see `archives`)."""
    text: str
    """Words alone; empty where the corpus has none."""
    speaker: str
    source: str
    """File, and line in it, that it was read from."""
    channel: int | None = None
    start: float | None = None
    """Seconds into the sound; none is its beginning."""
    end: float | None = None
    """Seconds into the sound; none is its end."""
    duration: float | None = None
    """Seconds, where the corpus says how long instead of until when."""
    language: str | None = None
    license: str | None = None
    split: Split | None = None
    voice: str | None = None
    origin: str | None = None
    tags: tuple[str, ...] = ()
    rights: TurnRights | None = None


@dataclass(frozen=True, kw_only=True)
class BadRecord:
    """What should have been a turn, and why it is none."""

    source: str
    reason: Reason
    detail: str
    id: str = ""
    conversation: str = ""
    sound: str = ""
    text: str = ""
    seconds: float = 0.0


Found = Iterator[TurnRecord | BadRecord]
"""What goes through a corpus yields."""


@dataclass(frozen=True, kw_only=True)
class CorpusReader:
    """One layout of corpora. Both functions are given the folder, which has the texts, and the names of its sounds."""

    name: str
    """As the setting data.layout takes it."""
    title: str
    license: str
    """Under which the corpus is given out."""
    layout: str
    """What lies where."""
    gives: str
    """What is known of a turn beside its sound."""
    reference: str
    """Where the corpus is described."""
    detect: Callable[[Path, Sequence[str]], bool]
    read: Callable[[Path, Sequence[str]], Corpus]
    rank: Literal["first", "named", "shape"] = "named"
    """When it is asked: what says itself how it is read comes first, a shape that any corpus may have last."""


def corpus_of(
    layout: str,
    records: Callable[[Path, Sequence[str]], Found],
    *,
    whole: bool = True,
    one_clock: bool = False,
    by_time: bool = True,
    keep_speaker_numbers: bool = False,
    speaker_names: Callable[[Path], dict[str, str]] = lambda _: {},
) -> Callable[[Path, Sequence[str]], Corpus]:
    """`CorpusReader.read` of a reader that yields records.

    Args:
        layout: name of the reader.
        records: yields them.
        whole: whether a conversation is all of its recording; else it is a stretch, which is cut out.
        one_clock: whether times count from one moment in all files of a conversation.
        by_time: whether turns of a conversation are in the order of their times; else in that of their records.
        keep_speaker_numbers: whether speakers that are called by small numbers keep them.
        speaker_names: names of people for the corpus's speaker labels, where it has a list of them.
    """

    def read(folder: Path, sounds: Sequence[str]) -> Corpus:
        return assemble(
            layout,
            records(folder, sounds),
            folder=folder,
            sounds=sounds,
            whole=whole,
            one_clock=one_clock,
            by_time=by_time,
            keep_speaker_numbers=keep_speaker_numbers,
            speaker_names=speaker_names(folder),
        )

    return read


def assemble(
    layout: str,
    found: Iterable[TurnRecord | BadRecord],
    *,
    folder: Path,
    sounds: Iterable[str],
    whole: bool = True,
    one_clock: bool = False,
    by_time: bool = True,
    keep_speaker_numbers: bool = False,
    speaker_names: dict[str, str] | None = None,
) -> Corpus:
    """The corpus that records make: conversations by id, and their turns in order.

    Args:
        layout: name of the reader.
        found: what it yields.
        folder: the corpus.
        sounds: names of all its sound files and archives.
        whole: see `corpus_of`.
        one_clock: see `corpus_of`.
        by_time: see `corpus_of`.
        keep_speaker_numbers: see `corpus_of`.
        speaker_names: names of people for the corpus's speaker labels.
    """
    known, seen = set(sounds), dict[str, str]()
    turns: dict[str, list[SourceTurn]] = {}
    splits: dict[str, Split | None] = {}
    rejections: list[Rejection] = []
    for record in found:
        if isinstance(record, TurnRecord):
            bad = _fault(record, folder, known, seen, splits.get(record.conversation, record.split))
        else:
            bad = record
        if bad is not None:
            rejections.append(_rejection(bad))
            continue
        assert isinstance(record, TurnRecord)
        seen[record.id] = record.source
        splits.setdefault(record.conversation, record.split)
        turns.setdefault(record.conversation, []).append(_turn(record))
    return Corpus(
        layout=layout,
        conversations=tuple(
            SourceConversation(
                id=name,
                turns=tuple(sorted(turns[name], key=lambda turn: turn.start or 0.0) if by_time else turns[name]),
                split=splits[name],
                whole=whole,
                one_clock=one_clock,
            )
            for name in sorted(turns)
        ),
        keep_speaker_numbers=keep_speaker_numbers,
        speaker_names=speaker_names or {},
        rejections=tuple(rejections),
    )


def _turn(record: TurnRecord) -> SourceTurn:
    start = record.start or 0.0
    return SourceTurn(
        id=record.id,
        text=record.text,
        speaker=record.speaker,
        audio=record.sound,
        channel=record.channel,
        start=record.start,
        duration=record.duration if record.end is None else round(record.end - start, 6),
        license=record.license,
        voice=record.voice,
        origin=record.origin,
        language=record.language,
        tags=record.tags,
        rights=record.rights,
    )


def _fault(
    record: TurnRecord, folder: Path, known: set[str], seen: dict[str, str], split: Split | None
) -> BadRecord | None:
    """What is wrong with a record; none when nothing is."""
    start, end = record.start or 0.0, record.end
    if record.duration is not None:
        end = start + record.duration
    length = 0.0 if end is None else round(max(0.0, end - start), 3)

    def bad(reason: Reason, detail: str) -> BadRecord:
        return BadRecord(
            source=record.source,
            reason=reason,
            detail=detail,
            id=record.id,
            conversation=record.conversation,
            sound=record.sound,
            text=record.text,
            seconds=length if math.isfinite(length) else 0.0,
        )

    if not record.id or not record.conversation or not record.speaker:
        return bad("damaged record", "names no id, conversation or speaker")
    if record.id in seen:
        return bad("twice", f"id {record.id} is there before ({seen[record.id]})")
    if "\ufffd" in record.text:
        return bad("wrong encoding", "its text holds U+FFFD: another program has lost a letter there")
    if not math.isfinite(start) or start < 0 or (end is not None and not (math.isfinite(end) and end > start)):
        until = "the end" if end is None else f"{end:g} s"
        return bad("damaged record", f"from {start:g} s to {until}: times are 0 or more, and go forward")
    if record.split != split:
        return bad("damaged record", f"is of {record.split}, but others of its conversation are of {split}")
    archive = posixpath.normpath(file_of(record.sound))
    if archive not in known and not (folder / archive).is_file():
        return bad("unreadable", f"{archive}: no such file")
    return None


def _rejection(bad: BadRecord) -> Rejection:
    return Rejection(
        conversation=bad.conversation,
        turn=bad.id or bad.source,
        audio=bad.sound,
        reason=bad.reason,
        detail=f"{bad.source}: {bad.detail}",
        seconds=bad.seconds,
        text=bad.text,
    )


class SoundIndex:
    """The sound files of a corpus by their file names, for texts that do not say in which folder one lies."""

    def __init__(self, sounds: Iterable[str]) -> None:
        self._by_name: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        for sound in sounds:
            path = PurePosixPath(sound)
            self._by_name.setdefault(path.name, sound)
            self._by_stem.setdefault(path.stem, sound)

    def named(self, name: str) -> str | None:
        """The file of this name, in whatever folder."""
        return self._by_name.get(name)

    def stem(self, stem: str) -> str | None:
        """The file of this name before its suffix."""
        return self._by_stem.get(stem)


def number(text: str) -> float:
    """A time in seconds; no number where it is none, which `assemble` refuses."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def relative(path: Path, folder: Path, line: int | None = None) -> str:
    """A file, and a line in it, as a person finds it in the corpus."""
    where = path.relative_to(folder).as_posix()
    return where if line is None else f"{where}:{line}"
