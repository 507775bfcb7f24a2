"""From written passages to sentences that can be spoken: one breath long, of words that the dictionary knows.

What is kept is what the project's normaliser makes of a sentence, so that a recogniser's transcript can be compared with
it word for word: no digits, no abbreviations, no quotation marks.
"""

from __future__ import annotations

import functools
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from csm_model.text import PhonemeTokenizer
from csm_model.text.phonemes import SYMBOLS

FEWEST_WORDS, MOST_WORDS = 3, 18
MOST_SOUNDS = PhonemeTokenizer.longest_turn
"""Tokens of a line, as long as a turn may be: a longer text is split where it is spoken."""

_TYPOGRAPHIC = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "_": " "})
_QUOTES = re.compile(r"""["`]|(?<![A-Za-z])'|'(?![A-Za-z])""")
_DASHES = re.compile(r"\s*(?:--+|\u2014)\s*")
_END = re.compile(r"""(?<=[.!?\u2026])["')\]]*\s+["'(\[]*(?=[A-Z])""")
_NO_END = re.compile(r"(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|St|Capt|Col|Gen|Sgt|No|vs|etc|e\.g|i\.e|[A-Z])\.$")
_CLAUSE = re.compile(r"\s*[;\u2014]\s*|:\s+")
# Placeholders, markup, addresses, paths, ornaments: what nobody says.
_UNSPOKEN = re.compile(r"[<>{}\[\]|=@#\\/*^~+]|https?:|www\.|\.(?:com|org|net)\b")
# Two names in a row after the first word: a person's, as a rule.
_FULL_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+ (?:[A-Z]\.? )?[A-Z][a-z]+")
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
_PLAIN = re.compile(r"[A-Za-z ,.?!;:'\u2026\u2014-]+")
# Spellings of dialects, which the dictionary has in other senses, and words that a demonstration is better without.
_LEFT_OUT = frozenset(
    "ain tha thar ta ya yer fer ye em o de la von ll ve re nigger niggers negro negroes faggot whore whores slut bitch "
    "fuck fucking fucked shit cunt penis vagina rape raped rapist orgasm sex sexual sexually breasts naked nude "
    "suicide terrorist terrorists nazi nazis hitler jew jews muslim muslims retard retarded crap damn bastard".split()
)
_UNKNOWN = "?!?"
_TOKEN = re.compile("[ˈˌ]?.")
_TOKENIZER = PhonemeTokenizer()


@functools.cache
def _g2p(*, guess: bool) -> Callable[[str], str]:
    """hibari's G2P; where it may not guess, a word that the dictionary does not have comes out as `_UNKNOWN`."""
    from hibari.g2p import G2P

    converter: Callable[[str], str] = G2P() if guess else G2P(oov=False, unk=_UNKNOWN)
    return converter


def sounds(words: str, *, guess: bool = False) -> list[str] | None:
    """The phonemes of a line in the tokenizer's symbols.

    None where it is too long or, unless they may be guessed, a word is not in the dictionary (as many first names are not).
    """
    phonemes = _g2p(guess=guess)(words)
    tokens = [token if token in SYMBOLS else token[-1] for token in _TOKEN.findall(phonemes)]
    return None if _UNKNOWN in phonemes or len(tokens) > MOST_SOUNDS else tokens


def split(passage: str) -> Iterator[str]:
    """The sentences of a passage as they are written, quotation marks gone; long ones by their clauses."""
    text = _DASHES.sub(" \u2014 ", passage.translate(_TYPOGRAPHIC))
    sentences = [""]
    for part in _END.split(text):
        joined = f"{sentences[-1]} {part}" if sentences[-1] else part
        if not sentences[-1] or _NO_END.search(sentences[-1]):
            sentences[-1] = joined
        else:
            sentences.append(part)
    for sentence in sentences:
        plain = " ".join(_QUOTES.sub("", sentence).split())
        if len(_WORD.findall(plain)) <= MOST_WORDS:
            yield plain
            continue
        for clause in _CLAUSE.split(plain):
            if clause:
                clause = clause[0].upper() + clause[1:]
                yield clause if clause.endswith((".", "?", "!")) else clause.rstrip(",") + "."


def in_words(sentence: str) -> str | None:
    """A sentence as the normaliser says it; None where it is too short or long, or leaves something unsaid."""
    words = _TOKENIZER.read(sentence).words
    words = words[:1].upper() + words[1:]
    said = _WORD.findall(words)
    fits = FEWEST_WORDS <= len(said) <= MOST_WORDS and _PLAIN.fullmatch(words)
    return words if fits and not any(word.lower() in _LEFT_OUT and word not in "EMO" for word in said) else None


def spoken(sentence: str) -> str | None:
    """A sentence of prose in words; None for one that is not for speaking."""
    if _UNSPOKEN.search(sentence) or not sentence[:1].isupper() or not sentence.endswith((".", "?", "!")):
        return None
    if _FULL_NAME.search(sentence):
        return None
    words = in_words(sentence)
    said = _WORD.findall(words or "")
    if any(a.lower() == b.lower() == c.lower() for a, b, c in zip(said, said[1:], said[2:], strict=False)):
        return None
    if sum(word[0].isupper() and word != "I" for word in said[1:]) > 2 or sum(len(word) == 1 for word in said) > 6:
        return None  # a list of names, a title, a spelling
    return words


def plain(text: str) -> str:
    """What two texts are compared by: their words in lower case."""
    return " ".join(_WORD.findall(text.lower()))


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def trigrams(text: str) -> list[tuple[str, str, str]]:
    """All runs of three words of a text."""
    words = words_of(text)
    return list(zip(words, words[1:], words[2:], strict=False))


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Kind and text of each line of a text that `collect_text.py` wrote."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        pairs = (line.rstrip("\n").split("\t") for line in file)
        return [(kind, text) for kind, text in pairs]
