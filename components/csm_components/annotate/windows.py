"""Windows: a recording's turns as conversations of 20 to 120 s, each cut where nobody speaks.

No turn is in two windows, so none is trained on twice. A model is trained with the turns before a turn, within its
conversation, so every turn but the first of a window has its context; cuts are made at the longest pauses, where what
follows depends least on what was said before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from csm_components.annotate.recordings import Span

SHORTEST_S, LONGEST_S = 20.0, 120.0
BREAK_S = 10.0
"""A silence after which something else begins."""


class Window(NamedTuple):
    """Turns that make a conversation: from one to before another, in the order of their beginnings."""

    first: int
    last: int


def make_windows(turns: Sequence[Span]) -> list[Window]:
    """Cuts a recording's turns into conversations.

    A window is shorter than it should be where a long silence lies on either side, and longer where people speak over
    one another for so long that there is no place to cut.

    Args:
        turns: their times, in the order of their beginnings.
    """
    cuts = _possible(turns)
    windows: list[Window] = []
    first = 0
    while first < len(turns):
        last = _next(turns, cuts, first)
        windows.append(Window(first, last))
        first = last
    return _with_tails(turns, windows)


def _possible(turns: Sequence[Span]) -> dict[int, float]:
    """Before which turns nobody is speaking, each with the seconds of silence there; the end is one too."""
    found: dict[int, float] = {}
    ends = float("-inf")
    for number, turn in enumerate(turns):
        if number and turn.start >= ends:
            found[number] = turn.start - ends
        ends = max(ends, turn.end)
    found[len(turns)] = float("inf")
    return found


def _next(turns: Sequence[Span], cuts: dict[int, float], first: int) -> int:
    """Where the window that begins with a turn ends: at the longest silence of those that fit."""
    best, silence = 0, -1.0
    ends = turns[first].end
    for number in range(first + 1, len(turns) + 1):
        ends = max(ends, turns[number - 1].end)
        if number not in cuts:
            continue
        seconds = ends - turns[first].start
        if seconds > LONGEST_S and best:
            return best
        if cuts[number] > BREAK_S or seconds > LONGEST_S:
            return number
        if seconds >= SHORTEST_S and cuts[number] >= silence:
            best, silence = number, cuts[number]
    return len(turns)


def _with_tails(turns: Sequence[Span], windows: Sequence[Window]) -> list[Window]:
    """Windows, those too short joined to the one before where both together fit, and no long silence parts them."""
    found: list[Window] = []
    for window in windows:
        before = found[-1] if found else None
        if (
            before is not None
            and min(_seconds(turns, before), _seconds(turns, window)) < SHORTEST_S
            and _seconds(turns, Window(before.first, window.last)) <= LONGEST_S
            and turns[window.first].start - _end(turns, before) <= BREAK_S
        ):
            found[-1] = Window(before.first, window.last)
        else:
            found.append(window)
    return found


def _end(turns: Sequence[Span], window: Window) -> float:
    return max(turn.end for turn in turns[window.first : window.last])


def _seconds(turns: Sequence[Span], window: Window) -> float:
    return _end(turns, window) - turns[window.first].start
