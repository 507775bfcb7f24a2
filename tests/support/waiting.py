"""How a test waits: for what it needs, never for a time in which that "must" have happened.

A deadline here only bounds a hang; no machine is so slow that it comes near. Tests read no clock and sleep nowhere else
(`tests/test_no_races.py`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

HANG_S = 300.0
"""Seconds after which what is waited for is taken to hang; under the limit that pytest has for a whole test."""

_Found = TypeVar("_Found")


def eventually(holds: Callable[[], _Found], what: str = "it did not come to hold", *, every_s: float = 0.01) -> _Found:
    """Waits until `holds` gives something true, which it returns; an AssertionError says `what` hung."""
    deadline = time.monotonic() + HANG_S
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(every_s)
    return found


async def eventually_async(holds: Callable[[], object], what: str = "it did not come to hold") -> None:
    """`eventually` in an event loop, whose other tasks go on meanwhile."""
    deadline = time.monotonic() + HANG_S
    while not holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def never(event: threading.Event, seconds: float = 0.3) -> bool:
    """Whether an event that must not come stays away for a while.

    On a slow machine a fault may come too late to be seen; what is right is never taken for a fault.
    """
    return not event.wait(seconds)


def let_pass(seconds: float) -> None:
    """Lets at least so much time pass, so that what has a date is due. What takes time itself is waited for instead."""
    time.sleep(seconds)


def held_back(first: str, gate: threading.Event, rest: str) -> Iterator[str]:
    """Sentences in two parts, the second one when the gate opens: a stream of them lives as long as the test wants.

    The first letter of `rest` comes at once: by it a speaker knows that the sentence before is whole.
    """
    yield f"{first} {rest[:1]}"
    assert gate.wait(HANG_S), "the gate stayed shut"
    yield rest[1:]
