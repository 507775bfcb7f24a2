"""American English phonemes, with the speaker in front.

The phonemes come from hibari's G2P (misaki's alphabet, Apache-2.0): it reads numbers, dates and abbreviations, and
chooses the pronunciation of homographs by part of speech. A stress mark and its vowel are one token.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_model.errors import ArtifactError, InputError, MissingDependencyError
from csm_model.files import digest_of, write_json
from csm_model.text.base import check_speaker, check_text

BEGIN, END = 0, 1
_FIRST_SPEAKER = 2
_PUNCTUATION = " ,.?!;:—…"
_CONSONANTS = "bdfhjklmnpstvwzðŋɡɹɾTʃʒʤʧθʔ"
_VOWELS = "AIOQWYaeiouæɐɑɒɔəɚɛɜɪʊʌᵊᵻ"
_STRESSES = "ˈˌ"
SYMBOLS: tuple[str, ...] = (
    *_PUNCTUATION,
    *_CONSONANTS,
    *_VOWELS,
    *(stress + vowel for stress in _STRESSES for vowel in _VOWELS),
)
_TOKEN = re.compile("[ˈˌ]?.")


@functools.cache
def _g2p() -> Callable[[str], str]:
    try:
        from hibari.g2p import G2P
    except ImportError:
        raise MissingDependencyError(
            "hibari-tts is not installed: it turns text into phonemes; pip install 'csm-foundry[serve]'"
        ) from None
    converter: Callable[[str], str] = G2P()
    return converter


class PhonemeTokenizer:
    """Turns text into ids; `symbols` and `num_speakers` are all of its state."""

    kind = "phonemes"
    text_prefix = 2
    """Begin and speaker."""

    def __init__(self, *, symbols: tuple[str, ...] = SYMBOLS, num_speakers: int = 16) -> None:
        self.symbols = symbols
        self.num_speakers = num_speakers
        self._ids = {symbol: index for index, symbol in enumerate(symbols, start=_FIRST_SPEAKER + num_speakers)}

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this, exclusive."""
        return _FIRST_SPEAKER + self.num_speakers + len(self.symbols)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokenizer's state."""
        return digest_of(self._state())

    def _state(self) -> dict[str, object]:
        return {"kind": self.kind, "symbols": list(self.symbols), "num_speakers": self.num_speakers}

    def encode(self, text: str, speaker: int) -> list[int]:
        """The ids of one turn: begin, speaker, phonemes, end.

        Raises:
            InputError: the speaker is unknown, or there is nothing in the text that can be said, or too much.
        """
        return [BEGIN, self.speaker_id(speaker), *self.phonemes(text), END]

    def speaker_id(self, speaker: int) -> int:
        """The id that stands for a speaker's number."""
        check_speaker(speaker, self.num_speakers)
        return _FIRST_SPEAKER + speaker

    def phonemes(self, text: str) -> list[int]:
        """The ids of the phonemes and pauses alone."""
        check_text(text)
        ids = []
        for token in _TOKEN.findall(_g2p()(text)):
            known = token if token in self._ids else token[-1]
            if known in self._ids:
                ids.append(self._ids[known])
        if not ids:
            raise InputError(f"text {text[:40]!r} has nothing that can be pronounced: give English words or numbers")
        return ids

    def sounds(self, ids: Sequence[int]) -> int:
        """See `Tokenizer`: an id each."""
        return len(ids)

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON."""
        write_json(path, self._state())

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, where: str) -> PhonemeTokenizer:
        """What `save` wrote, read again; `where` is what errors name."""
        try:
            return cls(symbols=tuple(state["symbols"]), num_speakers=int(state["num_speakers"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{where}: a damaged tokenizer ({error}); run the step that writes it again") from None
