"""The frame, the unit of everything: 1,920 samples of 24 kHz sound, 12.5 a second.

A row of the model's input is `[K+1]` integers: K codec codes (an audio row) and one text column (a text row).
This is the only place where these numbers stand.
"""

from __future__ import annotations

SAMPLE_RATE = 24_000
FRAME_SAMPLES = 1_920
FRAME_RATE = SAMPLE_RATE / FRAME_SAMPLES
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE


def frames_of(samples: int) -> int:
    """Frames that `samples` samples fill, the last one padded."""
    return -(-samples // FRAME_SAMPLES)


def seconds_of(frames: int) -> float:
    """Seconds of sound in `frames` frames."""
    return frames * FRAME_SECONDS
