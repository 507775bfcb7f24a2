"""Callers who bring minutes of sound to be encoded and leave at once, and what the next caller hears of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from csm_model.frames import SAMPLE_RATE
from csm_serving.client import SpeechClient
from csm_serving.client.retry import NEVER
from csm_serving.launcher.triton import LocalTriton
from csm_serving.wire.protocol import Turn

from .server import counted, memory_mb
from .table import Row, told

TEXT = "Good morning."
COUNT = 20
LEAVES_S = 0.25
CONTEXTS = {"one turn of 320 s": (320.0,), "eight turns of 15 s": (15.0,) * 8}
"""The first is more than a context holds, the second is not."""


@dataclass(kw_only=True)
class Cancelled:
    """What came of one kind of context."""

    before_s: float
    """First audio of a caller before."""
    next_s: float
    """Of the first one after."""
    after_s: float
    """Of some after that."""
    memory_mb: tuple[float, float]
    """Before, and after, with nobody there."""
    left: float
    """Streams that are still counted a minute later."""


def run(
    triton: LocalTriton,
    seconds: Sequence[float],
    *,
    speaker: int,
    other: int,
    count: int = COUNT,
    leaves_s: float = LEAVES_S,
) -> Cancelled:
    """`count` requests with a context of so many `seconds`, each cancelled after `LEAVES_S`."""
    noise = np.random.default_rng(0)
    context = tuple(
        Turn(speaker=other, text="Hello.", audio=noise.uniform(-0.3, 0.3, round(each * SAMPLE_RATE)).astype(np.float32))
        for each in seconds
    )
    with SpeechClient(triton.url, retry=NEVER) as client:

        def first_audio_s() -> float:
            began = time.perf_counter()
            stream = client.stream(TEXT, speaker)
            next(iter(stream))
            took = time.perf_counter() - began
            stream.close()
            return took

        def leave() -> None:
            stream = client.stream(TEXT, speaker, context=context)
            reading = threading.Thread(target=lambda: next(iter(stream), None))
            reading.start()
            time.sleep(LEAVES_S)
            stream.close()
            reading.join()

        for _ in range(3):  # what is made once is made
            leave()
        _empty(triton)
        before = memory_mb(triton)
        firsts = [first_audio_s() for _ in range(9)]
        for _ in range(count):
            leave()
        next_s = first_audio_s()
        after = [first_audio_s() for _ in range(9)]
    left = _empty(triton)
    return Cancelled(
        before_s=median(firsts),
        next_s=next_s,
        after_s=median(after),
        memory_mb=(before, memory_mb(triton)),
        left=left,
    )


def _empty(triton: LocalTriton, limit_s: float = 60.0) -> float:
    """Waits until nobody is there; returns how many are."""
    end = time.perf_counter() + limit_s
    while (left := counted(triton, "csm_live_streams") + counted(triton, "csm_queued_streams")) and (
        time.perf_counter() < end
    ):
        time.sleep(0.1)
    time.sleep(1.0)
    return left


def rows_of(what: str, done: Cancelled) -> list[Row]:
    """The table's lines."""
    before, after = done.memory_mb
    return [
        Row(
            what=f"cancelled, {COUNT} with {what}: first audio of the next caller, ms",
            reach="1.5 times that of before at most",
            found=f"{1e3 * done.next_s:.0f} (before {1e3 * done.before_s:.0f}): {done.next_s / done.before_s:.2f}",
            met=done.next_s <= 1.5 * done.before_s,
        ),
        told("the same, median of 9 callers after", f"{1e3 * done.after_s:.0f}"),
        Row(
            what=f"cancelled, {COUNT} with {what}: memory, MB (PSS of Triton and stub)",
            reach="within 5 %",
            found=f"{before:.0f} and {after:.0f}: {100 * (after / before - 1):+.1f} %",
            met=after <= 1.05 * before,
        ),
        Row(
            what=f"cancelled, {COUNT} with {what}: streams still counted a minute after",
            reach="0",
            found=f"{done.left:.0f}",
            met=not done.left,
        ),
    ]
