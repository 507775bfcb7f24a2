"""How a turn is said: pace, loudness, pitch range and a word that stands out, each of a size that is asked for.

Only hibari's voices do all of it. Its network says how long each sound lasts and which pitch it has, so a word is found and
the pitch moved without measuring either: pulses are set closer or further apart by overlap and add (`moved`), which keeps
the timbre, and a word is made louder. The pace is the network's own speed. A turn that is said plainly is the voice's own.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from csm_model.errors import InputError
from voices import SAMPLE_RATE, VOICES, trimmed_part

PLAIN_LEVEL = -24.0  # dB under full scale, of a turn's samples: what lies between loud and quiet turns
EMPHASIS_SEMITONES = 5.0
EMPHASIS_DB = 4.0
AFTER_EMPHASIS_RANGE = 0.4  # factor on the pitch range of what follows the word, as speakers do
_LOWEST_HZ, _HIGHEST_HZ = 65.0, 420.0
VOICED_HZ = 40.0  # below it, hibari has no pulses
_HOP = 300  # samples between frames of hibari's
_FRAMES_A_STEP = 2  # durations are counted in steps of 25 ms
_DURATIONS = "/CumSum_output_0"  # in the network of hibari-tts 0.2.1: where each symbol ends
_PEAK = 0.98
_PAUSES = ",.?!;:\u2014\u2026"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How one turn is said."""

    pace: float = 1.0
    """Times the voice's own."""
    level: float = PLAIN_LEVEL
    """Root mean square of the turn's samples, dB under full scale."""
    pitch_range: float = 1.0
    """Factor on how far the pitch goes from its mean, on a logarithmic scale."""
    emphasis: int | None = None
    """The word, counted from 0, that stands out."""


@functools.cache
def _hibari():
    """hibari whose network says where each symbol ends as well."""
    import onnxruntime
    from hibari import Hibari

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    hibari = Hibari(threads=1)
    # Protocol buffers that are written one after the other are merged when read: ModelProto.graph.output.name.
    model = Path(hibari.model_path).read_bytes() + field(7, field(12, field(1, _DURATIONS.encode())))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    hibari.sess = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return hibari


def _with_range(f0: np.ndarray, delivery: Delivery, mean: float, lift: np.ndarray, after: int | None) -> np.ndarray:
    """The pitch [F] in Hz with another range; `lift` [F] are semitones more, and after frame `after` it is narrower still."""
    if delivery.pitch_range == 1.0 and delivery.emphasis is None:
        return f0
    factor = np.full(len(f0), delivery.pitch_range)
    if after is not None:
        factor[after:] *= AFTER_EMPHASIS_RANGE
    wanted = mean + factor * (np.log(np.maximum(f0, 1.0)) - mean) + lift * np.log(2) / 12
    return np.where(f0 > VOICED_HZ, np.clip(np.exp(wanted), _LOWEST_HZ, _HIGHEST_HZ), f0)


