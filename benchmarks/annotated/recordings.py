"""Recordings whose truth is known: the demo's talks, acted dialogues of a game, and a telephone call.

| set | what it is | from |
| --- | --- | --- |
| demo | five talks of two packaged voices, one after another | `deploy/demo/corpus` |
| sides | the same, each voice in a channel of its own, a twentieth of it in the other's | |
| acted | dialogues of two actors, 11 kHz, clips half a second apart | Debian's flight-of-the-amazon-queen |
| call | 30 s of a real telephone call, of one channel | `pyannote/audio/sample` of pyannote-audio's wheel |
"""

from __future__ import annotations

import io
import itertools
import json
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import resample_poly

from annotated.scores import Said
from csm_components.annotate.recordings import RATE, Samples

DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "corpus"
PAUSE_S = 0.5
_FRAME = RATE // 100
TALKS = 5
"""Of the demo, in a recording."""


class Recorded(NamedTuple):
    """A recording with its truth."""

    name: str
    channels: Sequence[Samples]
    """At 16 kHz."""
    turns: list[Said]


def laid_out(name: str, clips: Sequence[tuple[Samples, str, str]]) -> Recorded:
    """Clips (sound, speaker, text) one after another; a clip begins and ends within 40 dB of its loudest 10 ms."""
    gap, at, pieces, turns = np.zeros(round(PAUSE_S * RATE), np.float32), 0, [], []
    for sound, speaker, text in clips:
        levels = np.square(sound[: len(sound) // _FRAME * _FRAME]).reshape(-1, _FRAME).mean(axis=1)
        loud = np.flatnonzero(levels > 1e-4 * levels.max()) * _FRAME
        turns.append(Said((at + loud[0]) / RATE, (at + loud[-1] + _FRAME) / RATE, speaker, text))
        pieces += [sound, gap]
        at += len(sound) + len(gap)
    return Recorded(name, [np.concatenate(pieces)], turns)


def demo(count: int, split: str = "test") -> Iterator[Recorded]:
    """Talks of the demo, some in each recording; they are its test split, and validation."""
    rows = [json.loads(line) for line in (DEMO / "supervisions.jsonl").read_text().splitlines()]
    talks = [
        list(group)
        for name, group in itertools.groupby(rows, key=lambda row: row["recording_id"])
        if f"-{split}-" in name
    ]
    for number in range(min(count, len(talks) // TALKS)):
        clips = []
        for talk in talks[number * TALKS : (number + 1) * TALKS]:
            sound, rate = soundfile.read(DEMO / "audio" / f"{talk[0]['recording_id']}.opus", dtype="float32")
            sound = resample_poly(sound, RATE, rate).astype(np.float32)
            for row in talk:
                place = slice(round(row["start"] * RATE), round((row["start"] + row["duration"]) * RATE))
                clips.append((sound[place], row["speaker"], row["text"]))
        yield laid_out(f"demo-{number}", clips)


def sides(recordings: Iterator[Recorded], leak: float = 0.05) -> Iterator[Recorded]:
    """The same with each speaker in a channel of its own."""
    for recording in recordings:
        (whole,) = recording.channels
        names = sorted({turn.speaker for turn in recording.turns})
        own = np.zeros((len(names), len(whole)), np.float32)
        for turn in recording.turns:
            place = slice(round(turn.start * RATE), round(turn.end * RATE))
            own[names.index(turn.speaker), place] = whole[place]
        noise = np.random.default_rng(0).normal(0, 1e-3, own.shape).astype(np.float32)
        yield Recorded(f"{recording.name}-sides", list(own + leak * own[::-1] + noise), recording.turns)


def acted(game: Path, count: int, skip: int = 18, least: int = 8) -> Iterator[Recorded]:
    """Dialogues of the game's data file, `queen.1c`: options of a talk and their replies, in order.

    The longest talks come first; those that the bounds of `annotate.who` were chosen on are left out. The
    format: a table of names, places and sizes; a talk is a tree of six options a level, whose texts are cut by `*NN`
    into segments, and a clip a segment.
    """
    data = game.read_bytes()
    (entries,) = struct.unpack_from(">H", data, 13)
    table = {}
    for number in range(entries):
        name, _, offset, size = struct.unpack_from(">12sBII", data, 15 + 21 * number)
        table[name.split(b"\0")[0].decode().strip()] = (offset, size)
    found = []
    for name in sorted(table):
        if name.endswith(".DOG"):
            offset, size = table[name]
            lines = list(_lines(data[offset : offset + size], table, name[:-4]))
            if len(lines) >= least:
                found.append((name[:-4], lines))
    found.sort(key=lambda row: -len(row[1]))
    for name, lines in found[skip : skip + count]:
        clips = []
        for file, speaker, text in lines[:24]:
            offset, size = table[file]
            sound, rate = soundfile.read(io.BytesIO(data[offset : offset + size]), dtype="float32")
            clips.append((resample_poly(sound, RATE, rate).astype(np.float32), speaker, text))
        yield laid_out(f"acted-{name}", clips)


def _lines(dog: bytes, table: dict[str, tuple[int, int]], person: str) -> Iterator[tuple[str, str, str]]:
    """The clips of a talk with whose they are and what they say: an option of the hero, then its reply."""
    body = dog[20:]
    levels, _, key = struct.unpack_from(">3h", body, 0)
    (person_at,) = struct.unpack_from(">H", body, 22)
    heroes = dict(_texts(body, 32 + abs(levels) * 96, person_at))
    others = dict(_texts(body, person_at, len(body)))
    for number in sorted(heroes.keys() | others.keys()):
        for texts, letter, speaker in ((heroes, "J", "JOE"), (others, "P", person)):
            for place, text in enumerate(_segments(texts.get(number, ""))):
                file = f"{key:2d}{number:4x}{letter}{place + 1:x}.SB".replace(" ", "0").upper()
                if text and not text.endswith(".CUT") and file in table:
                    yield file, speaker, text


def _texts(body: bytes, at: int, end: int) -> Iterator[tuple[int, str]]:
    while at + 5 <= end:
        number, length = struct.unpack_from(">hB", body, at + 2)
        yield number, body[at + 5 : at + 5 + length].decode("cp437")
        at += 5 + length
        at += -at % 4


def _segments(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\*[A-Z]{0,2}\d\d?", text)]


def call(folder: Path) -> Iterator[Recorded]:
    """The telephone call: turns by the .rttm, texts by the .stm."""
    sound, rate = soundfile.read(folder / "sample.wav", dtype="float32")
    turns = []
    for line in (folder / "sample.rttm").read_text().splitlines():
        _, _, _, start, seconds, _, _, speaker, *_ = line.split()
        turns.append(Said(float(start), float(start) + float(seconds), speaker, ""))
    for line in (folder / "sample.stm").read_text().splitlines():
        _, _, speaker, start, end, text = line.split(maxsplit=5)
        turns.append(Said(float(start), float(end), speaker, text))
    yield Recorded("call", [resample_poly(sound, RATE, rate).astype(np.float32)], turns)
