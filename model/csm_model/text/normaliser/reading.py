"""The way of a text through the rules, one module after another, and what comes of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from csm_model.text.normaliser import (
    addresses,
    casing,
    characters,
    codes,
    dates,
    markup,
    numbers,
    quantities,
    streets,
    symbols,
    tex,
)
from csm_model.text.normaliser.casing import Known
from csm_model.text.normaliser.markup import FIRST_PAUSE, PAUSES

RULES = 2
"""Number of these rules: another one where a text may get other words. Tokens remember it; see `Tokenizer.rules`."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Words that are said without a pause that was asked for."""

    words: str
    pause: int = 0
    """Frames of silence that are asked for before it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What of a text is said."""

    passages: tuple[Passage, ...] = ()
    """In order, each with at least one letter."""
    pause: int = 0
    """Frames of silence that are asked for after the last of them."""
    left_out: str = ""
    """The signs that are not said, in order."""

    @property
    def words(self) -> str:
        """All words."""
        return " ".join(passage.words for passage in self.passages)


_PLAIN = re.compile(r"(?:[A-Z]?[a-z]+|[AI])(?:(?:'|-|[,.?!;:]* )(?:[A-Z]?[a-z]+|[AI])(?![A-Za-z]))*[.?!]*")
"""Words and punctuation of ordinary writing, which are read as they are: most texts."""
_SHORTENING = (numbers.counts_one, dates.has_range, quantities.has_unit, streets.has_street)
"""Whether there is something in such a text that is read in other words all the same."""
_SAID = re.compile(r"[^\W_]")
_MOST_PASSES = 3
_GAPS = re.compile(r"\s+")
_BEFORE_MARK = re.compile(r" +(?=[,.;:!?])")
_AFTER_OPEN = re.compile(r"(?<=\() +")
_MARKS = re.compile(r"(?:[,;:] ?){2,}|(?<=[.?!]) ?,")
_LEADING = re.compile(r"^[,;:\u2014 ]*(?:\. )?[,;:\u2014 ]*(?=[^.])")
_LONE_HYPHEN = re.compile(r"(?<![^ ])-+(?![^ ])")
_BRACKETS = str.maketrans("[]{}", "()()")
_ALLOWED = frozenset(" '\",.?!;:\u2014\u2026()-")
_WORD = re.compile(r"[^\W\d_]+")


def read_text(text: str, known: Known) -> Reading:
    """A text in words; takes time that grows with its length.

    Args:
        text: of any characters.
        known: whether the dictionary has a word, in lower case.
    """
    text, faces = symbols.take_out_faces(text)
    return _read(tex.say(characters.clean(text)), lambda one: _in_words(one, known), left_out=faces)


def read_markup(text: str) -> Reading:
    """A text without its markup, in its own characters: for a model that reads text as it is written."""
    return _read(characters.clean(text), lambda one: (one, ""))


def _read(text: str, say: Callable[[str], tuple[str, str]], *, left_out: str = "") -> Reading:
    text, out = markup.strip(text)
    passages: list[Passage] = []
    alone = [left_out, out]
    pause = begin = 0
    for match in (*PAUSES.finditer(text), None):
        words, out = say(text[begin : match.start() if match else len(text)])
        for _ in range(_MOST_PASSES):  # signs that stood beside others may stand beside words now
            again, more = say(words)
            if again == words:
                break
            words, out = again, out + more
        alone.append(out)
        words = _GAPS.sub(" ", words).strip()
        words = _LEADING.sub("", words)
        if _SAID.search(words):
            passages.append(Passage(words=words, pause=pause))
            pause = 0
        if match:
            pause += ord(match[0]) - FIRST_PAUSE
            begin = match.end()
    return Reading(passages=tuple(passages), pause=pause, left_out="".join(alone))


def _in_words(text: str, known: Known) -> tuple[str, str]:
    if not _PLAIN.fullmatch(text) or any(shortens(text) for shortens in _SHORTENING):
        text, emoticons = symbols.take_out(text)
        text = dates.say_first(streets.say(numbers.one_way(text)))
        text = addresses.say(quantities.say_rates(text))
        if any(map(str.isdigit, text)):
            text = codes.say(text)
            text = dates.say(text)
            text = numbers.say_fractions(text)
            text = quantities.say(text)
            text = numbers.say_products(text)
            text = numbers.say(text)
        text = quantities.say_alone(numbers.say_romans(text))
        text, alone = symbols.say(text)
        text, out = _letters(text.translate(_BRACKETS))
        text, out = _tidy(text), emoticons + alone + out
    else:
        out = ""
    return casing.in_ordinary_case(text, known), out


def _tidy(text: str) -> str:
    """Punctuation as it is written between words, where signs between have gone."""
    text = _LONE_HYPHEN.sub(" \u2014 ", _GAPS.sub(" ", text))
    text = _AFTER_OPEN.sub("", _BEFORE_MARK.sub("", text))
    return _MARKS.sub(lambda match: f"{match[0][0]} " if match[0][0] in ",;:" else "", text)


def _letters(text: str) -> tuple[str, str]:
    """The text in Latin letters and punctuation, and what was left out."""
    if text.isascii() and not any(map(str.isdigit, text)):
        plain = "".join(c if c.isalpha() or c in _ALLOWED or c.isspace() else " " for c in text)
        return plain, "".join(c for c in text if not (c.isalpha() or c in _ALLOWED or c.isspace()))
    out: list[str] = []
    said: list[str] = []
    for character in text:
        if character.isspace() or character in _ALLOWED or characters.is_latin(character):
            said.append(character)
            continue
        said.append(" ")
        if unicodedata.category(character)[0] != "P" or character.isascii():
            out.append(character)
    return _WORD.sub(lambda match: _latin(match[0]), "".join(said)), "".join(out)


def _latin(word: str) -> str:
    """A word in letters that the dictionary's guesses know: those of Western and Central European languages."""
    if word.isascii() or all(c.isascii() or "\u00c0" <= c <= "\u017f" for c in word):
        return word
    return characters.strip_marks(word)
