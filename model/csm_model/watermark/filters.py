"""A fixed filter over many live streams: exact in chunks of any number, with no delay.

The spectrum is handled in bins of 15.625 Hz, those of the analysis windows of 64 ms that detectors look through.

Shapes: M slots that are stepped together, S samples, L taps, N bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE

WINDOW = 1536
"""Samples of an analysis window: 64 ms."""
BIN_HZ = SAMPLE_RATE / WINDOW
BINS = WINDOW // 2 + 1
_OVERSAMPLING = 8
_FFT = 4096  # holds a frame and the taps before it


def minimum_phase(decibels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Taps `[1536]` of the causal filter whose gain in the middle of each bin is `decibels` `[769]`.

    Of all filters with those gains the minimum-phase one answers soonest, so that the sound is not late by a sample. It
    is made by folding the cepstrum (Oppenheim and Schafer, Discrete-Time Signal Processing, 12.7).
    """
    assert decibels.shape == (BINS,)
    size = WINDOW * _OVERSAMPLING
    fine = np.interp(np.arange(size // 2 + 1) / _OVERSAMPLING, np.arange(BINS), decibels)
    cepstrum = np.fft.irfft(fine * np.log(10) / 20, size)
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    taps: npt.NDArray[np.float64] = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), size)[:WINDOW]
    return taps


class SlotFilter:
    """Filters the sound of each slot with `taps` `[L]`, as if it were one sound from its first frame on.

    By overlap-save, a Fourier transform a frame. On a CPU a slot's sound is the same to the bit whatever its neighbours
    are; elsewhere within the transform's rounding (1e-6).
    """

    def __init__(self, taps: npt.NDArray[np.float64], slots: int) -> None:
        assert len(taps) - 1 + FRAME_SAMPLES <= _FFT
        self._answer = torch.fft.rfft(torch.from_numpy(taps), _FFT).to(torch.complex64)
        self._before = torch.zeros(slots, len(taps) - 1)

    def reset(self, slot: int) -> None:
        """See `SlotMarker`."""
        self._before[slot] = 0

    def step(self, audio: Tensor, slots: Sequence[int]) -> Tensor:
        """See `SlotMarker`."""
        assert audio.shape == (len(slots), FRAME_SAMPLES), (
            f"{tuple(audio.shape)} is not [{len(slots)}, {FRAME_SAMPLES}]"
        )
        if self._before.device != audio.device:
            self._before, self._answer = self._before.to(audio.device), self._answer.to(audio.device)
        rows = torch.as_tensor(slots, device=audio.device)
        sound = torch.cat([self._before[rows], audio.float()], dim=1)
        taps = self._before.shape[1]
        self._before[rows] = sound[:, -taps:]
        # On a CPU one stream after another: how a transform of many is ordered is the library's own affair.
        parts = torch.split(sound, 1) if sound.device.type == "cpu" else [sound]
        out = torch.cat([torch.fft.irfft(torch.fft.rfft(part, _FFT) * self._answer, _FFT) for part in parts])
        return out[:, taps : taps + FRAME_SAMPLES].clamp(-1, 1)


def filter_whole(taps: npt.NDArray[np.float64], audio: Tensor) -> Tensor:
    """A whole sound `[S]` through `taps`, to the bit what a `SlotFilter` makes of it frame by frame."""
    marker = SlotFilter(taps, 1)
    frames = torch.nn.functional.pad(audio, (0, -len(audio) % FRAME_SAMPLES)).view(-1, 1, FRAME_SAMPLES)
    return torch.cat([marker.step(frame, [0])[0] for frame in frames])[: len(audio)] if len(audio) else audio
