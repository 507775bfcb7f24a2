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
    next_s: list[float]
    """Of the first one after, of each round."""
    after_s: float
    """Of some after that."""
    memory_mb: list[float]
    """Before, and after each round, with nobody there."""
    left: float
    """Streams that are still counted a minute after a round, at most."""


def run(
    triton: LocalTriton,
    seconds: Sequence[float],
    *,
    speaker: int,
    other: int,
    count: int = COUNT,
    rounds: int = 5,
) -> Cancelled:
    """`rounds` of `count` requests with a context of so many `seconds`, each cancelled after `LEAVES_S`."""
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
        done = Cancelled(before_s=0.0, next_s=[], after_s=0.0, memory_mb=[memory_mb(triton)], left=0.0)
        done.before_s = median(first_audio_s() for _ in range(9))
        for _ in range(rounds):
            for _ in range(count):
                leave()
            done.next_s.append(first_audio_s())
            done.after_s = median(first_audio_s() for _ in range(9))
            done.left = max(done.left, _empty(triton))
            done.memory_mb.append(memory_mb(triton))
    return done


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
    before, first, *_, last = done.memory_mb
    after = median(done.next_s)
    rounds = ", ".join(f"{1e3 * each:.0f}" for each in done.next_s)
    return [
        Row(
            what=f"cancelled, {COUNT} with {what}: first audio of the next caller, ms, median of rounds",
            reach="1.5 times that of before at most",
            found=f"{1e3 * after:.0f} ({rounds}; before {1e3 * done.before_s:.0f}): {after / done.before_s:.2f}",
            met=after <= 1.5 * done.before_s,
        ),
        told("the same, median of 9 callers after", f"{1e3 * done.after_s:.0f}"),
        Row(
            what=f"cancelled, {COUNT} with {what}: memory, MB (PSS of Triton and stub)",
            reach="within 5 %",
            found=f"{before:.0f} and {first:.0f}: {100 * (first / before - 1):+.1f} %",
            met=first <= 1.05 * before,
        ),
        told("the same, from the first round to the last", f"{last:.0f}: {100 * (last / first - 1):+.1f} %"),
        Row(
            what=f"cancelled, {COUNT} with {what}: streams still counted a minute after",
            reach="0",
            found=f"{done.left:.0f}",
            met=not done.left,
        ),
    ]
