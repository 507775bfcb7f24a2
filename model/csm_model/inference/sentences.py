"""Long text as pieces that one turn can say, each with the pause that its punctuation asks for.

Text may come in parts, cut anywhere, as a language model writes it: `SentenceSplitter` reads it character by character,
so that the pieces do not depend on the cuts. A sentence is given out as soon as the first character of the next one is
there, which tells an end from an abbreviation or a quotation that goes on; a sentence too long for a turn as soon as it
is one character too long.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from csm_model.errors import InputError
from csm_model.frames import FRAME_RATE
from csm_model.text import MAX_CHARACTERS

LONGEST = 90
"""Characters of a piece, at most, unless told otherwise: the turns that the demo's base was trained on have up to 91
(the lines of `deploy/demo/make_corpora.py base`), those of the demo itself up to 72."""
_SHORTEST_BOUND = 20
_SHORTEST_PART = 8
"""Characters of a part that is not cut again, whatever it takes to say."""
_REACH = 125
"""Characters that a hundred sounds may take, so that more need not be looked at."""


class Break(enum.Enum):
    """What stands between a piece and the next one, weakest first."""

    SPACE = "space"
    """Nothing: the piece was too long, and had no better place to be cut."""
    COMMA = "comma"
    CLAUSE = "clause"
    """A semicolon, a colon or a dash."""
    SENTENCE = "sentence"
    PARAGRAPH = "paragraph"


PAUSE_SECONDS = {
    Break.SPACE: 0.0,
    Break.COMMA: 0.08,
    Break.CLAUSE: 0.24,
    Break.SENTENCE: 0.40,
    Break.PARAGRAPH: 0.88,
}
"""Silence added after a piece. A spoken piece closes with about a frame (0.08 s) of silence of its own, so that what is
heard is 0.16 s at a comma and 0.48 s between sentences: in the demo's training turns the median is 0.08 and 0.16 s (its
two voices) at a comma and 0.24 and 0.64 s between sentences (`benchmarks/failures.py` prints them). Clauses lie between
the two; a paragraph takes two sentences' time."""

_ENDS = "!?\u203d\u3002\uff01\uff1f"  # ! ? interrobang, and the full-width ones
_WIDE_ENDS = "\u3002\uff01\uff1f"  # no space follows them
_CLOSERS = "\"'\u201d\u2019\u00bb)]}*_"
_OPENERS = "\"'\u201c\u2018\u00ab([{*_"
_LOOK_AGAIN = 16
"""Characters that are read before the next look, where there was no place to cut."""
_MOST_OVER = 4
"""Times `longest` that a piece may be rather than be cut within a form; one that is too long to say is cut as words."""
_LONGEST_MARK = 300
_NEAR = 40
_UNREAD = 4
"""Characters in which a number has not begun yet, perhaps."""
_MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
_JOINED_BEFORE = re.compile(
    rf"(?:\d[.)%'\"]?|[$\u20ac\u00a3\u00a5+\u2212\u2013-]|\d,|\b(?:{_MONTHS})[a-z]*\.?|\b(?:[Nn]os?|pp?|[Vv]ol|[Cc]h|[Ff]ig)\."
    r"|[A-Z]{2,3})$"
)
"""What belongs to a number that follows, or to a unit; a comma only to a year."""
_JOINED_AFTER = re.compile(
    r" (?:(?<=\d, )(?:19|20)\d\d\b|(?<![,] )[($+\u20ac\u00a3\u00a5\u2212-]?\d"
    r"|(?<=[\d.)%'\"] )(?:[$\u20ac\u00a3\u00a5%\u2013+=\u00d7\u00b0x-]"
    rf"|(?:{_MONTHS})|[a-zA-Z\u03bc\u00b5\u03a9]{{1,3}}\b|thousand|[bmtr]+illion|hundred|percent))"
)
_OPEN_FORMULA = re.compile(
    r"(?:(?<![\w$\\])\${1,2}(?![\s$\d.,;:!?)-]|[A-Z]{2,5}\b|[A-Za-z]{4})[^$]{0,80}|\\[(\[](?:(?!\\[)\]]).){0,80})$",
    re.S,
)
"""A formula of TeX that has not ended yet."""
_SIGNS = frozenset("$+<=>%&@#")
_CLAUSE_MARKS = ";:\u2014\u2013"
_DASHES = "-\u2013\u2014\u2212"
_BULLETS = "-*\u2022\u00b7"
_LINE_MARKS = "#>|"
"""What a line of Markdown begins with: a heading, a quotation, the row of a table."""
_HEADING = re.compile(r"#{1,6} ")
_LIST_NUMBER = re.compile(r"\(?\d{1,3}[.)]")
_LIST_ITEM = re.compile(rf"(\(?\d{{1,3}}[.)]|[{re.escape(_BULLETS)}]) ")
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\.")

