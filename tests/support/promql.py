"""Reads out of a PromQL expression what it asks for: metrics, their matchers, and the labels it groups and joins by.

Whether an expression is right is for Prometheus to say (`promtool check rules`); this takes it for right. What is no
string, number, range, keyword, function or list of labels is the name of a metric.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<string> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | `[^`]*` )
    | (?P<range> \[[^\]]*\] )
    | (?P<number> [0-9][0-9a-zA-Z.]* )
    | (?P<name> [a-zA-Z_:][a-zA-Z0-9_:]* )
    | (?P<sign> =~ | !~ | != | == | >= | <= | [^\s] )""",
    re.VERBOSE,
)
_LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"}


@dataclass(frozen=True)
class Selector:
    """A metric that an expression asks for."""

    name: str
    matchers: dict[str, tuple[str, str]] = field(default_factory=dict)
    """`{"reason": ("=~", "busy|wait")}`"""


@dataclass(frozen=True)
class Asked:
    """All that an expression asks for."""

    selectors: tuple[Selector, ...]
    labels: frozenset[str]
    """Labels by which it groups or joins."""

    @property
    def names(self) -> set[str]:
        """The metrics."""
        return {selector.name for selector in self.selectors}


def read(expression: str) -> Asked:
    """What an expression asks for; it must be one that Prometheus takes."""
    tokens = [(match.lastgroup, match[0]) for match in _TOKEN.finditer(expression) if match.lastgroup]
    selectors, labels, place = [], set(), 0
    while place < len(tokens):
        kind, text = tokens[place]
        after = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        place += 1
        if kind == "name" and text.lower() in _LABEL_LISTS:
            if after == "(":
                inside, place = _until(tokens, place + 1, ")")
                labels |= {word for kind, word in inside if kind == "name"}
        elif text == "{" or (kind == "name" and not _is_word(text, after)):
            matchers: dict[str, tuple[str, str]] = {}
            if text == "{" or after == "{":
                inside, place = _until(tokens, place + (text != "{"), "}")
                matchers = dict(_matchers(inside))
            name = matchers.pop("__name__", ("=", ""))[1] if text == "{" else text
            selectors.append(Selector(name, matchers))
    return Asked(tuple(selectors), frozenset(labels))


def _is_word(text: str, after: str) -> bool:
    """Whether a name is no metric's: a word of the language, a function, or an aggregation before its labels."""
    return text.lower() in _WORDS or after == "(" or after.lower() in {"by", "without"}


def _until(tokens: list[tuple[str | None, str]], place: int, end: str) -> tuple[list[tuple[str | None, str]], int]:
    close = next(at for at in range(place, len(tokens)) if tokens[at][1] == end)
    return tokens[place:close], close + 1


def _matchers(tokens: list[tuple[str | None, str]]) -> Iterator[tuple[str, tuple[str, str]]]:
    for (_, name), (_, sign), (_, value) in zip(tokens[::4], tokens[1::4], tokens[2::4], strict=True):
        yield name, (sign, value[1:-1])
