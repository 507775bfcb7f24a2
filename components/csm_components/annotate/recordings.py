"""Recordings: a sound file decoded once, to 16 kHz, and then read by channel and span.

A file of eight hours fits in no worker's memory, so the samples lie in a scratch folder, two bytes each, and whoever
wants a span reads it from there: at 16 kHz, as recognisers hear, or at the model's 24 kHz. Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csm_components.ingest.audio import Samples, to_pcm
from csm_components.ingest.decoding import OpenSound, open_sound
from csm_components.ingest.resampling import Resampler
from csm_model.errors import AudioError
from csm_model.frames import SAMPLE_RATE

VERSION = 1
"""Of what this module makes; a change of it makes every recording's part anew."""
RATE = 16_000
"""What recognisers hear, Hz."""
FINE_RATE = SAMPLE_RATE
_BYTES = 2
_FULL_SCALE = 32_768.0


class Span(NamedTuple):
    """A stretch of a recording, seconds from its beginning."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


def common(one: Span, other: Span) -> float:
    """Seconds that two spans share."""
    return max(0.0, min(one.end, other.end) - max(one.start, other.start))


def total(spans: list[Span]) -> float:
    """Seconds of spans that do not overlap."""
    return sum(span.seconds for span in spans)


@dataclass(frozen=True, kw_only=True)
class DecodedSound:
    """The samples of one file."""

    rate: int
    """Of the file, Hz."""
    codec: str
    """How the file's samples are packed, as the library that reads them calls it."""
    channels: int
    samples: int
    """Of one channel, at 16 kHz."""
    scratch: Path
    """Holds them, a file a channel and rate."""

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.samples / RATE

    def read(self, channel: int | None, span: Span | None = None, rate: int = RATE) -> Samples:
        """Sound `[S]` of one channel, or the mean of all where None; of a span, or of all."""
        first, last = 0, self.samples * rate // RATE
        if span is not None:
            first, last = (min(max(0, round(each * rate)), last) for each in span)
        chosen = range(self.channels) if channel is None else (channel,)
        mixed = np.zeros(max(0, last - first), np.float32)
        for number in chosen:
            path, count = self.scratch / _file(number, rate), len(mixed)
            found = np.fromfile(path, "<i2", count=count, offset=first * _BYTES)
            mixed[: len(found)] += found
        return mixed / np.float32(_FULL_SCALE * len(chosen))

    def stretches(self, seconds: float, *, overlap: float = 0.0) -> Iterator[Span]:
        """The whole recording in stretches of at most so many seconds, each `overlap` into the next."""
        start = 0.0
        while True:
            yield Span(start, min(start + seconds, self.seconds))
            if start + seconds >= self.seconds:
                return
            start += seconds - overlap


@contextmanager
def decoded(path: Path, scratch: Path) -> Iterator[DecodedSound]:
    """A sound file's samples, for as long as the block lasts; in constant memory, whatever its length.

    Args:
        path: the file, or `ARCHIVE::MEMBER`.
        scratch: an empty folder for them.

    Raises:
        AudioError: there is no such file, or it holds no sound that can be read.
    """
    with open_sound(path) as sound:
        samples = _unpack(sound, scratch)
        if not samples:
            raise AudioError(f"{path}: holds no sound")
        yield DecodedSound(
            rate=sound.rate, codec=sound.codec, channels=sound.channels, samples=samples, scratch=scratch
        )


def _unpack(sound: OpenSound, scratch: Path) -> int:
    """Writes a file a channel and rate; returns the samples of one at 16 kHz."""
    with ExitStack() as stack:
        lanes = [
            (number, rate, Resampler(sound.rate, rate), stack.enter_context((scratch / _file(number, rate)).open("wb")))
            for number in range(sound.channels)
            for rate in (RATE, FINE_RATE)
        ]
        for block in sound.blocks():
            for number, _, resampler, file in lanes:
                file.write(_packed(resampler.push(np.ascontiguousarray(block[:, number]))))
        for _, _, resampler, file in lanes:
            file.write(_packed(resampler.finish()))
    return (scratch / _file(0, RATE)).stat().st_size // _BYTES


def _packed(samples: Samples) -> bytes:
    return to_pcm(samples).astype("<i2").tobytes()


def _file(channel: int, rate: int) -> str:
    return f"{channel}-{rate}.pcm"