_NEVER_LAST = frozenset(
    "mr mrs ms mx dr prof st mt ft gen sen rep gov capt lt col sgt maj cmdr adm rev hon pres messrs mmes vs cf eg ie "
    "e.g i.e viz approx ca al dept univ est".split()
)
"""Abbreviations that something always follows."""
_BEFORE_NUMBERS = frozenset(
    "no nos fig figs vol p pp art sec ch eq jan feb mar apr jun jul aug sep sept oct nov dec tel ext max min "
    "avg".split()
)
"""Abbreviations only where a number follows; words of their own, or ends, elsewhere."""
_BEFORE_DASHES = frozenset("jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun".split())
"""Abbreviations where a range begins: `Jan. - Mar.`."""
_BEFORE_ROMANS = frozenset("ch vol".split())
"""Abbreviations that a roman numeral may follow."""
_SOMETIMES_LAST = frozenset("ave blvd rd etc inc ltd co corp bros jr sr a.m p.m am pm ph.d m.d b.a m.a d.c esq".split())
"""Abbreviations that may end a sentence: they do where a capital follows."""
_JOINS = frozenset(
    "and or but because which that who when while where if so then than as for with after before".split()
)
"""Words that a long sentence may be cut before."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one turn says."""

    text: str
    """White space is one space; holds at least one letter, digit or sign."""
    after: Break
    """What stands between it and the next piece."""
    before: int = 0
    """Frames of silence that the text asks for before it."""

    @property
    def pause(self) -> int:
        """Frames of silence between it and the next piece."""
        return round(PAUSE_SECONDS[self.after] * FRAME_RATE)


