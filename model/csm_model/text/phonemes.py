"""American English phonemes, with the speaker in front.

What is written becomes words first (`csm_model.text.normaliser`). The phonemes of the words come from hibari's G2P
(misaki's alphabet, Apache-2.0), which chooses the pronunciation of homographs by part of speech. A stress mark and its
vowel are one token.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_model.errors import ArtifactError, MissingDependencyError, quoted
from csm_model.files import digest_of, write_json
from csm_model.text.base import check_characters, check_speaker, nothing_to_say
from csm_model.text.normaliser import RULES, Reading, read_text

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
_TEXTS_KEPT = 256
_WORDS_KEPT = 1024
"""Texts and words whose readings and phonemes are kept: a turn is looked at before it is spoken, and is context after
it."""


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


def _known(word: str) -> bool:
    """Whether the dictionary has a word, in lower case."""
    lexicon = _g2p().lexicon  # type: ignore[attr-defined]
    return word in lexicon.golds.d or word in lexicon.silvers.d


@functools.lru_cache(maxsize=_TEXTS_KEPT)
def _reading(text: str) -> Reading:
    return read_text(text, _known)


@functools.lru_cache(maxsize=_WORDS_KEPT)
def _tokens(words: str) -> tuple[str, ...]:
    """Phonemes, stress marks with their vowels, and punctuation."""
    return tuple(_TOKEN.findall(_g2p()(words)))


class PhonemeTokenizer:
    """Turns text into ids; `symbols` and `num_speakers` are all of its state."""

    kind = "phonemes"
    text_prefix = 2
    """Begin and speaker."""
    rules = RULES
    longest_turn = 85
    """Of the base corpus (`deploy/demo/make_corpora.py base`), over all its lines."""

    def __init__(self, *, symbols: tuple[str, ...] = SYMBOLS, num_speakers: int = 16) -> None:
        self.symbols = symbols
        self.num_speakers = num_speakers
        self._ids = {symbol: index for index, symbol in enumerate(symbols, start=_FIRST_SPEAKER + num_speakers)}
        self._marks = frozenset(self._ids[mark] for mark in _PUNCTUATION if mark in self._ids)

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

    def read(self, text: str) -> Reading:
        """See `Tokenizer`."""
        return _reading(text)

    def phonemes(self, text: str) -> list[int]:
        """The ids of the phonemes and pauses alone."""
        check_characters(text)
        ids = self._ids_of(self.read(text).words)
        if not ids:
            raise nothing_to_say(text)
        return ids

    def sounds_in(self, words: str) -> int:
        """See `Tokenizer`."""
        ids = self._ids_of(words)
        return len(ids) + self.text_prefix + 1 if ids else 0

    def _ids_of(self, words: str) -> list[int]:
        """The ids of words; none where there is no phoneme among them."""
        ids = []
        for token in _tokens(words) if words else ():
            known = token if token in self._ids else token[-1]
            if known in self._ids:
                ids.append(self._ids[known])
        return ids if not self._marks.issuperset(ids) else []

    def sounds(self, ids: Sequence[int]) -> int:
        """See `Tokenizer`: an id each."""
        return len(ids)

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON."""
        write_json(path, self._state())

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, where: str) -> PhonemeTokenizer:
        """What `save` wrote, read again; `where` is what errors name."""
        symbols, speakers = state.get("symbols"), state.get("num_speakers")
        texts = isinstance(symbols, list) and all(isinstance(each, str) and each for each in symbols)
        if not symbols or not texts or not isinstance(speakers, int) or isinstance(speakers, bool):
            raise ArtifactError(
                f"{where}: a damaged tokenizer (symbols {quoted(symbols)}, num_speakers {quoted(speakers)}); "
                "run the step that writes it again"
            )
        try:
            return cls(symbols=tuple(symbols), num_speakers=speakers)
        except ValueError as error:
            raise ArtifactError(f"{where}: a damaged tokenizer ({error}); run the step that writes it again") from None
