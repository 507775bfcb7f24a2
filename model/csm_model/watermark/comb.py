"""A keyed mark with a payload: a comb of small gains above 2 kHz, whose signs spell a number of 16 bits.

The band from 2 to 10 kHz is cut into 256 teeth of 31 Hz. Each is 1.5 dB louder or softer than it was; which, is drawn
from the key for each of 65,536 payloads (spread spectrum: Cox et al., Secure spread spectrum watermarking for
multimedia, 1997). The gains do not change in time, so that a reader needs no clock: a cut, a delay or a pause does not
matter, and a sound that runs faster or slower only moves the teeth.

A reader takes the mean spectrum, smoothed away, and looks for the payload that it correlates with best. For signs drawn
at random, as those of a sound that was not marked, a correlation of z standard deviations is met with a probability of
at most exp(-z^2 / 2) (Hoeffding), whatever the sound; times the payloads and speeds that were tried it bounds the
false alarms.

Shapes: C teeth (256), N bins, P payloads (65536), T windows of 64 ms, W stretches of sound, V speeds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from csm_model.errors import InputError
from csm_model.watermark.filters import BINS

PAYLOADS = 1 << 16
TEETH = 256
TOOTH_BINS = 2
FIRST_BIN = 128  # 2 kHz, where Perth's mark ends
DEPTH_DB = 1.5
PUBLIC_KEY = b"csm-foundry public mark 1"
"""The key without another one given: anybody reads the mark, and anybody can write it."""
SPEEDS = tuple(round(1 + step / 1000, 3) for step in range(-80, 81))
"""Speeds that are tried: 8 % slower to 8 % faster. A step moves the highest tooth by a third of its width."""
LONGEST_CHANCE = 1e-6
"""The probability of a false alarm up to which a payload counts as read."""

_MARGIN = 12  # bins on either side over which the spectrum is smoothed
_EDGE = 96  # bins beyond the band that a faster or slower sound moves into it
_CLIP_DB = 8.0
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PayloadReading:
    """The payload that fits best."""

    payload: int
    chance: float
    """Bound on the probability that an unmarked sound fits any payload so well."""
    speed: float

    @property
    def found(self) -> bool:
        """Whether that is too unlikely to be chance."""
        return self.chance <= LONGEST_CHANCE


@lru_cache(maxsize=2)
def signs(key: bytes) -> Array:
    """The signs `[P, C]` (-1 or 1) of every payload."""
    drawn = hashlib.shake_256(b"csm comb 1" + key).digest(PAYLOADS * TEETH // 8)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8)).reshape(PAYLOADS, TEETH)
    return bits.astype(np.float32) * 2 - 1


def gains(payload: int, key: bytes = PUBLIC_KEY) -> npt.NDArray[np.float64]:
    """Gains in dB `[N]` of the bins of 15.625 Hz; raises `InputError` for a payload of more than 16 bits."""
    if not 0 <= payload < PAYLOADS:
        raise InputError(f"payload {payload} of a watermark: must be 0 to {PAYLOADS - 1}")
    decibels = np.zeros(BINS)
    decibels[FIRST_BIN : FIRST_BIN + TEETH * TOOTH_BINS] = np.repeat(signs(key)[payload], TOOTH_BINS) * DEPTH_DB
    return decibels


def residue(spectra: Tensor) -> Array:
    """What sticks out of the mean spectra: dB `[W, bins]` from `FIRST_BIN - 96` on.

    Args:
        spectra: magnitudes `[W, N, T]`. Windows near silence do not count, bins near their own noise count little, and
            bins that have no sound (above a codec's band) come out as 0.
    """
    low, high = FIRST_BIN - _EDGE, FIRST_BIN + TEETH * TOOTH_BINS + _EDGE
    level = 20 * torch.log10(spectra[:, low:high] + 1e-7)
    loudness = level.mean(dim=1, keepdim=True)
    heard = (loudness > loudness.amax(dim=2, keepdim=True) - 50).float()
    smooth = _smooth(level)
    floor = torch.quantile(smooth, 0.1, dim=2, keepdim=True)
    weight = ((smooth - floor - 1) / 10).clamp(0, 1) * heard
    mean = ((level - smooth).clamp(-_CLIP_DB, _CLIP_DB) * weight).sum(2) / (weight.sum(2) + 5)
    result: Array = (mean - _smooth(mean[..., None])[..., 0]).numpy()
    return result


def read(residues: Array, key: bytes = PUBLIC_KEY, *, speeds: tuple[float, ...] = (1.0,)) -> list[PayloadReading]:
    """The best payload for each of `residues` [W, bins] at the best of the speeds."""
    readings = []
    for row in residues:
        reading = _best(row, key, (1.0,), tried=speeds)
        readings.append(reading if reading.found else _best(row, key, speeds, tried=speeds))
    return readings


def _best(row: Array, key: bytes, speeds: tuple[float, ...], *, tried: tuple[float, ...]) -> PayloadReading:
    """The payload that fits best at `speeds`, where all of `tried` may be tried."""
    bins = np.arange(len(row), dtype=np.float64) + FIRST_BIN - _EDGE
    place = FIRST_BIN + np.arange(TEETH * TOOTH_BINS)
    teeth = np.stack(
        [np.interp(place * speed, bins, row).reshape(TEETH, TOOTH_BINS).mean(1) for speed in speeds], axis=1
    ).astype(np.float32)
    spread = 3 * teeth.std(axis=0)
    teeth = teeth.clip(-spread, spread)
    fit = signs(key) @ teeth / (np.linalg.norm(teeth, axis=0) + 1e-12)  # [P, V], in standard deviations
    payloads = fit.argmax(axis=0)
    tries = np.array([2.0 if speed == 1 else 2.0 * len(tried) for speed in speeds])  # half the chance to speed 1
    chances = PAYLOADS * tries * np.exp(-(fit.max(axis=0).astype(np.float64) ** 2) / 2)
    best = int(chances.argmin())
    return PayloadReading(int(payloads[best]), min(1.0, float(chances[best])), speeds[best])


def _smooth(level: Tensor) -> Tensor:
    """The mean over 25 bins `[W, bins, T]`."""
    width = 2 * _MARGIN + 1
    padded = torch.cat([level[:, :1].expand(-1, _MARGIN, -1), level, level[:, -1:].expand(-1, _MARGIN, -1)], dim=1)
    return torch.nn.functional.avg_pool1d(padded.transpose(1, 2), width, stride=1).transpose(1, 2)
