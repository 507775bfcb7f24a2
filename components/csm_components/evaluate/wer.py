"""Word error rate that counts what was heard, not how it was written.

Both sides go through the same steps: lower case, no punctuation, one spelling (theatre, theater), and everything that
has more than one way to be said or written becomes a choice: digits (`930` is "nine thirty" or "nine hundred and
thirty"), contractions (`it's` is itself or "it is"), words written apart or together (`book shop`, `bookshop`). A text
is then a small acyclic graph of words, and the errors are those of the best path through both graphs (as NIST's sclite
does with its alternations). Nothing else is forgiven: "we're" is not "were".
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from csm_components.evaluate.numerals import NUMBER, Reading, readings

_SYMBOLS = {"%": " percent ", "°c": " degrees celsius ", "°f": " degrees fahrenheit ", "°": " degrees ", "&": " and "}
_TITLES = {"dr": "doctor", "mr": "mister", "mrs": "missus", "ms": "miss", "ok": "okay", "alright": "all right"}
_ENDINGS: dict[str, tuple[str, ...]] = {
    "'re": ("are",),
    "'m": ("am",),
    "'ll": ("will",),
    "'ve": ("have",),
    "'d": ("would", "had"),
    "'s": ("is", "has"),
}
_WHOLE: dict[str, list[Reading]] = {
    "let's": [("let", "us")],
    "won't": [("will", "not")],
    "can't": [("can", "not")],
    "cannot": [("can", "not")],
    "shan't": [("shall", "not")],
    "gonna": [("going", "to")],
    "wanna": [("want", "to")],
}
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*'?")


@functools.cache
def _spelling() -> dict[str, str]:
    """British to American, 1,700 words, as Whisper's authors compare them."""
    table = importlib.resources.files("whisper_normalizer") / "normalizers" / "english.json"
    return dict(json.loads(table.read_text(encoding="utf-8")))


def _word_readings(word: str) -> list[Reading]:
    word = _spelling().get(word, word)
    if word in _TITLES:
        return [tuple(_TITLES[word].split())]
    found: list[Reading] = [(word,), *_WHOLE.get(word, [])]
    if word.endswith("n't") and word not in _WHOLE:
        found.append((word[:-3], "not"))
    for ending, expansions in _ENDINGS.items():
        if word.endswith(ending) and len(word) > len(ending) and word not in _WHOLE:
            found += [(word.removesuffix(ending), expansion) for expansion in expansions]
    return found


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFKD", text.replace("½", " 1/2").replace("’", "'").replace("‘", "'")).lower()
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)  # 1,000
    text = re.sub(r"\b(?:o'? ?clock)\b", "o'clock", text)
    text = re.sub(r"(?<=\d)\s?([ap])\.?\s?m\b\.?", r" \1m ", text)  # 9 p.m.
    text = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m ", text)
    for symbol, words in _SYMBOLS.items():
        text = text.replace(symbol, words)
    return text


def tokens(text: str) -> list[list[Reading]]:
    """What stands in `text`, token by token; each token is the list of its readings, the plainest first."""
    text = _clean(text)
    found: list[list[Reading]] = []
    position = 0
    for match in re.finditer(rf"{_WORD.pattern}|(?P<number>\d|[$£€]\s?\d)", text):
        if match.start() < position:
            continue
        if match["number"]:
            number = NUMBER.match(text, match.start())
            assert number is not None, text
            found.append(readings(number))
            position = number.end()
        else:
            word = match[0].removesuffix("'")
            found.append(_word_readings(word))
            position = match.end()
    return found


def normalise(text: str) -> str:
    """The plainest reading of `text`: what both sides of a comparison look like when nothing needs choosing.

    >>> normalise("It’s 9:30, and costs $12.")
    "it's nine thirty and costs twelve dollars"
    """
    return " ".join(word for token in tokens(text) for word in token[0])


class _Graph(NamedTuple):
    """Words on the edges of an acyclic graph; nodes are numbered in topological order, the last is the end."""

    into: list[list[tuple[int, str]]]  # [node] -> (node before, word); "" costs nothing and says nothing


def _graph(text: str) -> _Graph:
    into: list[list[tuple[int, str]]] = [[]]
    for token in tokens(text):
        start, ends = len(into) - 1, []
        for reading in token:
            node = start
            for word in reading:
                into.append([(node, word)])
                node = len(into) - 1
            ends.append(node)
        into.append([(node, "") for node in ends])
    return _Graph(into)


