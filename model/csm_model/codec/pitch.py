"""The pitch of speech, by normalised cross-correlation: what the decoder's pitch is trained towards.

The lag in `[2.3 ms, 20 ms]` at which a stretch of sound is most like itself, the shortest where several are about as
good ([Talkin 1995, RAPT](https://www.ee.columbia.edu/~dpwe/papers/Talkin95-rapt.pdf)), with a median over time in place
of its dynamic programming.

Shapes: B batch, S samples, L steps (100 Hz).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from csm_model.frames import SAMPLE_RATE

HOP = 240  # samples between steps
_RATE = SAMPLE_RATE // 2
_SHORTEST, _LONGEST = 28, 240  # lags in samples of 12 kHz: 429 Hz and 50 Hz
_STRETCH = 360  # samples of 12 kHz that are compared: 30 ms
_VOICED = 0.6  # correlation of a voiced step
_AS_GOOD = 0.9  # of the best correlation
_FLOOR = 1e-4  # mean power below which nothing is voiced
_MEDIAN = 5  # steps
_RANGE = 0.6  # octaves from a clip's middle pitch: what is farther off is more often half or twice the pitch than sung


@torch.no_grad()
def track_pitch(audio: Tensor) -> tuple[Tensor, Tensor]:
    """Pitch at the end of each step in Hz, and where it is voiced, `[B, L]` each, of sound `[B, S]` (S = 240 L)."""
    steps = audio.shape[1] // HOP
    sound = F.avg_pool1d(audio[:, None], 2)[:, 0]
    size = _STRETCH + _LONGEST
    # A stretch and its best copy together are centred on the end of the step.
    sound = F.pad(sound, (size // 2 - HOP // 2, size))
    pieces = sound.unfold(-1, size, HOP // 2)[:, :steps]
    fft = 1024
    head = torch.fft.rfft(pieces[..., :_STRETCH], n=fft)
    product = torch.fft.irfft(torch.fft.rfft(pieces, n=fft) * head.conj(), n=fft)[..., : _LONGEST + 1]
    total = F.pad(pieces.double().square().cumsum(-1), (1, 0))
    energy = (total[..., _STRETCH:] - total[..., : _LONGEST + 1]).float()
    correlation = product / (energy * energy[..., :1]).clamp(min=1e-9).sqrt()
    inner = correlation[..., _SHORTEST:_LONGEST]
    before, after = correlation[..., _SHORTEST - 1 : _LONGEST - 1], correlation[..., _SHORTEST + 1 :]
    peak = (inner >= before) & (inner >= after)
    heights = torch.where(peak, inner, inner.new_full((), -1.0))
    best = heights.amax(-1)
    lag = (peak & (heights >= _AS_GOOD * best[..., None])).float().argmax(-1)
    left, middle, right = (each.gather(-1, lag[..., None])[..., 0] for each in (before, inner, after))
    shift = 0.5 * (left - right) / (left - 2 * middle + right).clamp(max=-1e-6)
    pitch = _RATE / (lag + _SHORTEST + shift.clamp(-0.5, 0.5))
    voiced = (best > _VOICED) & (energy[..., 0] / _STRETCH > _FLOOR)
    padded = F.pad(pitch[:, None], (_MEDIAN // 2, _MEDIAN // 2), mode="replicate")[:, 0]
    return padded.unfold(-1, _MEDIAN, 1).median(-1).values, voiced


def in_range(pitch: Tensor, voiced: Tensor) -> Tensor:
    """Which voiced steps are near the middle of their clip's pitch, `[B, L]`, of `track_pitch`'s answer.

    The others are most often an octave off: they are no pitch to learn, though a voice there is.
    """
    octaves = torch.where(voiced, pitch.log2(), torch.nan)
    middle = octaves.nanmedian(1, keepdim=True).values
    return voiced & ((octaves - middle).abs() < _RANGE)


def middle_pitch(sound: npt.NDArray[np.int16], *, seconds: float = 1.2) -> float:
    """Median pitch in Hz of the middle of a clip `[S]`; nan where nothing in it is voiced."""
    size = min(len(sound), round(seconds * SAMPLE_RATE)) // HOP * HOP
    start = (len(sound) - size) // 2
    if not size:
        return float("nan")
    pitch, voiced = track_pitch(torch.from_numpy(sound[start : start + size] / np.float32(32768.0))[None])
    return float(pitch[voiced].median()) if voiced.any() else float("nan")
