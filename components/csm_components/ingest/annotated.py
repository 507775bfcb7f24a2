"""An annotated corpus: what annotate has found in its sound, put to what its own texts say.

A recording that no text names has its turns from the annotations; its conversations are windows of 20 to 120 s, in
each of which speakers are 0, 1, ... by first appearance. Turns that the corpus tells of stay what they are: they get
what was heard in them, and their figures; one without a text gets the one that was heard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from csm_components.annotate.annotations import RECORDINGS, TURNS, read_rows
from csm_components.annotate.recordings import Span
from csm_components.annotate.windows import make_windows
from csm_components.ingest.layouts import is_described, read_corpus
from csm_components.ingest.records import Corpus, Rejection, SourceConversation, SourceTurn
from csm_components.ingest.splits import make_splits

LAYOUT = "annotations"
ENOUGH = 3
"""Recordings from which on each is in one split alone; fewer could not fill three."""


def read_annotated(folder: Path, sounds: Sequence[str], annotations: Path, layout: str | None = None) -> Corpus:
    """Reads a corpus with its annotations.

    Args:
        folder: the corpus.
        sounds: what `find_sounds` found in it.
        annotations: folder that annotate wrote.
        layout: name of the reader to use; without it, the one that recognises the folder, if any.

    Raises:
        ArtifactError: the annotations are of another format.
        DigestError: they are damaged.
    """
    told = read_corpus(folder, sounds, layout) if layout or is_described(folder, sounds) else None
    known = {turn.id for source in told.conversations for turn in source.turns} if told else set[str]()
    heard: dict[str, Mapping[str, Any]] = {}
    windows: list[tuple[str, SourceConversation]] = []
    spoken: set[str] = set()
    for audio, rows in groupby(read_rows(annotations, TURNS), key=lambda row: str(row["audio"])):
        spoken.add(audio)
        found = []
        for row in rows:
            if row["id"] in known:
                heard[row["id"]] = row
            elif row["text"]:
                found.append(row)
        windows += [(audio, source) for source in _conversations(audio, found)]
    rejections = list(_left_out(annotations, spoken))
    if told is None:
        return Corpus(
            layout=LAYOUT,
            conversations=tuple(_split(windows)),
            keep_speaker_numbers=True,
            speaker_names={},
            rejections=tuple(rejections),
        )
    sources = [_with_heard(source, heard) for source in told.conversations]
    return replace(
        told,
        conversations=tuple(sorted([*sources, *(source for _, source in windows)], key=lambda source: source.id)),
        rejections=(*told.rejections, *rejections),
    )


def _conversations(audio: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[SourceConversation]:
    """The windows of a recording."""
    for number, window in enumerate(make_windows([Span(row["start"], row["end"]) for row in rows])):
        mine = rows[window.first : window.last]
        labels = {speaker: str(place) for place, speaker in enumerate(dict.fromkeys(row["speaker"] for row in mine))}
        yield SourceConversation(
            id=f"{audio}-w{number:04}",
            turns=tuple(_turn(row, labels[row["speaker"]]) for row in mine),
            whole=False,
        )


def _turn(row: Mapping[str, Any], speaker: str) -> SourceTurn:
    return SourceTurn(
        id=row["id"],
        text=row["text"],
        speaker=speaker,
        audio=row["audio"],
        channel=row["channel"],
        start=row["start"],
        duration=round(row["end"] - row["start"], 6),
        **_told(row),
    )


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the annotations say of a turn beside its words and times."""
    language = row["language"]
    figures = row["figures"] | ({"overlap": row["overlap"]} if "overlap" in row else {})
    return {
        "language": language.get("given") or language.get("text") or language.get("sound"),
        "tags": tuple(row.get("tags", ())),
        "text_heard": row["text_heard"],
        "figures": figures or None,
    }


def _with_heard(source: SourceConversation, heard: Mapping[str, Mapping[str, Any]]) -> SourceConversation:
    """A conversation of the corpus with what was heard in its turns."""
    return replace(
        source,
        turns=tuple(
            replace(turn, text=turn.text or heard[turn.id]["text"], **_told(heard[turn.id]))
            if turn.id in heard
            else turn
            for turn in source.turns
        ),
    )


def _split(windows: Sequence[tuple[str, SourceConversation]]) -> Iterator[SourceConversation]:
    """Windows in the order of their ids; those of a recording, and so its people, are all in one split."""
    audios = list(dict.fromkeys(audio for audio, _ in windows))
    splits = make_splits(audios) if len(audios) >= ENOUGH else {}
    for audio, source in sorted(windows, key=lambda row: row[1].id):
        yield replace(source, split=splits.get(audio))


def _left_out(annotations: Path, spoken: set[str]) -> Iterator[Rejection]:
    """Recordings that gave no turn, and why."""
    for row in read_rows(annotations, RECORDINGS):
        if row["audio"] not in spoken:
            unreadable = "reason" in row
            yield Rejection(
                conversation="",
                turn="",
                audio=row["audio"],
                reason="unreadable" if unreadable else "no text",
                detail=row["reason"] if unreadable else "nobody is heard to speak in it",
                seconds=round(row.get("seconds", 0.0), 3),
            )
