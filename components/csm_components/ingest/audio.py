"""Sound files to samples, and samples to 24 kHz mono.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from csm_components.ingest.decoding import AUDIO_SUFFIXES, Samples, open_sound
from csm_components.ingest.resampling import resampled
from csm_model.files import atomic_path
from csm_model.frames import SAMPLE_RATE

__all__ = ["AUDIO_SUFFIXES", "Pcm", "Samples", "from_pcm", "read_mono", "read_sound", "to_model_rate", "to_pcm"]

Pcm = NDArray[np.int16]
"""Sound as 16-bit integers."""


def read_sound(path: Path) -> tuple[Samples, int]:
    """Reads a whole file: samples `[S, C]` (float32, -1 to 1) and their rate; raises `AudioError` for a damaged one.

    Args:
        path: the file, or `ARCHIVE::MEMBER`.
    """
    with open_sound(path) as sound:
        blocks = list(sound.blocks())
        return np.concatenate(blocks or [np.zeros((0, sound.channels), np.float32)]), sound.rate


def to_model_rate(samples: Samples, rate: int) -> Samples:
    """Mono samples `[S]` of any rate to 24 kHz, by a polyphase filter; samples of 24 kHz come back as they are."""
    return resampled(samples, rate)


def read_mono(path: Path) -> Samples:
    """A whole file as mono samples `[S]` at 24 kHz, the mean of its channels."""
    samples, rate = read_sound(path)
    return to_model_rate(samples.mean(axis=1), rate)


def to_pcm(samples: Samples) -> Pcm:
    """Samples (float, -1 to 1) to 16-bit integers, rounded; what lies beyond is cut off."""
    pcm: Pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return pcm


def from_pcm(pcm: Pcm) -> Samples:
    """16-bit integers to float32 from -1 to 1; the exact inverse of `to_pcm` on its results."""
    return pcm.astype(np.float32) / np.float32(32768)


def write_flac(path: Path, blocks: Iterable[Pcm], channels: int = 1) -> tuple[int, str]:
    """Writes 16-bit sound of 24 kHz as FLAC, in one step; returns the samples of a channel and a digest of all.

    The digest is SHA-256 of the samples as little-endian bytes: the same sound has the same, whatever packed it.

    Args:
        path: the file.
        blocks: the sound, one block after another: `[S]`, or `[S, C]` of several channels.
        channels: C.
    """
    digest, length = hashlib.sha256(), 0
    how = {"samplerate": SAMPLE_RATE, "channels": channels, "format": "FLAC", "subtype": "PCM_16"}
    with atomic_path(path) as partial, soundfile.SoundFile(partial, "w", **how) as file:
        for block in blocks:
            file.write(block)
            digest.update(np.ascontiguousarray(block, "<i2").data)
            length += len(block)
    return length, digest.hexdigest()
