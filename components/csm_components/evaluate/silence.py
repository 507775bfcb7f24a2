"""How much of a sound is silence, and where: before speech, within it, after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csm_components.evaluate.judges import Audio
from csm_model.frames import SAMPLE_RATE
from csm_model.inference.safety import SILENCE_FLOOR, SILENCE_SHARE

STEP_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Silence of one clip, in seconds but for `share`."""

    share: float
    """Near-silent steps over all steps; 1 for a clip without speech."""
    leading: float
    """Before the first sound."""
    trailing: float
    """After the last sound."""
    longest_pause: float
    """Longest silence between sounds."""


def silence_of(audio: Audio) -> Silence:
    """Measures float32 sound `[S]` of 24 kHz in steps of 20 ms."""
    step = int(STEP_SECONDS * SAMPLE_RATE)
    count = len(audio) // step
    seconds = len(audio) / SAMPLE_RATE
    power = np.square(audio[: count * step].reshape(count, step), dtype=np.float64).mean(axis=1)
    level = np.sqrt(power)
    threshold = max(SILENCE_FLOOR, SILENCE_SHARE * float(np.quantile(level, 0.95))) if count else SILENCE_FLOOR
    loud = np.flatnonzero(level >= threshold)
    if not len(loud):
        return Silence(share=1.0, leading=seconds, trailing=seconds, longest_pause=0.0)
    gaps = np.diff(loud) - 1
    return Silence(
        share=1.0 - len(loud) / count,
        leading=float(loud[0] * STEP_SECONDS),
        trailing=float((count - 1 - loud[-1]) * STEP_SECONDS),
        longest_pause=float(gaps.max(initial=0) * STEP_SECONDS),
    )
