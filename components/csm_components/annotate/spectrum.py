"""What a turn's spectrum tells: where it ends, how loud it is, and how much noise lies under the speech."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.signal import welch

from csm_components.ingest.audio import Samples

WELCH = 1024
"""Samples of one piece of the averaged spectrum."""
BANDWIDTH_DB = 50.0
"""The spectrum ends with the highest bin that is no more than this below its peak."""
FRAME_S, HOP_S = 0.032, 0.016
BANDS = 20
FLOOR = 10.0
"""Percentile of a band's frames that is its noise: speech leaves every band again and again."""
DIGITAL_SILENCE = 1e-9
"""Energy of a frame (-90 dB) in which a converter has written nothing."""
SNR_RANGE_DB = 60.0
FEW_FRAMES = 8


def measure_spectrum(
    samples: Samples, rate: int, speech: Sequence[tuple[float, float]] | None = None
) -> dict[str, float]:
    """`bandwidth_hz`, `loudness_db` and `snr_db` of sound `[S]`; silence has none of them.

    Args:
        samples: mono, -1 to 1.
        rate: of the samples, Hz.
        speech: when there is speech, seconds; loudness and noise are looked for in all of it without.
    """
    frames = _frames(samples, rate)  # [T, N]
    energy = np.mean(np.square(frames), axis=1)
    sounding = energy > DIGITAL_SILENCE
    if not sounding.any():
        return {}
    found = {"bandwidth_hz": bandwidth(samples, rate), "loudness_db": _loudness(energy[sounding])}
    ratio = _snr(frames[sounding], rate)
    return found if ratio is None else found | {"snr_db": ratio}


def bandwidth(samples: Samples, rate: int) -> float:
    """Where the spectrum of sound `[S]` ends, Hz (Welch's average of periodograms, 50 dB below its peak)."""
    frequencies, power = welch(samples, rate, nperseg=min(WELCH, len(samples)))
    decibels = 10 * np.log10(power + 1e-20)
    return round(float(frequencies[np.flatnonzero(decibels >= decibels.max() - BANDWIDTH_DB)[-1]]), 1)


def _frames(samples: Samples, rate: int) -> NDArray[np.float32]:
    """Overlapping frames `[T, N]`; a sound shorter than one is one, filled up with zeros."""
    length, hop = round(FRAME_S * rate), round(HOP_S * rate)
    if len(samples) < length:
        samples = np.pad(samples, (0, length - len(samples)))
    return np.lib.stride_tricks.sliding_window_view(np.asarray(samples, np.float32), length)[::hop]


def _loudness(energy: NDArray[np.float32]) -> float:
    """Mean level of the louder half of the frames, dB of full scale: pauses do not make a turn quiet."""
    louder = np.sort(energy)[len(energy) // 2 :]
    return round(float(10 * np.log10(louder.mean())), 2)


def _snr(frames: NDArray[np.float32], rate: int) -> float | None:
    """Energy of speech over that of the noise under it, dB; none of a sound too short to tell.

    The noise of each of 20 bands is the 10th percentile of its frames, as in minimum statistics (Martin 2001): also
    in speech without pauses each band is left again and again. Even noise is taken for about 1 dB less than it is.
    """
    if len(frames) < FEW_FRAMES:
        return None
    window = np.hanning(frames.shape[1]).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames * window, axis=1)))  # [T, F]
    edges = np.unique(np.geomspace(100, rate / 2, BANDS + 1) / (rate / 2) * (power.shape[1] - 1)).astype(int)
    bands = np.stack([power[:, a : max(b, a + 1)].sum(axis=1) for a, b in pairwise(edges)])
    noise = float(np.percentile(bands, FLOOR, axis=1).sum())
    whole = float(np.sort(bands.sum(axis=0))[bands.shape[1] // 2 :].mean())
    ratio = 10 * np.log10(max(whole - noise, 1e-12) / max(noise, 1e-12))
    return round(float(np.clip(ratio, -SNR_RANGE_DB, SNR_RANGE_DB)), 2)
