"""Near-duplicates: turns that are the same sound, also after a lossy codec, a change of level or of speed.

A turn's fingerprint is its shape: energies of 12 bands in 24 equal stretches of its sounding part, each band less its
own mean, so that neither level nor a filter counts, and stretches of the whole, so that a small change of speed does
not. Two turns are near-duplicates where the cosine of their shapes is `ALIKE` or more. They are found by random
hyperplanes (Charikar 2002): only turns in one bucket are compared, and a bucket holds so many at most, so the time
grows with the number of turns.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_components.ingest.audio import Samples

VERSION = 1
STRETCHES, BANDS = 24, 12
LOW_HZ, HIGH_HZ = 200.0, 3_400.0
"""What every channel carries, a telephone too."""
SHORTEST_S = 0.7
"""A shorter turn has no shape of its own: everybody's "yes" is alike."""
SOUNDING_DB = 35.0
"""Frames that far below the loudest are the silence around a turn."""
ALIKE = 0.93
SPEED = 0.12
"""Two turns of one sound differ by so much in length at most."""
TABLES, BITS, FULL = 24, 14, 32
_FRAME_S, _HOP_S = 0.032, 0.008
_SCALE = 40.0


class Fingerprint(NamedTuple):
    """What tells a turn's sound from others'."""

    exact: str
    """Digest of its samples, 16 bits each."""
    seconds: float
    """Of its sounding part."""
    shape: str
    """288 numbers of 8 bits, as base64; empty for one that is too short."""


def fingerprint(samples: Samples, rate: int) -> Fingerprint:
    """The fingerprint of sound `[S]`."""
    pcm = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2")
    exact = hashlib.sha256(pcm.tobytes()).hexdigest()[:32]
    bands = _bands(samples, rate)  # [T, B], dB
    if not len(bands):
        return Fingerprint(exact, 0.0, "")
    level = bands.max(axis=1)
    heard = np.flatnonzero(level > level.max() - SOUNDING_DB)
    seconds = round((int(heard[-1]) - int(heard[0]) + 1) * _HOP_S, 3)
    if seconds < SHORTEST_S:
        return Fingerprint(exact, seconds, "")
    shape = _shape(bands[heard[0] : heard[-1] + 1])
    packed = np.clip(np.round(shape * _SCALE * np.sqrt(shape.size)), -127, 127).astype(np.int8)
    return Fingerprint(exact, seconds, base64.b64encode(packed.tobytes()).decode())


def _bands(samples: Samples, rate: int) -> NDArray[np.float32]:
    """Energies `[T, B]` of bands a third of an octave wide, dB; nothing of a sound without any."""
    length, hop = round(_FRAME_S * rate), round(_HOP_S * rate)
    if len(samples) < length or not np.any(samples):
        return np.zeros((0, BANDS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(samples, np.float32), length)[::hop]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(length).astype(np.float32), axis=1)))
    edges = (np.geomspace(LOW_HZ, HIGH_HZ, BANDS + 1) * length / rate).round().astype(int)
    bands = np.stack([power[:, a : max(b, a + 1)].mean(axis=1) for a, b in pairwise(edges)], 1)
    loud = float(bands.max())
    return np.asarray(10 * np.log10(np.maximum(bands, loud * 1e-5)), np.float32)


def _shape(bands: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means `[STRETCHES * BANDS]` of equal stretches, each band less its mean; of length 1."""
    edges = np.linspace(0, len(bands), STRETCHES + 1).round().astype(int)
    sums = np.concatenate([np.zeros((1, bands.shape[1])), np.cumsum(bands, axis=0, dtype=np.float64)])
    means = (sums[edges[1:]] - sums[edges[:-1]]) / np.maximum(1, edges[1:] - edges[:-1])[:, None]
    shape = (means - means.mean(axis=0)).ravel()
    length = float(np.linalg.norm(shape))
    return np.asarray(shape / length if length else shape, np.float32)


def _unpacked(shape: str) -> NDArray[np.float32]:
    found = np.frombuffer(base64.b64decode(shape), np.int8).astype(np.float32)
    return np.asarray(found / max(1e-9, float(np.linalg.norm(found))), np.float32)


class Duplicates:
    """Turns seen so far; memory and time grow with their number."""

    def __init__(self) -> None:
        rng = np.random.default_rng(20_000)
        self._planes = rng.standard_normal((STRETCHES * BANDS, TABLES * BITS)).astype(np.float32)
        self._exact: dict[str, str] = {}
        self._buckets: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        self._shapes: list[NDArray[np.float32]] = []
        self._names: list[tuple[str, float]] = []

    def add(self, name: str, mine: Fingerprint) -> str | None:
        """Adds a turn; returns the earlier one whose sound it has, if there is any."""
        first = self._exact.setdefault(mine.exact, name)
        if first != name:
            return first
        if not mine.shape:
            return None
        shape = _unpacked(mine.shape)
        bits = (shape @ self._planes > 0).reshape(TABLES, BITS)
        codes = (bits @ (1 << np.arange(BITS))).tolist()
        length = round(np.log(mine.seconds) / SPEED)
        near = {
            number
            for table, code in enumerate(codes)
            for bucket in (length - 1, length, length + 1)
            for number in self._buckets.get((table, code, bucket), ())
        }
        best, found = ALIKE, None
        for number in sorted(near):
            other, seconds = self._names[number]
            alike = float(shape @ self._shapes[number])
            if alike >= best and abs(np.log(seconds / mine.seconds)) <= SPEED:
                best, found = alike, other
        if found is None:  # a near-duplicate is told by the first of its kind
            self._shapes.append(shape)
            self._names.append((name, mine.seconds))
            for table, code in enumerate(codes):
                bucket = self._buckets[table, code, length]
                if len(bucket) < FULL:
                    bucket.append(len(self._names) - 1)
        return found


def find_duplicates(rows: Iterable[tuple[str, Fingerprint]]) -> dict[str, str]:
    """For each turn that has the sound of an earlier one, that one; in one pass."""
    seen = Duplicates()
    return {name: first for name, mine in rows if (first := seen.add(name, mine)) is not None}
