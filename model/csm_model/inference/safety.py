"""Why speech stops, and what stops it when the model does not: watches over a stream, fed a frame at a time.

Each watch is a small state machine. It sees a frame's codes and its sound, and says whether the stream must stop after
it. The bounds lie beyond twice what the demo's training speech has; `benchmarks/failures.py` measures that speech
again, and how often the watches stop recordings (false alarms) and the model. Where the defaults do not suit a corpus,
`Bounds` takes others.

Shapes: K codebooks.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from csm_model.errors import InputError

Audio = npt.NDArray[np.float32]

MIN_FRAMES = 3  # speech never ends before; nothing can be said in less
FRAMES_PER_SOUND = 1.5
"""Frames a phoneme or pause, at most: twice the median of training turns, a quarter above the slowest of them."""
SPARE_FRAMES = 15
"""More for every text: what short ones take for a pause or a drawn-out word."""
SILENCE_FLOOR = 1e-3
"""Root mean square (-60 dB) below which sound is silent however quiet the rest is."""
SILENCE_SHARE = 0.02
"""Sound is also silent below this share (-34 dB) of what is loud in its stream."""
LONGEST_CYCLE = 25
"""Frames (2 s) of the longest cycle that is looked for."""


class Reason(enum.StrEnum):
    """Why a stream stopped."""

    ENDED = "ended"
    """The model ended it."""
    CUT = "cut"
    """It reached the most frames that its text, or its caller, allows."""
    SILENCE = "silence"
    """Nothing was heard for too long."""
    REPEAT = "repeat"
    """The same frames came again and again."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What no speech goes beyond; 0 switches a watch off."""

    silent_frames: int = 20
    """Silent frames in a row, before speech, in it or after it. The longest pause in a training turn is 10 frames; this
    is twice that."""
    repeated_frames: int = 5
    """Frames in a row, a whole cycle at least, that are those of the cycle before. In a training turn at most 2 frames
    in a row are those of a cycle before; this is one more than twice that."""

    def __post_init__(self) -> None:
        for name in ("silent_frames", "repeated_frames"):
            value = getattr(self, name)
            if value < 0:
                raise InputError(f"{name} {value}: must be 0 (off) or more")


def frame_limit(sounds: int, max_frames: int | None = None) -> int:
    """The most frames that speech of so many phonemes and pauses may take; `max_frames` can only lower it."""
    limit = int(sounds * FRAMES_PER_SOUND) + SPARE_FRAMES
    if max_frames is None:
        return limit
    if max_frames < 1:
        raise InputError(f"max_frames {max_frames}: must be at least 1")
    return min(limit, max_frames)


class SilenceWatch:
    """Silence: a frame below `SILENCE_FLOOR`, or below `SILENCE_SHARE` of the loudest frame so far."""

    def __init__(self) -> None:
        self.run = 0
        """Silent frames in a row, up to now."""
        self._loudest = 0.0

    def see(self, audio: Audio) -> int:
        """Hears the sound `[1920]` of the next frame; returns `run`."""
        level = float(np.sqrt(np.square(audio, dtype=np.float64).mean()))
        self._loudest = max(self._loudest, level)
        silent = level < max(SILENCE_FLOOR, SILENCE_SHARE * self._loudest)
        self.run = self.run + 1 if silent else 0
        return self.run


class RepeatWatch:
    """Repetition: a cycle of 1 to `LONGEST_CYCLE` frames of codebook 0 that comes again, sound in it.

    Codebook 0 carries what is said, and in speech the same frames hardly ever come twice in a row; cycles of nothing
    but silence are the other watch's.
    """

    def __init__(self) -> None:
        self._past: deque[int] = deque(maxlen=LONGEST_CYCLE)  # the newest first
        self._same = [0] * LONGEST_CYCLE
        self.run = 0
        """Frames in a row that are those of a cycle before: the most over all cycles, up to now."""
        self.whole = 0
        """The same over the cycles that have come twice as a whole: the refrain of a longer one is none yet."""

    def see(self, code: int, silent_frames: int) -> int:
        """Sees codebook 0 of the next frame, and how many frames up to it are silent; returns `whole`."""
        self.run = self.whole = 0
        for index in range(LONGEST_CYCLE):
            again = index < len(self._past) and self._past[index] == code
            self._same[index] = same = self._same[index] + 1 if again else 0
            if silent_frames <= index:
                self.run = max(self.run, same)
                if same > index:
                    self.whole = max(self.whole, same)
        self._past.appendleft(code)
        return self.whole


class Watch:
    """All watches over one stream."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.silence, self.repeat = SilenceWatch(), RepeatWatch()

    def see(self, codes: Tensor, audio: Audio) -> Reason | None:
        """Sees the codes `[K]` and the sound `[1920]` of the next frame; why the stream must stop after it, or None."""
        assert codes.dim() == 1, codes.shape
        silent = self.silence.see(audio)
        repeated = self.repeat.see(int(codes[0]), silent)
        bounds = self.bounds
        if bounds.silent_frames and silent >= bounds.silent_frames:
            return Reason.SILENCE
        if bounds.repeated_frames and repeated >= bounds.repeated_frames:
            return Reason.REPEAT
        return None
