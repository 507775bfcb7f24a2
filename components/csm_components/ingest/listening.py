"""One pass over a sound file: what each turn's sound is like, and the sound that is to be kept, at the model's rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from csm_components.ingest.audio import Samples, to_pcm
from csm_components.ingest.checks import SoundMeter
from csm_components.ingest.decoding import open_sound
from csm_components.ingest.resampling import Resampler
from csm_components.ingest.scratch import Lane, LaneScratch


@dataclass(frozen=True, kw_only=True)
class AskedSpan:
    """A stretch of a sound file that is listened to."""

    channel: int | None
    """None is the mean of all channels."""
    start: float = 0.0
    """Seconds into the file."""
    duration: float | None = None
    """Seconds; none is up to the end of the file."""
    kept: bool
    """Whether its sound is to be kept; it is measured in any case."""

    def samples(self, rate: int) -> tuple[int, int | None]:
        """Its first sample and the one after its last, which may lie outside the file; none is the file's end."""
        start = round(self.start * rate)
        return start, None if self.duration is None else start + round(self.duration * rate)


@dataclass(frozen=True, kw_only=True)
class HeardSpan:
    """What came of a span."""

    start: int
    """Its first sample, of the file's."""
    end: int
    """The one after its last; may lie outside the file."""
    meter: SoundMeter
    lane: Lane | None
    """Its sound; none where none was to be kept."""


@dataclass(frozen=True, kw_only=True)
class HeardFile:
    """What came of a file."""

    rate: int
    channels: int
    samples: int
    spans: tuple[HeardSpan | None, ...]
    """In the order of what was asked for; none where the file has no such channel."""


@dataclass
class _Tap:
    """A span while its file is read."""

    channel: int | None
    start: int
    end: int | None
    lane: Lane | None
    resampler: Resampler | None
    meter: SoundMeter = field(default_factory=SoundMeter)

    def take(self, samples: Samples) -> None:
        self.meter.add(samples)
        if self.lane is not None and self.resampler is not None:
            self.lane.append(to_pcm(self.resampler.push(samples)))

    def heard(self, length: int) -> HeardSpan:
        if self.lane is not None and self.resampler is not None:
            self.lane.append(to_pcm(self.resampler.finish()))
        end = length if self.end is None else self.end
        return HeardSpan(start=self.start, end=end, meter=self.meter, lane=self.lane)


def listen(path: Path, spans: Sequence[AskedSpan], scratch: LaneScratch) -> HeardFile:
    """Reads a sound file once, block by block, for all spans of it.

    Time grows with its length and that of the spans, memory with neither.

    Args:
        path: the file, or `ARCHIVE::MEMBER`.
        spans: what to listen to; they may overlap.
        scratch: where kept sound goes.

    Raises:
        AudioError: the file cannot be read, or not to its end.
    """
    with open_sound(path) as sound:
        taps: list[_Tap | None] = []
        for span in spans:
            if span.channel is not None and span.channel >= sound.channels:
                taps.append(None)
                continue
            start, end = span.samples(sound.rate)
            lane, resampler = (scratch.lane(), Resampler(sound.rate)) if span.kept else (None, None)
            taps.append(_Tap(span.channel, start, end, lane, resampler))
        later = sorted((tap for tap in taps if tap is not None), key=lambda tap: -tap.start)
        now: list[_Tap] = []
        position = 0
        for block in sound.blocks():
            until = position + len(block)
            while later and later[-1].start < until:
                now.append(later.pop())
            mono: dict[int | None, Samples] = {}
            for tap in now:
                if tap.channel not in mono:
                    mono[tap.channel] = _mono(block, tap.channel)
                stop = len(block) if tap.end is None else max(0, tap.end - position)
                tap.take(mono[tap.channel][max(0, tap.start - position) : stop])
            now = [tap for tap in now if tap.end is None or tap.end > until]
            position = until
        return HeardFile(
            rate=sound.rate,
            channels=sound.channels,
            samples=position,
            spans=tuple(None if tap is None else tap.heard(position) for tap in taps),
        )


def _mono(block: Samples, channel: int | None) -> Samples:
    """One channel of samples `[S, C]`, or the mean of all: `[S]`."""
    if channel is not None:
        return block[:, channel]
    mixed: Samples = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    return mixed
