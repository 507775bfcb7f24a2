"""What every tokenizer gives to the rest of the program, and what every text must be.

A turn is begin, who speaks, the words, end, in every kind: Sesame's `[speaker]text` between BOS and EOS (generator.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from csm_model.errors import InputError

_SPOKEN = re.compile(r"[^\W_]")
MAX_CHARACTERS = 1_000


class Tokenizer(Protocol):
    """Turns a turn's text into the ids of its rows; immutable, the same for everybody who holds its digest."""

    @property
    def kind(self) -> str:
        """How text is cut: phonemes or bpe."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this, exclusive."""
        ...

    @property
    def num_speakers(self) -> int:
        """Speakers run from 0 to this, exclusive."""
        ...

    @property
    def text_prefix(self) -> int:
        """Leading ids of a turn that say who speaks and nothing of the words: as many for every speaker and text."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the tokenizer's state."""
        ...

    def encode(self, text: str, speaker: int) -> list[int]:
        """The ids of one turn: begin, speaker, words, end.

        Raises:
            InputError: the speaker is unknown, or there is nothing in the text that can be said, or too much.
        """
        ...

    def sounds(self, ids: Sequence[int]) -> int:
        """How many phonemes and pauses the ids of a turn take to say, rather more than fewer: what bounds speech."""
        ...

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON; `load_tokenizer` reads it."""
        ...


def check_text(text: str) -> None:
    """Raises `InputError` for a text with nothing to say, too long, or with half a character in it."""
    if not _SPOKEN.search(text):
        raise InputError(f"text {text[:40]!r} has nothing to say: give at least one letter or digit")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"text of {len(text)} characters is too long: give at most {MAX_CHARACTERS} at a time")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text {text[:40]!r} has half of a surrogate pair at character {error.start}: give text that is valid UTF-8"
        ) from None


def check_speaker(speaker: int, num_speakers: int) -> None:
    """Raises `InputError` for a number that no speaker of the tokenizer has."""
    if not 0 <= speaker < num_speakers:
        raise InputError(f"speaker {speaker} is unknown: speakers are numbered 0 to {num_speakers - 1}")
