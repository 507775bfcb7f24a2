"""Sets of samples as stretches: `[(start, end), ...]`, in order, apart from one another, ends excluded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Stretch = tuple[int, int]


def union(stretches: Iterable[Stretch]) -> list[Stretch]:
    """What any of the stretches covers; they may overlap, and come in any order."""
    joined: list[Stretch] = []
    for start, end in sorted(stretches):
        if end <= start:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def without(stretches: Sequence[Stretch], others: Sequence[Stretch]) -> list[Stretch]:
    """What `stretches` cover and `others` do not."""
    left: list[Stretch] = []
    index = 0
    for start, end in stretches:
        at = start
        while index < len(others) and others[index][1] <= at:
            index += 1
        here = index
        while here < len(others) and others[here][0] < end:
            if others[here][0] > at:
                left.append((at, others[here][0]))
            at = max(at, others[here][1])
            here += 1
        if at < end:
            left.append((at, end))
    return left
