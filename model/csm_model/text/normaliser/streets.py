"""Addresses of houses: kinds of streets, parts of buildings and directions that are shortened."""

from __future__ import annotations

import re

_WAYS = {"Ave": "Avenue", "Blvd": "Boulevard", "Hwy": "Highway", "Pkwy": "Parkway", "Rd": "Road", "Ln": "Lane"}
"""After a name, in every text."""
_WORDS_TOO = {"St": "Street", "Dr": "Drive", "Ct": "Court", "Pl": "Place", "Sq": "Square", "Ter": "Terrace"}
"""After a name that has a number before it; saints and doctors elsewhere."""
_PARTS = {"Apt": "Apartment", "Bldg": "Building", "Rm": "Room", "Ste": "Suite", "Fl": "Floor", "Hwy": "Highway",
          "Rte": "Route"}  # fmt: skip
"""Before a number or letter."""
_DIRECTIONS = {"N": "North", "S": "South", "E": "East", "W": "West"}

_WAY = re.compile(rf"(?<=[a-z] )({'|'.join(_WAYS)})\b(\.)?(?! Maria)")
_HOUSE = re.compile(
    r"(?<![\w.,])(\d{1,5}[A-Za-z]?(?: [NSEW]\.?)?(?: [A-Z][a-z]+| \d{1,3}(?:st|nd|rd|th)){1,3} "
    r"|\d{1,3}(?:st|nd|rd|th) )"
    rf"({'|'.join([*_WORDS_TOO, *_WAYS])})\b(\.)?(?!\.| (?!{'|'.join(_PARTS)}|Unit)[A-Z][a-z])"
)
_PART = re.compile(rf"\b({'|'.join(_PARTS)})\b\.? #?(?=\d|[A-Z]\b)")
_DIRECTION = re.compile(rf"\b({'|'.join([*_WAYS.values(), *_WORDS_TOO.values()])}) ([NS][EW]?|[EW])\b(?!\.\w)")


def say(text: str) -> str:
    """The text with such words in full."""
    text = _HOUSE.sub(lambda match: match[1] + _full(match, 2), text)
    text = _WAY.sub(lambda match: _full(match, 1), text)
    text = _PART.sub(lambda match: f"{_PARTS[match[1]]} ", text)
    return _DIRECTION.sub(lambda match: f"{match[1]} {_direction(match[2])}", text)


def has_street(text: str) -> bool:
    """Whether a street's kind is shortened in a text, which may look like a word: `Park Ave`."""
    return bool(_WAY.search(text) or _PART.search(text))


def _full(match: re.Match[str], group: int) -> str:
    """The word in full, and a full stop only where the text ends."""
    return (_WAYS | _WORDS_TOO)[match[group]] + ("." if match[group + 1] and match.end() == len(match.string) else "")


def _direction(short: str) -> str:
    words = [_DIRECTIONS[letter] for letter in short]
    return words[0] + "".join(words[1:]).lower()
