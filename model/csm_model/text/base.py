"""What every tokenizer gives to the rest of the program, and what every text must be.

A turn is begin, who speaks, the words, end, in every kind: Sesame's `[speaker]text` between BOS and EOS (generator.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from csm_model.errors import InputError
from csm_model.text.normaliser import Reading

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

    @property
    def rules(self) -> int:
        """Number of the rules by which `read` finds a text's words; ids may be others where it is another."""
        ...

    @property
    def longest_turn(self) -> int:
        """Sounds of the longest turn that the demo's models were trained on, and so of a turn that should be asked."""
        ...

    def read(self, text: str) -> Reading:
        """What of a text is said, and what is left out of it.

        Its words are ready to be encoded: read again they are themselves.
        """
        ...

    def sounds_in(self, words: str) -> int:
        """`sounds` of the turn that says some words; 0 where there is nothing in them that can be said."""
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
    """Raises `InputError` for a text without a letter or digit, too long, or with half a character in it."""
    if not _SPOKEN.search(text):
        raise nothing_to_say(text)
    check_characters(text)


def nothing_to_say(text: str) -> InputError:
    """What a text without anything that can be said is refused with."""
    return InputError(f"text {text[:40]!r} has nothing to say: give at least one word or number that English has")


def check_characters(text: str) -> None:
    """Raises `InputError` for a text that is too long, or has half a character in it."""
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
