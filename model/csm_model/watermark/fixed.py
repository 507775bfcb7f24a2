"""The mark that live streams carry: Perth's comb below 2 kHz and a keyed payload above, as one fixed filter.

Shapes: S samples, W stretches of sound, N bins, T windows of 64 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from csm_model.errors import AudioError
from csm_model.frames import SAMPLE_RATE
from csm_model.watermark import comb, perth
from csm_model.watermark.base import Finding, Report
from csm_model.watermark.filters import WINDOW, SlotFilter, filter_whole, minimum_phase

SHORTEST_S = 0.25
"""Less sound is not looked at."""
STRETCH_S = 5.0
"""A long sound is looked at in stretches of so many seconds, each half over the last one."""
_HOP = 240  # 10 ms, Perth's
_TOGETHER = 16  # stretches whose spectra are in memory at once


class FixedMark:
    """A `Watermark` that is a filter: 0.1 ms a frame, to the bit the same alone and among neighbours on a CPU.

    Args:
        payload: 0 to 65535: of a model, a tenant, a server.
        key: what the payload's comb is drawn from; None: the public one, with which anybody can read and write it.
    """

    def __init__(self, payload: int = 0, key: bytes | None = None) -> None:
        self.payload = payload
        self._taps = minimum_phase(perth.gains() + comb.gains(payload, key or comb.PUBLIC_KEY))

    @property
    def kind(self) -> str:
        """See `Watermark`."""
        return f"perth:{self.payload}"

    def slot_marker(self, slots: int) -> SlotFilter:
        """See `Watermark`."""
        return SlotFilter(self._taps, slots)

    def mark(self, audio: Tensor) -> Tensor:
        """See `Watermark`; to the bit what `slot_marker` makes of the sound frame by frame."""
        return filter_whole(self._taps, audio)


class FixedDetector:
    """Finds what `FixedMark` set, and Perth's own mark; raises `MissingDependencyError` without resemble-perth."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or comb.PUBLIC_KEY
        self._network = perth.PerthNetwork()

    @torch.inference_mode()
    def find(self, audio: Tensor) -> Report:
        """See `Detector`."""
        seconds = len(audio) / SAMPLE_RATE
        if seconds < SHORTEST_S:
            raise AudioError(f"a sound of {seconds:.2f} s: a mark is looked for in {SHORTEST_S:g} s or more")
        residues, presences, begins = [], [], []
        for begin, stretches in _stretches(audio):
            spectra = _spectra(stretches)
            residues.append(comb.residue(spectra))
            presences += self._network.presence(spectra).tolist()
            begins += [begin + n * STRETCH_S / 2 for n in range(len(stretches))]
        joined = np.concatenate(residues)
        (best,) = comb.read(joined.mean(axis=0, keepdims=True), self._key, speeds=comb.SPEEDS)
        whole = _finding(0.0, seconds, float(np.mean(presences)), best)
        if len(begins) == 1:
            return Report(whole=whole, windows=())
        speed = best.speed if best.found else 1.0
        windows = []
        for begin, presence, reading in zip(
            begins, presences, comb.read(joined, self._key, speeds=(speed,)), strict=True
        ):
            among = replace(reading, chance=min(1.0, reading.chance * len(begins)))
            windows.append(_finding(begin, min(begin + STRETCH_S, seconds), presence, among))
        return Report(whole=whole, windows=tuple(windows))


def _finding(begin: float, end: float, presence: float, reading: comb.PayloadReading) -> Finding:
    return Finding(
        begin=begin,
        end=end,
        marked=presence > 0.5 or reading.found,
        presence=presence,
        chance=reading.chance,
        payload=reading.payload if reading.found else None,
        speed=reading.speed if reading.found else 1.0,
    )


def _stretches(audio: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Stretches `[W, S]` of equal length, a few at a time, and the second at which the first of them begins."""
    size, step = int(STRETCH_S * SAMPLE_RATE), int(STRETCH_S * SAMPLE_RATE) // 2
    if len(audio) <= size + step:
        yield 0.0, audio[None]
        return
    starts = [*range(0, len(audio) - size + 1, step)]
    for first in range(0, len(starts), _TOGETHER):
        some = starts[first : first + _TOGETHER]
        yield some[0] / SAMPLE_RATE, torch.stack([audio[start : start + size] for start in some])
    if starts[-1] + size < len(audio):
        yield (starts[-1] + step) / SAMPLE_RATE, audio[None, starts[-1] + step :]


def _spectra(sound: Tensor) -> Tensor:
    """Magnitudes `[W, N, T]` of sounds `[W, S]`, as Perth takes them."""
    window = torch.hann_window(WINDOW)
    return torch.stft(sound, WINDOW, _HOP, window=window, pad_mode="reflect", return_complex=True).abs()
