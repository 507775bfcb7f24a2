"""Forty streams offered to eight slots: those that are live, and those that find no room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from csm_serving.launcher.triton import LocalTriton
from csm_serving.wire.errors import BusyError
from csm_serving.wire.protocol import SpeechRequest

from .listeners import Taken, closed_loop, connected, greet, listen, requests_of
from .table import Row, percentile, told

OFFERED = 40
DEADLINE_S = 60.0
BURST_S = 0.4
_CONNECTIONS = 4


def sustained(
    triton: LocalTriton, *, seconds: float, speakers: Sequence[int] = (0, 2, 5), clients: int = OFFERED
) -> list[Taken]:
    """Clients that ask again when the server says, each with a connection of its own."""
    requests = requests_of(speakers, deadline_s=DEADLINE_S)
    return asyncio.run(closed_loop(triton.url, requests, clients=clients, seconds=seconds, stagger_s=0.05))


def bursts(
    triton: LocalTriton, *, count: int, speakers: Sequence[int] = (0, 2, 5), clients: int = OFFERED
) -> list[Taken]:
    """All within `BURST_S`, `count` times, each time when the server is empty; over connections that are there."""
    return asyncio.run(_bursts(triton.url, requests_of(speakers, deadline_s=DEADLINE_S), count, clients))


async def _bursts(url: str, requests: Sequence[SpeechRequest], count: int, clients: int) -> list[Taken]:
    taken: list[Taken] = []
    async with AsyncExitStack() as stack:
        several = [await stack.enter_async_context(connected(url)) for _ in range(_CONNECTIONS)]
        for client in several:
            await greet(client)

        async def one(number: int, request: SpeechRequest) -> None:
            await asyncio.sleep(number * BURST_S / clients)
            await listen(several[number % _CONNECTIONS], request, taken)

        for burst in range(count):
            asked = [replace(requests[n % len(requests)], seed=burst * clients + n) for n in range(clients)]
            await asyncio.gather(*(one(number, request) for number, request in enumerate(asked)))
    return taken


def rows_of(kind: str, streams: Sequence[Taken]) -> list[Row]:
    """What came of an overload."""
    live = [stream for stream in streams if stream.arrived]
    refused = [stream for stream in streams if stream.busy]
    other = [stream for stream in streams if stream.end is None and not stream.busy]
    late = [stream for stream in live if stream.late]
    waits = [stream.took_ms for stream in refused]
    hints = [
        stream.failure.retry_after_s
        for stream in refused
        if isinstance(stream.failure, BusyError) and stream.failure.retry_after_s is not None
    ]
    return [
        told(f"{kind}: asked, live, refused", f"{len(streams)}, {len(live)}, {len(refused)}"),
        Row(
            what=f"{kind}: late chunks of live streams, no start buffer",
            reach="0",
            found=f"{sum(len(stream.late) for stream in live)} of {sum(len(s.arrived) for s in live)} in {len(late)} "
            f"streams, {sum(stream.stalled_s for stream in late):.2f} s in all",
            met=bool(live) and not late,
        ),
        Row(
            what=f"{kind}: streams past their deadline, or broken otherwise",
            reach="0",
            found=f"{len(other)}{f'; the first: {other[0].failure}' if other else ''}",
            met=not other,
        ),
        Row(
            what=f"{kind}: refused, ms at the client: median, 95th, most",
            reach="under 50",
            found=f"{percentile(waits, 0.5):.1f}, {percentile(waits, 0.95):.1f}, {max(waits, default=0):.1f}",
            met=bool(waits) and max(waits) < 50,
        ),
        Row(
            what=f"{kind}: refusals that are `BusyError` with a retry hint",
            reach="all",
            found=f"{len(hints)} of {len(refused)}, after {percentile(hints, 0.5):.1f} s in the median",
            met=len(hints) == len(refused) > 0,
        ),
    ]
