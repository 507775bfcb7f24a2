"""AMI meetings: `MEETING/audio/MEETING.Headset-N.wav`, and the annotations in NXT's XML.

- `corpusResources/meetings.xml`: of each meeting its speakers: nxt_agent (A-E), global_name (one over all meetings) and
  channel, which is the headset's number, not the letter's place;
- `segments/MEETING.A.segments.xml`: stretches of one speaker, with the range of words in each;
- `words/MEETING.A.words.xml`: `w` with starttime and endtime; `punc="true"` has no space before, `trunc="true"` is
  broken off; other elements, and `w` without times, are no words.

A meeting is a conversation, each speaker from the own headset, of which some are stereo. The split is the usual one by
names of meetings. Licence: CC-BY-4.0. (Carletta et al. 2005, https://groups.inf.ed.ac.uk/ami/corpus)
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from csm_components.ingest.readers.record import (
    BadRecord,
    CorpusReader,
    Found,
    SoundIndex,
    TurnRecord,
    corpus_of,
    number,
    relative,
)
from csm_components.ingest.readers.texts import EncodingError, parse_xml
from csm_components.ingest.records import Split
from csm_model.errors import InputError

_TEST = ("ES2004", "IS1009", "TS3003", "EN2002")
_VALIDATION = ("ES2011", "IS1008", "TS3004", "IB4001", "IB4002", "IB4003", "IB4004", "IB4010", "IB4011")
_ID = "{http://nite.sourceforge.net/}id"
_CHILD = "{http://nite.sourceforge.net/}child"
_RANGE = re.compile(r"#id\(([^)]*)\)(?:\.\.id\(([^)]*)\))?")


@dataclass(frozen=True)
class _Word:
    id: str
    text: str
    start: float
    end: float
    punctuation: bool
    broken_off: bool


def _resources(folder: Path) -> Path | None:
    return next(iter(sorted(folder.rglob("corpusResources/meetings.xml"))), None)


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there is a list of meetings."""
    return _resources(folder) is not None


def _split(meeting: str) -> Split:
    return "test" if meeting.startswith(_TEST) else "validation" if meeting.startswith(_VALIDATION) else "train"


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each segment with words."""
    resources = _resources(folder)
    assert resources is not None
    index, home = SoundIndex(sounds), resources.parent.parent
    try:
        meetings = parse_xml(resources)
    except (ET.ParseError, EncodingError) as error:
        raise InputError(f"{resources}: not the list of AMI's meetings ({error})") from None
    for meeting in meetings.iter("meeting"):
        name = meeting.get("observation", "")
        for speaker in meeting.iter("speaker"):
            agent = speaker.get("nxt_agent", "")
            segments = home / "segments" / f"{name}.{agent}.segments.xml"
            words = home / "words" / f"{name}.{agent}.words.xml"
            if not segments.is_file():
                continue  # a meeting of which this copy has no annotations
            headset = f"{name}.Headset-{speaker.get('channel')}.wav"
            sound = index.named(headset) or f"{name}/audio/{headset}"
            try:
                spoken, stretches = _words(words), parse_xml(segments)
            except EncodingError as error:
                yield BadRecord(
                    source=relative(segments, folder), reason="wrong encoding", detail=str(error), conversation=name
                )
                continue
            except (ET.ParseError, OSError) as error:
                yield BadRecord(
                    source=relative(segments, folder),
                    reason="damaged record",
                    detail=f"its segments or words cannot be read ({error})",
                    conversation=name,
                )
                continue
            for segment, said in _of_segments(stretches, spoken):
                text, broken_off = _sentence(said)
                if not text:
                    continue  # laughter and the like: no words
                yield TurnRecord(
                    id=segment.get(_ID, ""),
                    conversation=name,
                    sound=sound,
                    text=text,
                    speaker=speaker.get("global_name", "") or f"{name}-{agent}",
                    source=f"{relative(segments, folder)} ({segment.get(_ID, '')})",
                    start=number(segment.get("transcriber_start", "")),
                    end=number(segment.get("transcriber_end", "")),
                    language="en",
                    license="CC-BY-4.0",
                    split=_split(name),
                    tags=("broken off",) if broken_off else (),
                )


def _words(path: Path) -> list[_Word]:
    """The words of one speaker, in order."""
    return [
        _Word(
            id=item.get(_ID, ""),
            text=(item.text or "").strip(),
            start=number(item.get("starttime", "")),
            end=number(item.get("endtime", item.get("starttime", ""))),
            punctuation=item.get("punc") == "true",
            broken_off=item.get("trunc") == "true",
        )
        for item in parse_xml(path)
        if item.tag == "w" and item.get("starttime") and (item.text or "").strip()
    ]


def _of_segments(segments: ET.Element, words: list[_Word]) -> list[tuple[ET.Element, list[_Word]]]:
    """Each segment with its words: by the range that it names, else those whose middle is nearest to it."""
    items = list(segments.iter("segment"))
    if not any(item.find(_CHILD) is not None for item in items):
        return _by_time(items, words)
    order = {word.id: position for position, word in enumerate(words)}
    found = []
    for item in items:
        ends = _RANGE.search((child.get("href") or "") if (child := item.find(_CHILD)) is not None else "")
        first, last = (ends.group(1), ends.group(2) or ends.group(1)) if ends else ("", "")
        found.append((item, [word for word in words if _between(word.id, first, last, order)]))
    return found


def _between(name: str, first: str, last: str, order: dict[str, int]) -> bool:
    """Whether a word is in a range, whose ends may be no words (a laugh, a gap) and are then compared by number."""

    def place(item: str) -> int:
        digits = re.search(r"(\d+)$", item)
        return int(digits.group(1)) if digits else -1

    if first in order and last in order:
        return order[first] <= order[name] <= order[last]
    return bool(first) and place(first) <= place(name) <= place(last)


def _by_time(items: list[ET.Element], words: list[_Word]) -> list[tuple[ET.Element, list[_Word]]]:
    found: list[tuple[ET.Element, list[_Word]]] = [(item, []) for item in items]
    spans = [(number(item.get("transcriber_start", "")), number(item.get("transcriber_end", ""))) for item in items]
    for word in words if items else ():
        middle = (word.start + word.end) / 2
        away = [max(start - middle, middle - end, 0.0) for start, end in spans]
        found[away.index(min(away))][1].append(word)
    return found


def _sentence(words: list[_Word]) -> tuple[str, bool]:
    """Words as one text, and whether the last of them was broken off."""
    text = ""
    for word in words:
        text += word.text if word.punctuation or not text else f" {word.text}"
        if word.broken_off and not text.endswith("-"):
            text += "-"
    spoken = [word for word in words if not word.punctuation]
    return (text, spoken[-1].broken_off) if spoken else ("", False)


READER = CorpusReader(
    name="ami",
    title="AMI meetings",
    license="CC-BY-4.0",
    layout="MEETING/audio/MEETING.Headset-N.wav, corpusResources/meetings.xml, segments/, words/",
    gives="text, speaker over meetings, own channel, times, splits",
    reference="https://groups.inf.ed.ac.uk/ami/corpus",
    detect=detect,
    read=corpus_of("ami", records, one_clock=True),
)
