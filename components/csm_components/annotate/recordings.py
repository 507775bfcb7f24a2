"""Recordings: a sound file decoded once, to 16 kHz, and then read by channel and span.

A file of eight hours fits in no worker's memory, so the samples lie in a scratch folder, two bytes each, and whoever
wants a span reads it from there: at 16 kHz, as recognisers hear, or at the model's 24 kHz. Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_components.ingest.archives import member_of, open_member
from csm_model.errors import AudioError, MissingDependencyError
from csm_model.frames import SAMPLE_RATE

VERSION = 1
"""Of what this module makes; a change of it makes every recording's part anew."""
RATE = 16_000
"""What recognisers hear, Hz."""
FINE_RATE = SAMPLE_RATE
Samples = NDArray[np.float32]
"""Sound, -1 to 1."""
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
    """As FFmpeg calls it."""
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
        MissingDependencyError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingDependencyError("package av is not installed; install csm-foundry[eval]") from None
    packed = member_of(str(path)) is not None
    if not packed and not path.is_file():
        raise AudioError(f"{path}: no such file")
    source: Any = open_member(str(path)) if packed else str(path)
    try:
        with av.open(source, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: holds no sound")
            stream = container.streams.audio[0]
            channels = int(stream.codec_context.layout.nb_channels)
            samples = _unpack(container, stream, scratch, channels)
            sound = DecodedSound(
                rate=int(stream.codec_context.sample_rate),
                codec=str(stream.codec_context.name),
                channels=channels,
                samples=samples,
                scratch=scratch,
            )
    except (av.FFmpegError, ValueError, EOFError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise AudioError(f"{path}: cannot be read as sound ({reason})") from None
    if not sound.samples:
        raise AudioError(f"{path}: holds no sound")
    yield sound


def _unpack(container: Any, stream: Any, scratch: Path, channels: int) -> int:
    """Writes a file a channel and rate; returns the samples of one at 16 kHz."""
    import av

    resamplers = {rate: av.AudioResampler(format="s16p", rate=rate) for rate in (RATE, FINE_RATE)}
    samples = 0
    with ExitStack() as stack:
        files = {
            (number, rate): stack.enter_context((scratch / _file(number, rate)).open("wb"))
            for number in range(channels)
            for rate in resamplers
        }
        for frame in _frames(container, stream):
            for rate, resampler in resamplers.items():
                for piece in resampler.resample(frame):
                    block = piece.to_ndarray()  # [C, S]
                    for number in range(channels):
                        files[number, rate].write(np.ascontiguousarray(block[number], "<i2").tobytes())
                    samples += block.shape[1] if rate == RATE else 0
    return samples


def _file(channel: int, rate: int) -> str:
    return f"{channel}-{rate}.pcm"


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream, and None at the end, which has a resampler give what it holds."""
    empty = True
    for frame in container.decode(stream):
        empty = False
        yield frame
    if not empty:
        yield None
