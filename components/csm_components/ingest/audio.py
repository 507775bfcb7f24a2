"""Sound files to samples, and samples to 24 kHz mono.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import hashlib
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from csm_components.ingest.archives import member_of, open_member
from csm_model.errors import AudioError
from csm_model.files import atomic_path
from csm_model.frames import SAMPLE_RATE

Samples = NDArray[np.float32]
"""Sound, -1 to 1."""
Pcm = NDArray[np.int16]
"""Sound as 16-bit integers."""

AUDIO_SUFFIXES = frozenset({".flac", ".wav", ".opus", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".au", ".sph", ".w64"})
"""File names that are taken for sound; libsndfile reads each of them."""


def read_sound(path: Path) -> tuple[Samples, int]:
    """Reads a whole file: samples `[S, C]` (float32, -1 to 1) and their rate; raises `AudioError` for a damaged one.

    Args:
        path: the file, or `ARCHIVE::MEMBER`.
    """
    packed = member_of(str(path)) is not None
    try:
        with soundfile.SoundFile(open_member(str(path)) if packed else path) as file:
            promised, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        reason = getattr(error, "error_string", None) or error
        if not packed and not path.exists():
            reason = "no such file"
        elif not packed and _is_shortened(path):
            reason = "it is packed with shorten; unpack it, such as by sph2pipe -f wav"
        raise AudioError(f"{path}: cannot be read as sound ({str(reason).rstrip('.')})") from None
    if len(samples) < promised:
        raise AudioError(f"{path}: holds {len(samples)} of the {promised} samples that its header names")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: holds samples that are not finite numbers")
    return samples, rate


def _is_shortened(path: Path) -> bool:
    """Whether a file is SPHERE whose header says that its samples are packed with shorten."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    return head.startswith(b"NIST_1A") and b"shorten" in head


def to_model_rate(samples: Samples, rate: int) -> Samples:
    """Mono samples `[S]` of any rate to 24 kHz, by a polyphase filter; samples of 24 kHz come back as they are."""
    if rate == SAMPLE_RATE:
        return samples
    from scipy.signal import resample_poly  # of an extra, which sound of 24 kHz does not need

    common = gcd(rate, SAMPLE_RATE)
    resampled: Samples = resample_poly(samples, SAMPLE_RATE // common, rate // common).astype(np.float32)
    return resampled


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


def digest_of_pcm(pcm: Pcm) -> str:
    """SHA-256 of the samples as little-endian bytes: the same sound has the same digest, whatever packed it."""
    return hashlib.sha256(np.ascontiguousarray(pcm, "<i2").tobytes()).hexdigest()


def write_flac(path: Path, pcm: Pcm) -> None:
    """Writes 16-bit mono samples `[S]` of 24 kHz as FLAC, in one step."""
    with atomic_path(path) as partial:
        soundfile.write(partial, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def read_flac(path: Path) -> Pcm:
    """Reads what `write_flac` wrote: 16-bit samples `[S]`."""
    try:
        pcm: Pcm
        pcm, rate = soundfile.read(path, dtype="int16")
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot be read ({error}); run ingest again") from None
    assert rate == SAMPLE_RATE, rate
    return pcm
