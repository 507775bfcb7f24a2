"""Load on a server: when streams are asked for, and what each one came to, as its listener has it.

The listener is a player that begins with the first chunk, or `buffer_s` after it. A chunk that is not there when it is
due is an underrun: the player stops, and goes on from that chunk when it comes. The load generator decodes no sound, so
that it leaves the processor to the server beside it; how late its own event loop was is part of what it tells.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

from csm_model.errors import CsmError, InputError
from csm_model.frames import FRAME_SECONDS
from csm_serving.client.access import Access
from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.client.retry import NEVER
from csm_serving.wire import messages
from csm_serving.wire.defaults import CHUNK_TIMEOUT_S, CONNECT_TIMEOUT_S
from csm_serving.wire.errors import BusyError
from csm_serving.wire.protocol import SpeechRequest

Pattern = Literal["closed", "constant", "poisson", "burst", "ramp"]
PATTERNS: Final[tuple[Pattern, ...]] = get_args(Pattern)
REFUSALS: Final = ("busy", "quota", "denied", "unavailable", "invalid_input")
"""Codes with which a stream is refused before it has begun."""
_LAG_PERIOD_S: Final = 0.05
_PAUSE_S: Final = 1.0
"""Seconds that a listener of a closed load waits after an error, where the server does not say how long."""


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Streams as they are asked for; at most `count` in all, and none after `duration_s`.

    Raises:
        InputError: no bound, or a number out of range.
    """

    pattern: Pattern = "closed"
    """`closed`: `streams` at once, the next when one is over, or as late as a busy server says. `constant`, `poisson`:
    `rate` a second, evenly or at random. `burst`: `streams` at a time, `rate` a second in the mean. `ramp`: from none
    to `rate` a second, evenly in between."""
    streams: int = 8
    rate: float = 1.0
    count: int | None = None
    duration_s: float | None = None
    seed: int = 0
    buffer_s: float = 0.0
    """Seconds that a player waits after the first chunk before it begins."""
    most_open: int = 512
    """Streams that this client holds at once; what would go above is not asked for, and counted."""

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise InputError(f"pattern {self.pattern!r}: must be one of {', '.join(PATTERNS)}")
        if self.count is None and self.duration_s is None:
            raise InputError("load without an end: give a number of streams, or seconds")
        for name in ("streams", "count", "most_open"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value}: must be at least 1")
        for name in ("rate", "duration_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} {value}: must be above 0")
        if not 0 <= self.buffer_s < math.inf:
            raise InputError(f"buffer_s {self.buffer_s}: must be 0 or more")
        if self.pattern == "ramp" and self.duration_s is None:
            raise InputError("ramp without duration_s: give the seconds in which the rate is reached")

    def arrivals(self) -> Iterator[float]:
        """Seconds at which streams are asked for; none for `closed`, whose streams follow each other."""
        endless = {"constant": self._constant, "poisson": self._poisson, "burst": self._burst, "ramp": self._ramp}
        if self.pattern == "closed":
            return iter(())
        within = itertools.takewhile(lambda t: self.duration_s is None or t < self.duration_s, endless[self.pattern]())
        return itertools.islice(within, self.count)

    def _constant(self) -> Iterator[float]:
        return (n / self.rate for n in itertools.count())

    def _poisson(self) -> Iterator[float]:
        draw = random.Random(self.seed)
        return itertools.accumulate(draw.expovariate(self.rate) for _ in itertools.count())

    def _burst(self) -> Iterator[float]:
        return (n // self.streams * self.streams / self.rate for n in itertools.count())

    def _ramp(self) -> Iterator[float]:
        assert self.duration_s is not None
        # After t seconds rate * t^2 / (2 * duration) streams have been asked for.
        scale = 2 * self.duration_s / self.rate
        return (math.sqrt(scale * n) for n in itertools.count(1))


@dataclass(kw_only=True)
class Listened:
    """One stream, as its listener had it. Times are seconds since the load began."""

    asked: float
    over: float = 0.0
    arrived: list[float] = field(default_factory=list)
    """When each chunk came."""
    late: list[float] = field(default_factory=list)
    """When each chunk came that the player had to wait for."""
    stalled_s: float = 0.0
    """Seconds that the player waited."""
    ended: bool = False
    code: str = ""
    """Of the error that took the place of the rest; empty: none."""
    error: str = ""
    """Its line."""
    _due: float = 0.0

    @property
    def refused(self) -> bool:
        """Whether it never began."""
        return self.code in REFUSALS and not self.arrived

    @property
    def first_audio_s(self) -> float | None:
        """Seconds from asking to the first chunk."""
        return self.arrived[0] - self.asked if self.arrived else None

    @property
    def seconds(self) -> float:
        """Of sound."""
        return len(self.arrived) * FRAME_SECONDS

    def hear(self, now: float, buffer_s: float) -> None:
        """Takes a chunk that came `now`, for a player that began `buffer_s` after the first one."""
        if not self.arrived:
            self._due = now + buffer_s
        elif now > self._due:
            self.late.append(now)
            self.stalled_s += now - self._due
            self._due = now
        self._due += FRAME_SECONDS
        self.arrived.append(now)


@dataclass(kw_only=True)
class LoadResult:
    """All streams of a load."""

    streams: list[Listened] = field(default_factory=list)
    not_asked: int = 0
    """Streams that would have gone above `most_open`."""
    took_s: float = 0.0
    client_cpu_s: float = 0.0
    """Processor time of the load generator."""
    lags: list[float] = field(default_factory=list)
    """Seconds by which its event loop was late, sampled."""


async def offer(
    load: LoadPlan,
    requests: Sequence[SpeechRequest],
    urls: str | Sequence[str],
    *,
    chunk_timeout_s: float = CHUNK_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    access: Access | None = None,
    on_stream: Callable[[LoadResult], None] = lambda heard: None,
) -> LoadResult:
    """Asks the servers at `urls` for streams as `load` says, and takes them to their end.

    Args:
        load: the pattern.
        requests: what is asked for, drawn from by the load's seed, each stream with a seed of its own.
        urls: `host:port` of the servers' gRPC, taken in turn.
        chunk_timeout_s: seconds without a chunk after which a server counts as gone.
        connect_timeout_s: seconds to wait for a server to answer at all.
        access: how it makes sure of the servers and says who it is.
        on_stream: told whenever a stream is over.
    """
    heard, began, cpu = LoadResult(), time.perf_counter(), time.process_time()
    draw = random.Random(load.seed)
    numbers = itertools.count() if load.count is None else iter(range(load.count))

    def now() -> float:
        return time.perf_counter() - began

    async with AsyncSpeechClient(
        urls,
        retry=NEVER,
        raw=True,
        chunk_timeout_s=chunk_timeout_s,
        connect_timeout_s=connect_timeout_s,
        **(access or Access()).arguments,
    ) as client:

        async def one(number: int) -> float:
            request = replace(draw.choice(requests), seed=load.seed + number)
            pause = await _listen(client, request, load.buffer_s, heard.streams, now)
            on_stream(heard)
            return pause

        async def chain() -> None:
            for number in numbers:
                pause = await one(number)
                end = math.inf if load.duration_s is None else load.duration_s
                if now() + pause >= end:
                    return
                await asyncio.sleep(pause)

        async def follow() -> None:
            live: set[asyncio.Task[float]] = set()
            for number, arrival in enumerate(load.arrivals()):
                await asyncio.sleep(max(0.0, arrival - now()))
                if len(live) >= load.most_open:
                    heard.not_asked += 1
                    continue
                task = asyncio.create_task(one(number))
                live.add(task)
                task.add_done_callback(live.discard)
            await asyncio.gather(*live)

        watch = asyncio.create_task(_watch(heard.lags))
        try:
            await (asyncio.gather(*(chain() for _ in range(load.streams))) if load.pattern == "closed" else follow())
        finally:
            watch.cancel()
    heard.took_s, heard.client_cpu_s = now(), time.process_time() - cpu
    return heard


async def _listen(
    client: AsyncSpeechClient,
    request: SpeechRequest,
    buffer_s: float,
    streams: list[Listened],
    now: Callable[[], float],
) -> float:
    """Hears one stream; returns how long its listener waits before it asks for another."""
    listened = Listened(asked=now())
    streams.append(listened)
    pause = 0.0
    try:
        async with client.open(request) as stream:
            async for _ in stream:
                listened.hear(now(), buffer_s)
            listened.ended = stream.end is not None and stream.end.ended
    except CsmError as error:
        listened.code, listened.error = messages.error_code(error), str(error)
        pause = error.retry_after_s if isinstance(error, BusyError) and error.retry_after_s is not None else _PAUSE_S
    listened.over = now()
    return pause


async def _watch(lags: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_PERIOD_S
        await asyncio.sleep(_LAG_PERIOD_S)
        lags.append(max(0.0, loop.time() - due))
