"""Decode-back: whether what the codes say is still the sound they were made from.

The original and its reconstruction are compared by what a listener would miss first: the rise and fall of energy, and
the log-mel spectrum. Waveforms are not compared, as a neural codec does not keep phases. A codec may come a little
late; the comparison finds by how much.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from csm_components.ingest.audio import Samples
from csm_components.ingest.conversations import Conversation
from csm_components.tokenise.shard import encode, one_thread
from csm_model.codec import AudioCodec
from csm_model.frames import SAMPLE_RATE

HOP = 240  # 10 ms
WINDOW = 1_024
MEL_BINS = 64
MAX_LATE = 8  # hops by which a reconstruction may be late: one frame
FLOOR_DB = -80.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How alike two sounds are."""

    energy_correlation: float
    """Pearson's, of the energy in dB over 10 ms steps; 1 is the same rise and fall, 0 is none."""
    mel_distance_db: float
    """Mean distance of the log-mel spectra."""


@functools.cache
def _mel_bank() -> Floats:
    """Triangles `[bins, WINDOW // 2 + 1]` from 50 Hz to 12 kHz (O'Shaughnessy's mel)."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (50, SAMPLE_RATE / 2))
    edges = 700 * (10 ** (np.linspace(low, high, MEL_BINS + 2) / 2595) - 1)
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    bank: Floats = np.maximum(0.0, np.minimum(rise, fall))
    return bank


def log_mel(audio: Samples) -> Floats:
    """Log-mel spectrum `[steps, bins]` in dB, 100 steps a second."""
    padded = np.pad(audio.astype(np.float64), (WINDOW // 2, WINDOW // 2))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(pieces)) ** 2 / WINDOW
    decibels: Floats = 10 * np.log10(np.maximum(power @ _mel_bank().T, 10 ** (FLOOR_DB / 10)))
    return decibels


def compare(original: Samples, other: Samples) -> Likeness:
    """Compares two sounds, the second of which may be up to one frame late."""
    a, b = log_mel(original), log_mel(other)
    best = Likeness(energy_correlation=-1.0, mel_distance_db=float("inf"))
    for late in range(MAX_LATE + 1):
        length = min(len(a), len(b) - late)
        if length < 2:
            break
        left, right = a[:length], b[late : late + length]
        energies = [np.log10(np.mean(10 ** (part / 10), axis=1)) for part in (left, right)]
        if min(energy.std() for energy in energies) < 1e-9:
            correlation = 0.0
        else:
            correlation = float(np.corrcoef(energies[0], energies[1])[0, 1])
        if correlation > best.energy_correlation:
            distance = float(np.abs(left - right).mean())
            best = Likeness(energy_correlation=correlation, mel_distance_db=distance)
    return best


def decode_back(codec: AudioCodec, conversations: Sequence[Conversation], turns: int) -> dict[str, Any]:
    """Encodes and decodes a sample of turns, the same for the same corpus, and says how alike they are.

    Args:
        codec: the codec of the shards.
        conversations: all of them.
        turns: how many to take.
    """
    everything = [(item, turn) for item in conversations for turn in item.turns]
    chosen = sorted(everything, key=lambda pair: hashlib.sha256(pair[1].id.encode()).digest())[:turns]
    found = []
    for item, turn in chosen:
        audio = item.audio(turn)
        codes = torch.from_numpy(encode(codec, audio).astype(np.int64))
        with one_thread(), torch.inference_mode():
            decoded = codec.decode(codes[None])[0, 0].numpy()
        found.append((turn.id, compare(audio, decoded[: len(audio)])))
    worst = min(found, key=lambda pair: pair[1].energy_correlation)
    return {
        "turns": len(found),
        "energy_correlation": round(float(np.mean([like.energy_correlation for _, like in found])), 4),
        "mel_distance_db": round(float(np.mean([like.mel_distance_db for _, like in found])), 3),
        "worst_turn": worst[0],
        "worst_energy_correlation": round(worst[1].energy_correlation, 4),
    }