def _pairs(graph: _Graph) -> list[list[tuple[int, str, str]]]:
    """[node] -> (node two words before, first word, second word), looking through edges that say nothing."""

    def words_into(node: int) -> list[tuple[int, str]]:
        found = []
        for before, word in graph.into[node]:
            found += [(before, word)] if word else words_into(before)
        return found

    return [
        [(first, word, last) for before, last in edges if last for first, word in words_into(before)]
        for edges in graph.into
    ]


class Step(NamedTuple):
    """One step of an alignment: `said` should have been heard and `heard` was; one of them may be empty."""

    said: str
    heard: str

    @property
    def right(self) -> bool:
        """Whether the two are the same word, also if one is written in two parts."""
        return self.said.replace(" ", "") == self.heard.replace(" ", "")


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Word errors of one sentence against its reference."""

    substitutions: int
    deletions: int
    insertions: int
    words: int
    """Words of the reference, in the reading that fits best."""
    steps: tuple[Step, ...]

    @property
    def total(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors a word of the reference; above 1 where more was heard than said."""
        return self.total / max(1, self.words)


class _Cell(NamedTuple):
    errors: int
    words: int
    before: tuple[int, int] | None
    step: Step | None


def word_errors(reference: str, hypothesis: str) -> Errors:
    """Aligns two texts along their best readings; ties prefer the shorter reading of the reference."""
    left, right = _graph(reference), _graph(hypothesis)
    left_pairs, right_pairs = _pairs(left), _pairs(right)
    table: dict[tuple[int, int], _Cell] = {(0, 0): _Cell(0, 0, None, None)}

    def reach(i: int, j: int) -> _Cell:
        best: _Cell | None = None

        def offer(before: tuple[int, int], said: str, heard: str, cost: int) -> None:
            nonlocal best
            cell = table[before]
            new = _Cell(cell.errors + cost, cell.words + (len(said.split())), before, Step(said, heard))
            if best is None or new[:2] < best[:2]:
                best = new

        for a, said in left.into[i]:
            for b, heard in right.into[j]:
                if said and heard:
                    offer((a, b), said, heard, int(said != heard))
            offer((a, j), said, "", int(said != ""))
        for b, heard in right.into[j]:
            offer((i, b), "", heard, int(heard != ""))
        for a, first, last in left_pairs[i]:
            for b, heard in right.into[j]:
                if first + last == heard:
                    offer((a, b), f"{first} {last}", heard, 0)
        for b, first, last in right_pairs[j]:
            for a, said in left.into[i]:
                if first + last == said:
                    offer((a, b), said, f"{first} {last}", 0)
        assert best is not None
        return best

    for i in range(len(left.into)):
        for j in range(len(right.into)):
            if i or j:
                table[i, j] = reach(i, j)
    cell = end = table[len(left.into) - 1, len(right.into) - 1]
    steps: list[Step] = []
    while cell.before is not None and cell.step is not None:
        if cell.step != ("", ""):
            steps.append(cell.step)
        cell = table[cell.before]
    wrong = [step for step in steps if not step.right]
    return Errors(
        substitutions=sum(bool(step.said and step.heard) for step in wrong),
        deletions=sum(not step.heard for step in wrong),
        insertions=sum(not step.said for step in wrong),
        words=end.words,
        steps=tuple(reversed(steps)),
    )


def corpus_wer(errors: Sequence[Errors]) -> float:
    """All errors over all words of the references: long sentences weigh more, as they should."""
    return sum(item.total for item in errors) / max(1, sum(item.words for item in errors))


def bootstrap_interval(
    numerators: Sequence[float],
    denominators: Sequence[float] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of sum(numerators) / sum(denominators) when sentences are drawn again with replacement.

    Without `denominators`, of the mean. The seed makes the interval the same on every machine.
    """
    top = np.asarray(numerators, dtype=np.float64)
    if top.size == 0:
        return (0.0, 0.0)
    bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
    chosen = np.random.default_rng(seed).integers(0, len(top), size=(draws, len(top)))
    rates = top[chosen].sum(axis=1) / np.maximum(bottom[chosen].sum(axis=1), 1e-12)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))


def wer_interval(errors: Sequence[Errors], *, level: float = 0.95) -> tuple[float, float]:
    """The bootstrap interval of `corpus_wer`, drawn by sentence."""
    return bootstrap_interval([item.total for item in errors], [item.words for item in errors], level=level)
