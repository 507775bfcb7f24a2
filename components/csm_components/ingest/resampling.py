"""Sound of any rate to another, block by block: the very samples that one pass over the whole would give.

A polyphase filter (Vaidyanathan 1993) with the window and length of `scipy.signal.resample_poly`. An output depends on
few inputs around it, so a block needs only the end of the one before; and since each output is summed in the order of
its inputs, from the first to the last, it comes out the same to the bit however the sound is cut.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np

from csm_components.ingest.decoding import Samples
from csm_model.frames import SAMPLE_RATE

_STEP = 1 << 14
"""Inputs that are filtered at once, about."""


@lru_cache(maxsize=8)
def _filter(up: int, down: int) -> tuple[Samples, int]:
    """The filter's taps, and how many outputs it is late."""
    from scipy.signal import firwin  # of an extra, which sound of the model's rate does not need

    widest = max(up, down)
    half = 10 * widest
    taps = firwin(2 * half + 1, 1.0 / widest, window=("kaiser", 5.0)).astype(np.float32)
    taps *= up
    before = down - half % down
    return np.concatenate((np.zeros(before, np.float32), taps)), (half + before) // down


class Resampler:
    """Mono sound of `rate` to another rate (24 kHz where none is given), handed over in blocks.

    resampler = Resampler(44_100)
    chunks = [resampler.push(block) for block in blocks] + [resampler.finish()]
    """

    def __init__(self, rate: int, wanted: int = SAMPLE_RATE) -> None:
        common = gcd(rate, wanted)
        self._up, self._down = wanted // common, rate // common
        self._same = rate == wanted
        self._taken = 0
        if self._same:
            return
        self._taps, self._late = _filter(self._up, self._down)
        # Whole multiples of `down` inputs keep every block in the filter's first phase.
        reach = -(-len(self._taps) // self._up)
        self._kept = -(-reach // self._down) * self._down
        self._step = max(1, -(-_STEP // self._down)) * self._down
        self._history = np.zeros(self._kept, np.float32)
        self._waiting: list[Samples] = []
        self._waits = 0
        self._given = 0
        self._skip = self._late

    def push(self, block: Samples) -> Samples:
        """Takes samples `[S]` and gives those that can be told by now."""
        self._taken += len(block)
        if self._same:
            return block
        self._waiting.append(block)
        self._waits += len(block)
        return self._filtered() if self._waits >= self._step else np.zeros(0, np.float32)

    def finish(self) -> Samples:
        """Gives what is left, once all has been pushed."""
        if self._same:
            return np.zeros(0, np.float32)
        wanted = -(-self._taken * self._up // self._down) - self._given
        chunks = []
        while wanted > 0:
            missing = self._step - self._waits
            if missing > 0:
                self._waiting.append(np.zeros(missing, np.float32))
                self._waits += missing
            chunks.append(self._filtered()[:wanted])
            wanted -= len(chunks[-1])
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    def _filtered(self) -> Samples:
        """Filters the whole steps among what waits."""
        from scipy.signal import upfirdn

        waiting = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        length = len(waiting) // self._step * self._step
        chunks = []
        for start in range(0, length, self._step):
            sound = np.concatenate((self._history, waiting[start : start + self._step]))
            found = upfirdn(self._taps, sound, self._up, self._down)
            first = self._kept // self._down * self._up
            chunks.append(found[first : first + self._step // self._down * self._up])
            self._history = sound[-self._kept :]
        self._waiting = [waiting[length:]]
        self._waits = len(waiting) - length
        samples: Samples = np.concatenate(chunks)
        if self._skip:
            skipped = min(self._skip, len(samples))
            self._skip -= skipped
            samples = samples[skipped:]
        self._given += len(samples)
        return samples


def resampled(samples: Samples, rate: int) -> Samples:
    """Mono samples `[S]` of any rate to 24 kHz; those of 24 kHz come back as they are."""
    if rate == SAMPLE_RATE:
        return samples
    resampler = Resampler(rate)
    return np.concatenate((resampler.push(samples), resampler.finish()))