class SentenceSplitter:
    """Text in parts to pieces; `longest` is the most characters of a piece.

    Joined with spaces the pieces are the text, but for white space, for breaks at dashes and full-width stops that no
    space follows, and for ends and overlong parts in which there is nothing to say.

    Raises:
        InputError: `longest` is too small to cut at words, or more than a turn may hold.
    """

    def __init__(self, *, longest: int = LONGEST) -> None:
        if not _SHORTEST_BOUND <= longest <= MAX_CHARACTERS:
            raise InputError(
                f"longest piece of {longest} characters: must be from {_SHORTEST_BOUND} to {MAX_CHARACTERS}"
            )
        self.longest = longest
        self._text = ""  # of the piece that is being read
        self._look = longest  # characters of it, after which it is looked at for a place to cut
        self._lines: int | None = None  # line ends in the white space after it; None where there is no white space

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are complete once `text` is read as well."""
        return [piece for character in text for piece in self._read(character)]

    def finish(self) -> list[Piece]:
        """What is left, as if the text ended here; it may go on all the same, with a new piece."""
        text, self._text, self._lines, self._look = self._text, "", None, self.longest
        return [Piece(text=text, after=Break.SENTENCE)] if has_content(text) else []

    def _read(self, character: str) -> Iterator[Piece]:
        if character.isspace():
            if self._text:
                self._lines = (self._lines or 0) + (character == "\n")
            return
        after = self._break_before(character) if has_content(self._text) else None
        if after is not None:
            yield Piece(text=self._text, after=after)
            self._text, self._look = "", self.longest
        elif self._lines is not None:
            self._text += " "
        self._text += character
        self._lines = None
        if len(self._text) > self._look:
            yield from self._cut()

    def _break_before(self, character: str) -> Break | None:
        """What ends the piece read so far, now that `character` follows it; None where it goes on."""
        text = self._text
        if _is_within(text, len(text)):
            return None
        body = text.rstrip(_CLOSERS)
        if self._lines is None:
            wide = body.endswith(tuple(_WIDE_ENDS)) and character not in _CLOSERS + _ENDS
            return Break.SENTENCE if wide else None
        if self._lines > 1:
            return Break.PARAGRAPH
        if self._lines and body.endswith((";", ":")):
            return Break.CLAUSE
        if self._lines and (character in _LINE_MARKS or _HEADING.match(text)):
            return Break.SENTENCE
        if self._lines and (character in _BULLETS or (_LIST_ITEM.match(text) and character.isdigit())):
            return Break.SENTENCE
        if not body.endswith((*_ENDS, ".", "\u2026")):
            return None
        quoted = len(body) < len(text)
        if quoted and character.islower():  # "Stop!" he said
            return None
        if body.endswith((*_ENDS,)):
            return Break.SENTENCE
        if body.endswith(("\u2026", "..")):
            return None if character.islower() or character in ",;:" else Break.SENTENCE
        return Break.SENTENCE if _stops(body, character) else None

    def _cut(self) -> Iterator[Piece]:
        """Cuts the piece, which is too long, where it hurts least; not yet, where that would cut a form in two."""
        text = self._text
        if not has_content(text[:-1]):
            self._text = text[-1:].lstrip()
            return
        place, after = _best_cut(text, len(text) - 1, whole=len(text) <= _MOST_OVER * self.longest)
        self._look = self.longest if place else len(text) + _LOOK_AGAIN
        if not place:
            return
        yield Piece(text=text[:place], after=after)
        self._text = text[place:].lstrip()


def split_text(text: str, *, longest: int = LONGEST) -> list[Piece]:
    """The pieces of a whole text; see `SentenceSplitter`."""
    splitter = SentenceSplitter(longest=longest)
    return splitter.feed(text) + splitter.finish()


def split_parts(parts: Iterable[str], *, longest: int = LONGEST) -> Iterator[Piece]:
    """The pieces of a text that comes in parts, each as early as it is known; see `SentenceSplitter`."""
    splitter = SentenceSplitter(longest=longest)
    for part in parts:
        yield from splitter.feed(part)
    yield from splitter.finish()


def has_content(text: str) -> bool:
    """Whether there is anything but punctuation in a text: what may be said, or has to be told as left out."""
    return any(
        character.isalnum()
        or character in _SIGNS
        or (not character.isascii() and unicodedata.category(character)[0] == "S")
        for character in text
    )


def cut_to(text: str, *, most: int, sounds: Callable[[str], int]) -> Iterator[tuple[str, Break]]:
    """Words cut so that no part takes more than `most` sounds, where it hurts least, each with what follows it.

    A part is cut when it is asked for, and no more is looked at than it may hold: however long the words are, a part
    takes a few milliseconds.

    Args:
        text: words and punctuation.
        most: sounds of a part.
        sounds: how many a part takes.
    """
    reach = most * _REACH // 100
    while len(text) > reach or sounds(text) > most:
        longest = min(len(text) - 1, reach)
        while True:
            place, after = _best_cut(text[: longest + 1], longest)
            if longest <= _SHORTEST_PART or sounds(text[:place]) <= most:
                break
            longest = max(_SHORTEST_PART, longest * 3 // 4)
        yield text[:place].rstrip(), after
        text = text[place:].lstrip()
        if len(text) <= _SHORTEST_PART:
            break
    if text:
        yield text, Break.SENTENCE


def _stops(body: str, character: str) -> bool:
    """Whether the full stop that `body` ends with ends a sentence, when `character` follows after white space."""
    if _LIST_NUMBER.fullmatch(body):
        return False
    word = body.rsplit(" ", 1)[-1].lstrip(_OPENERS)
    bare = word[:-1].lower()
    if bare in _NEVER_LAST or (bare in _BEFORE_NUMBERS and character.isdigit()):
        return False
    if bare in _BEFORE_DASHES and character in _DASHES:
        return False
    if bare in _BEFORE_ROMANS and character in "IVXLC":
        return False
    if bare in _SOMETIMES_LAST:
        return not (character.islower() or character.isdigit())
    return word == "I." or not _ACRONYM.fullmatch(word)  # initials and acronyms: J. Smith, the U.S. coast


def _best_cut(text: str, longest: int, *, whole: bool = False) -> tuple[int, Break]:
    """Where to cut a text of more than `longest` characters, and what is there: at most so many come before.

    The last place of the best kind in the second half; else the last clause or comma after the first quarter; else the
    last space; else in the middle of a word. With `whole` no form is cut in two, such as a link or a date: 0 where
    there is no other place.
    """
    places: dict[str, list[tuple[int, Break]]] = {"clause": [], "comma": [], "join": [], "space": []}
    for place in range(1, longest + 1):
        before, here = text[place - 1], text[place]
        if whole and (here == " " or before == "\u2014") and (_is_within(text, place) or _is_joined(text, place)):
            continue
        if before == "\u2014" and here != " ":
            places["clause"].append((place, Break.CLAUSE))
        if here != " ":
            continue
        left = text[:place].rstrip(_CLOSERS)
        follows = text[place + 1 :].split(" ")
        if left.endswith((*_CLAUSE_MARKS, " -")):
            places["clause"].append((place, Break.CLAUSE))
        elif left.endswith(","):
            places["comma"].append((place, Break.COMMA))
        elif len(follows) > 1 and follows[0].lower() in _JOINS:
            places["join"].append((place, Break.SPACE))
        else:
            places["space"].append((place, Break.SPACE))
    choices = [(kind, longest // 2) for kind in ("clause", "comma", "join")]
    choices += [
        ("clause", longest // 4),
        ("comma", longest // 4),
        ("space", 0),
        ("join", 0),
        ("comma", 0),
        ("clause", 0),
    ]
    for kind, least in choices:
        for place, after in reversed(places[kind]):
            if place >= least and has_content(text[:place]):
                return place, after
    if whole and not text[text.rfind(" ", 0, longest) + 1 : longest + 1].isalpha():
        return 0, Break.SPACE
    return longest, Break.SPACE


def _is_within(text: str, place: int) -> bool:
    """Whether a place is inside a tag, a link or a formula."""
    tag = text.rfind("<", max(0, place - _LONGEST_MARK), place)
    if tag >= 0 and text[tag + 1 : tag + 2].isalpha() and text.find(">", tag, place) < 0:
        return True
    link = text.rfind("[", max(0, place - _LONGEST_MARK), place)
    if link >= 0:
        close = text.find("]", link, place)
        if close < 0 or (text[close + 1 : close + 2] == "(" and text.find(")", close, place) < 0):
            return True
    return any(sign in text for sign in "$\\") and _OPEN_FORMULA.search(text, 0, place) is not None


def _is_joined(text: str, place: int) -> bool:
    """Whether a place is between a number and what belongs to it, as far as that is read."""
    if not _JOINED_BEFORE.search(text[max(0, place - _NEAR) : place]):
        return False
    return len(text) - place < _UNREAD or _JOINED_AFTER.match(text, place) is not None