def _pulses(f0: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the pulses of a pitch [F] in Hz lie, and the pitch at each sample; as hibari's vocoder sets them."""
    at = np.interp((np.arange(samples) + 0.5) / _HOP - 0.5, np.arange(len(f0)), f0)
    cycles = np.floor(np.cumsum(np.maximum(at, VOICED_HZ)) / SAMPLE_RATE)
    return np.flatnonzero((np.diff(cycles, prepend=0.0) > 0) & (at > VOICED_HZ)), at


def moved(audio: np.ndarray, f0: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Sound [S] whose pitch is `f0` [F], with the pitch `wanted` [F]: time-domain PSOLA (Moulines and Charpentier, 1990).

    A pulse's surroundings, from the pulse before it to the one after, are set where a pulse is wanted. What is not near a
    pulse stays as it is, and so does all of it where both pitches are the same.
    """
    if np.array_equal(f0, wanted):
        return audio
    marks, pitch = _pulses(f0, len(audio))
    targets, _ = _pulses(wanted, len(audio))
    if not len(marks):
        return audio
    period = np.maximum(SAMPLE_RATE / pitch[marks], 1).astype(int)
    gaps = np.diff(marks)
    left = np.minimum(period, np.append(period[0], gaps)) if len(marks) > 1 else period
    right = np.minimum(period, np.append(gaps, period[-1])) if len(marks) > 1 else period
    joined = gaps < 1.5 * period[:-1]  # pulses of one stretch meet in the middle, whatever their distance
    left[1:][joined] = gaps[joined]
    right[:-1][joined] = gaps[joined]
    padded = np.pad(audio, 2 * int(period.max()) + 2)
    shift = 2 * int(period.max()) + 2
    out, kept = np.zeros_like(padded), np.ones_like(padded)
    windows = [
        np.concatenate([np.sin(np.pi / 2 * np.arange(a) / a) ** 2, np.cos(np.pi / 2 * np.arange(b) / b) ** 2])
        for a, b in zip(left, right, strict=True)
    ]
    for mark, a, window in zip(marks + shift, left, windows, strict=True):
        kept[mark - a : mark - a + len(window)] -= window
    nearest = np.clip(np.searchsorted((marks[1:] + marks[:-1]) / 2, targets), 0, len(marks) - 1)
    for target, i in zip(targets + shift, nearest, strict=True):
        begin = marks[i] + shift - left[i]
        piece = padded[begin : begin + len(windows[i])] * windows[i]
        out[target - left[i] : target - left[i] + len(piece)] += piece
    whole = out + padded * np.clip(kept, 0.0, 1.0)
    return whole[shift : shift + len(audio)].astype(np.float32)


def _word_frames(phonemes: str, ends: np.ndarray, word: int, kept: list[int]) -> tuple[int, int]:
    """First and last frame of a word; `kept` are the places of the characters that the network has a symbol for."""
    words = phonemes.split(" ")
    begin = sum(len(each) + 1 for each in words[:word])
    said = words[word].rstrip(_PAUSES)
    inside = [i for i, at in enumerate(kept) if begin <= at < begin + len(said)]
    first, last = inside[0] + 1, inside[-1] + 1  # the network's first symbol is a pause
    return int(ends[first - 1]) * _FRAMES_A_STEP, int(ends[last]) * _FRAMES_A_STEP


def _bump(frames: int, first: int, last: int) -> np.ndarray:
    """1 from `first` to `last`, with ramps of 50 ms outside."""
    at = np.arange(frames)
    return np.clip(np.minimum(at - first + 4, last + 4 - at) / 4, 0.0, 1.0)


def speak_as(name: str, text: str, delivery: Delivery, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """A turn in one of hibari's voices, and what was planted in it.

    Returns:
        float32 [samples] at 24 kHz, silence trimmed; and the delivery, with the seconds of the word that stands out.

    Raises:
        InputError: the voice is not one of hibari's, or the text has no such word.
    """
    from hibari import dsp

    engine, _, percent = VOICES[name]
    if engine != "hibari":
        raise InputError(f"voice {name!r}: its pitch cannot be asked for; choose one of hibari's")
    hibari, rng = _hibari(), np.random.default_rng(seed)
    speed = np.array([delivery.pace * 100 / percent], np.float32)
    sentences = hibari.phonemize(text)
    parts = [hibari.sess.run(None, {"ids": np.array([hibari.ids(each)]), "speed": speed}) for each in sentences]
    voiced = np.concatenate([part[5][0] for part in parts])
    mean = float(np.log(voiced[voiced >= VOICED_HZ]).mean())
    word, pieces, samples, span = delivery.emphasis, [], 0, None
    for phonemes, part in zip(sentences, parts, strict=True):
        spectra, f0 = [out[0] for out in part[:6]], part[5][0]
        stands_out, after = np.zeros(len(f0)), None
        count = len(phonemes.split(" "))
        if word is not None and word < count:
            kept = [i for i, symbol in enumerate(phonemes) if symbol in hibari.vocab]
            first, after = _word_frames(phonemes, part[6], word, kept)
            stands_out = _bump(len(f0), first, after)
            span = (samples + first * _HOP, samples + after * _HOP)
        word = None if word is None or word < count else word - count
        wanted = _with_range(f0, delivery, mean, stands_out * EMPHASIS_SEMITONES, after)
        louder = 10 ** (EMPHASIS_DB / 20 * np.repeat(stands_out, _HOP))
        pieces.append(moved(dsp.synth(*spectra, rng), f0, wanted) * louder.astype(np.float32))
        samples += len(pieces[-1])
    if word is not None:
        raise InputError(f"{text!r}: has no word {delivery.emphasis}, counted from 0; name one that it has")
    audio = np.concatenate(pieces)
    if percent != 100:
        audio = resample_poly(audio, 100, percent).astype(np.float32)
    begin, end = trimmed_part(audio)
    audio = audio[begin:end]
    gain = min(10 ** (delivery.level / 20) / float(np.sqrt(np.mean(audio**2))), _PEAK / float(np.abs(audio).max()))
    planted = asdict(delivery)
    if span is not None:
        planted["emphasis_s"] = [round((at * 100 / percent - begin) / SAMPLE_RATE, 3) for at in span]
    return (gain * audio).astype(np.float32), planted
