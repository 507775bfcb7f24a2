"""Perth's mark (Resemble AI, resemble-perth 1.0.1, MIT) as a filter, and Perth's own network to find it.

Perth's encoder is a network over windows of 64 ms that sees 150 ms into the future and adds a gain to each bin below
2 kHz. What it adds hardly depends on what it hears: over any sound it is the same comb, to 0.35 dB in time and 0.1 dB
between sounds. A live stream has no future to be seen. So the comb itself is the mark here: a filter that is causal,
late by nothing, and found by Perth's decoder as Perth's own mark is (`benchmarks/watermark.py`).

The weights lie in the package `resemble-perth`, which is needed to find a mark and not to set one; it is not imported
(its import drags librosa and setuptools in): the networks are built here, from its file.

Shapes: B sounds, N bins, T windows.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from csm_model.errors import DigestError, MissingDependencyError
from csm_model.watermark.filters import BINS

BAND = 128
"""Bins of 15.625 Hz below 2 kHz, in which the mark lies."""
STRENGTH = 0.75
"""Of Perth's gains: found as surely after codecs, and heard less (`benchmarks/watermark.py`)."""
_WEIGHTS = "perth_net/pretrained/implicit/perth_net_250000.pth.tar"
_DIGEST = "a15bce457ebc53ce5e6c9c3f11df78cf7ee2bf9cdab0a798902135b4c4027670"
_SCALE = 2048 / 1536  # Perth takes 2,048 samples of 32 kHz for the same 64 ms
_FLOOR, _HEADROOM_DB = 1e-9, 15.0

# dB of each bin: what the encoder adds to noise of speech's slope, in the mean; tests/model/test_watermark.py asks it.
_COMB = (
    -2.96, -2.84, 2.43, 2.31, -2.11, -2.17, -2.08, 2.06, 1.97, 1.86, 1.96, 1.93, 1.83, -1.80, -1.89, -1.68, 1.86,
    -1.73, -1.75, -1.84, -1.75, -1.84, -1.84, -1.82, -1.70, 1.67, 1.85, 1.79, 1.81, 1.81, 1.71, -1.73, -1.75, -1.82,
    -1.55, 1.73, -1.59, -1.72, -1.65, 1.71, 1.83, 1.72, -1.77, -1.77, -1.71, 1.70, 1.73, -1.53, -1.58, 1.47, -1.63,
    -1.36, 1.75, 1.76, -1.59, -1.71, -1.68, -1.63, -1.67, -1.75, -1.66, 1.78, 1.82, 1.75, -1.54, -1.71, -1.80, -1.82,
    -1.60, 1.74, 1.71, 1.60, 1.75, 1.65, 1.82, 1.65, -1.63, -1.77, -1.75, -1.70, -1.60, 1.63, 1.75, 1.83, 1.67,
    -1.63, -1.82, -1.72, -1.58, 1.69, 1.76, -1.62, -1.66, -1.63, 1.71, -1.64, -1.68, -1.57, 1.83, 1.76, -1.41, -1.77,
    -1.77, -1.76, -1.63, 1.46, -1.63, 1.58, 1.66, 1.71, 1.69, 1.69, 1.69, 1.65, 1.67, 1.54, -1.63, -1.76, -1.74,
    -1.65, -1.68, -1.71, -1.68, -1.62, -1.76, -1.64, 1.73, 1.92,
)  # fmt: skip


def gains() -> npt.NDArray[np.float64]:
    """Gains in dB `[N]` of the bins of 15.625 Hz."""
    decibels = np.zeros(BINS)
    decibels[:BAND] = np.array(_COMB) * STRENGTH
    return decibels


class PerthNetwork:
    """Perth's two networks; raises `MissingDependencyError` without its package, `DigestError` for another version."""

    def __init__(self) -> None:
        path = _weights_path()
        if hashlib.sha256(path.read_bytes()).hexdigest() != _DIGEST:
            raise DigestError(f"{path}: not the weights of resemble-perth 1.0.1; install that version")
        self._weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["model"]

    @torch.inference_mode()
    def added(self, spectra: Tensor) -> Tensor:
        """The gains in dB `[B, 128, T]` that the encoder adds to magnitudes `[B, N, T]`."""
        return self._layers(_normal(spectra)[:, :BAND], "encoder.layers") * _range_db()

    @torch.inference_mode()
    def presence(self, spectra: Tensor) -> Tensor:
        """How sure the decoder is that magnitudes `[B, N, T]` are marked: `[B]`, 0 to 1; 0 for silence.

        It listens at three speeds and lets each say how much it counts (resemble-perth, decoder.py).
        """
        level = _normal(spectra)
        loudness = level.sum(dim=1)
        heard = (loudness > 0.05 * loudness.amax(dim=1, keepdim=True)).float()[:, None]
        band = level[:, :BAND]
        windows = band.shape[2]
        said, counts = [], []
        for name, speed in (("slow", 1.25), ("normal", 1.0), ("fast", 0.75)):
            x = band if speed == 1 else F.interpolate(band, int(windows * speed), mode="linear", align_corners=True)
            out = self._layers(x, f"decoder.{name}_layers")
            mask = F.interpolate(heard, out.shape[2], mode="nearest")
            count, mark = ((out * mask).sum(2) / mask.sum(2).clamp(min=1)).unbind(1)
            said.append(mark)
            counts.append(count)
        found: Tensor = (torch.stack(said, 1) * torch.softmax(torch.stack(counts, 1), 1)).sum(1)
        return found.clamp(0, 1) * (heard.sum((1, 2)) > 0)

    def _layers(self, x: Tensor, name: str) -> Tensor:
        for layer in range(7):
            weight, bias = (self._weights[f"{name}.{layer}.conv.{part}"] for part in ("weight", "bias"))
            x = F.conv1d(x, weight, bias, padding=weight.shape[2] // 2)
            x = x if layer == 6 else F.leaky_relu(x)
        return x


def _normal(spectra: Tensor) -> Tensor:
    """Magnitudes as Perth's networks take them: dB, 0 to about 1."""
    floor_db = float(20 * np.log10(_FLOOR))
    return (20 * torch.log10((spectra * _SCALE).clamp(min=_FLOOR)) - floor_db) / _range_db()


def _range_db() -> float:
    return float(_HEADROOM_DB - 20 * np.log10(_FLOOR))


def _weights_path() -> Path:
    spec = importlib.util.find_spec("perth")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / _WEIGHTS).is_file():
            return Path(folder) / _WEIGHTS
    raise MissingDependencyError(
        "resemble-perth is not installed, and finding a mark needs its weights: pip install 'csm-foundry[serve]'"
    )
