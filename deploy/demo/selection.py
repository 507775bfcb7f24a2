"""Chooses lines whose phonemes, diphones, words, lengths and sources are as frequent as in the text they are from.

Each round gives a unit the weight log(p / q), p being its share of the reference and q its share of what is chosen so far,
and takes the lines of the highest mean weight: what is missing most comes first, and what there is enough of waits. The
divergence KL(p || q) falls fastest along p / q; its logarithm is the same order, and rare words do not outshout the rest.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from sentences import words_of

# What is counted, and how much each counts.
KINDS = {"phonemes": 1.0, "diphones": 1.0, "words": 0.7, "lengths": 0.5, "sources": 0.7}
_PRIOR = (
    4000  # counts in the reference's own shares that begin q, so that the first rounds do not run after single words
)
_ROUNDS = 300
_BREAKS = frozenset(" ,.?!;:\u2014\u2026")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line to choose from."""

    source: str
    text: str
    sounds: tuple[str, ...]
    """Phonemes and marks, as the tokenizer has them."""


def units(line: Line) -> dict[str, Counter[object]]:
    """What a line has of each kind; a pause between words is a phoneme's neighbour, but no phoneme."""
    sounds = ["#" if sound in _BREAKS else sound for sound in line.sounds]
    words = words_of(line.text)
    return {
        "phonemes": Counter(sound for sound in sounds if sound != "#"),
        "diphones": Counter(zip(["#", *sounds], [*sounds, "#"], strict=True)),
        "words": Counter(words),
        "lengths": Counter([len(words)]),
        "sources": Counter([line.source]),
    }


def totals(lines: Iterable[Line]) -> dict[str, Counter[object]]:
    """What lines have together."""
    sums: dict[str, Counter[object]] = {kind: Counter() for kind in KINDS}
    for line in lines:
        for kind, counts in units(line).items():
            sums[kind].update(counts)
    return sums


def shares(by_source: Mapping[str, Sequence[Line]]) -> dict[str, dict[object, float]]:
    """The mean over sources of each unit's share, so that a long source says no more than a short one."""
    found: dict[str, dict[object, float]] = {kind: {} for kind in KINDS}
    for lines in by_source.values():
        for kind, counts in totals(lines).items():
            total = counts.total() * len(by_source)
            for unit, count in counts.items():
                found[kind][unit] = found[kind].get(unit, 0.0) + count / total
    return found


def divergence(reference: Mapping[object, float], counts: Counter[object]) -> float:
    """KL(reference || counts) in bits a unit; half a count stands for what is missing."""
    total = counts.total() + 0.5 * len(reference)
    return float(sum(p * np.log2(p * total / (counts[unit] + 0.5)) for unit, p in reference.items() if p))


def _tables(lines: Sequence[Line], index: Mapping[str, Mapping[object, int]]) -> dict[str, csr_matrix]:
    """For each kind a matrix [lines, units] of counts."""
    data, columns, begins = ({kind: array("i", first) for kind in KINDS} for first in ([], [], [0]))
    for line in lines:
        for kind, row in units(line).items():
            for unit, count in row.items():
                if unit in index[kind]:
                    data[kind].append(count)
                    columns[kind].append(index[kind][unit])
            begins[kind].append(len(data[kind]))
    return {
        kind: csr_matrix(
            (np.array(data[kind], np.float32), np.array(columns[kind]), np.array(begins[kind])),
            shape=(len(lines), len(index[kind])),
        )
        for kind in KINDS
    }


def choose(
    lines: Sequence[Line], reference: Mapping[str, Mapping[object, float]], begun: Iterable[Line], characters: int
) -> list[Line]:
    """At least `characters` of `lines`, which go best together with the lines that are `begun`; in the order of choice."""
    have = totals(begun)
    index = {kind: {unit: i for i, unit in enumerate(reference[kind])} for kind in KINDS}
    tables = _tables(lines, index)
    shares_of = {kind: np.array(list(reference[kind].values())) for kind in KINDS}
    counts = {kind: np.array([have[kind][unit] for unit in index[kind]], np.float64) for kind in KINDS}
    lengths = {kind: np.maximum(1, np.asarray(table.sum(axis=1)).ravel()) for kind, table in tables.items()}
    size = np.array([len(line.text) for line in lines])
    left = np.ones(len(lines), bool)
    chosen: list[int] = []
    taken = 0
    while taken < characters and left.any():
        score = np.zeros(len(lines))
        for kind, weight in KINDS.items():
            p, c = shares_of[kind], counts[kind]
            q = (c + _PRIOR * p) / (c.sum() + _PRIOR)
            score += weight * (tables[kind] @ np.log((p + 1e-12) / (q + 1e-12))) / lengths[kind]
        score[~left] = -np.inf
        best = np.argsort(-score, kind="stable")[: left.sum()]
        upto = int(np.searchsorted(np.cumsum(size[best]), max(characters // _ROUNDS, 1))) + 1
        for i in best[:upto]:
            if taken < characters:
                chosen.append(int(i))
                taken += int(size[i])
                left[i] = False
                for kind in KINDS:
                    row = tables[kind][i]
                    counts[kind][row.indices] += row.data
    return [lines[i] for i in chosen]
