"""Transcripts of podcasts: WebVTT, SubRip, the JSON of Podcasting 2.0, and HTML with `<cite>` and `<time>`.

Each function is given a whole text and yields its lines of speech; a piece that breaks its format is a `BadCue`.
(https://github.com/Podcastindex-org/podcast-namespace/blob/main/docs/examples/transcripts/transcripts.md)
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any


@dataclass(frozen=True)
class Cue:
    """Words between two times."""

    line: int
    """Of the transcript, from 1; in JSON and HTML the number of the piece."""
    start: float
    """Seconds."""
    end: float | None
    speaker: str | None
    text: str


@dataclass(frozen=True)
class BadCue:
    """A piece that cannot be read."""

    line: int
    problem: str


Cues = Iterator[Cue | BadCue]

_TIMES = re.compile(r"\s*((?:\d+:)?\d{1,2}:\d{2}[.,]\d{3})\s*-->\s*((?:\d+:)?\d{1,2}:\d{2}[.,]\d{3})\b.*")
_VOICE = re.compile(r"<v(?:\.[^ \t>]*)?[ \t]+([^>]*)>")
_PREFIX = re.compile(r"(?:\[([^\]]{1,60})\]|([A-Z][\w.'-]*(?: [A-Z][\w.'-]*){0,3})):\s+(.+)", re.DOTALL)
"""`[Name]:`, or `Name:` of one to four words with capitals, which is a name where it comes twice: "Note:" is none."""


def seconds(text: str) -> float:
    """`1:02:03.4`, `02:03,4` or `63` in seconds; raises `ValueError` for others."""
    total = 0.0
    for part in text.strip().replace(",", ".").split(":"):
        total = total * 60 + float(part)
    return total


def vtt_or_srt(text: str) -> Cues:
    """The cues of a WebVTT or SubRip file; a speaker goes on until another is named."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    begun = Counter(found.group(2) for line in lines if (found := _PREFIX.fullmatch(_plain(line))))
    names = {name for name, count in begun.items() if count > 1}
    speaker: str | None = None
    block: list[tuple[int, str]] = []
    for number, line in [*enumerate(lines, 1), (len(lines) + 1, "")]:
        if line.strip():
            block.append((number, line))
            continue
        for cue in _cue(block, names):
            if isinstance(cue, Cue):
                speaker = cue.speaker or speaker
                cue = replace(cue, speaker=speaker)
            yield cue
        block = []


def _cue(block: list[tuple[int, str]], names: set[str]) -> Cues:
    """One block of lines: its number or name, its times, its words; headers, notes and styles are no cue."""
    if not block or block[0][1].startswith(("WEBVTT", "NOTE", "STYLE", "REGION")):
        return
    at = next((place for place, (_, line) in enumerate(block[:2]) if "-->" in line), None)
    if at is None:
        yield BadCue(block[0][0], "names no times (START --> END)")
        return
    number, line = block[at]
    times = _TIMES.fullmatch(line)
    if times is None:
        yield BadCue(number, f"times {line.strip()!r} are no START --> END")
        return
    said = "\n".join(line for _, line in block[at + 1 :])
    start, end = seconds(times.group(1)), seconds(times.group(2))
    pieces = _VOICE.split(said)  # words, name, words, name, words ...
    voices = [(None, pieces[0]), *zip(pieces[1::2], pieces[2::2], strict=True)]
    spoken = [(name, words) for name, marked in voices if (words := _plain(marked))]
    length = sum(len(words) for _, words in spoken)
    for name, words in spoken:  # several voices in one cue share its time by their letters
        until = start + (end - start) * len(words) / length if length and len(spoken) > 1 else end
        named, words = _named(words, names) if name is None else (name.strip(), words)
        yield Cue(number, start, round(until, 3), named, words)
        start = round(until, 3)


def _plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split())


def _named(text: str, names: set[str]) -> tuple[str | None, str]:
    """The speaker that a text begins with, and the rest of it; without brackets it must be one of `names`."""
    found = _PREFIX.fullmatch(text)
    if found is None or not (found.group(1) or found.group(2) in names):
        return None, text
    return found.group(1) or found.group(2), found.group(3)


def podcast_json(text: str) -> Cues:
    """The segments of a Podcasting 2.0 transcript; raises `ValueError` for what is none."""
    value = json.loads(text)
    segments = value.get("segments") if isinstance(value, dict) else None
    if not isinstance(segments, list):
        raise ValueError("has no list `segments`")
    speaker: str | None = None
    for number, segment in enumerate(segments, 1):
        try:
            speaker = segment.get("speaker") or speaker
            end: Any = segment.get("endTime")
            yield Cue(
                number,
                float(segment["startTime"]),
                None if end is None else float(end),
                speaker,
                " ".join(str(segment["body"]).split()),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield BadCue(number, f"not a segment ({type(error).__name__}: {error})")


class _Transcript(HTMLParser):
    """Collects `<cite>`, `<time>` and `<p>` in their order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str]] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begins a piece."""
        if tag in ("cite", "time", "p"):
            self._inside = tag
            self.found.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        """Ends a piece."""
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        """Words of a piece."""
        if self._inside is not None:
            self.found[-1] = (self._inside, self.found[-1][1] + data)


def podcast_html(text: str) -> Cues:
    """The paragraphs of an HTML transcript; each lasts until the next one's time."""
    parser = _Transcript()
    parser.feed(text)
    parser.close()
    speaker: str | None = None
    start: float | None = None
    cues: list[Cue | BadCue] = []
    for number, (tag, raw) in enumerate(parser.found, 1):
        words = " ".join(raw.split())
        if tag == "cite":
            speaker = words.rstrip(":").strip() or speaker
        elif tag == "time":
            try:
                start = seconds(words)
            except ValueError:
                start = None
                cues.append(BadCue(number, f"time {words!r} is no HOURS:MINUTES:SECONDS"))
        elif words and start is not None:
            cues.append(Cue(number, start, None, speaker, words))
            start = None
        elif words and cues and isinstance(cues[-1], Cue):  # a second paragraph under one time
            cues[-1] = replace(cues[-1], text=f"{cues[-1].text} {words}")
    for place, cue in enumerate(cues):
        if isinstance(cue, Cue):
            following = (other.start for other in cues[place + 1 :] if isinstance(other, Cue))
            cue = replace(cue, end=next(following, None))
        yield cue


FORMATS: dict[str, Callable[[str], Cues]] = {
    ".vtt": vtt_or_srt,
    ".srt": vtt_or_srt,
    ".json": podcast_json,
    ".html": podcast_html,
    ".htm": podcast_html,
}
"""By a file's suffix, the best first."""
TYPES = {
    "text/vtt": ".vtt",
    "application/srt": ".srt",
    "application/x-subrip": ".srt",
    "text/srt": ".srt",
    "application/json": ".json",
    "text/html": ".html",
}
"""Suffix by the type that a feed names."""
