"""A server that is told to stop, and one that gets another model, while all its slots speak."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from csm_serving.launcher.triton import LocalTriton
from csm_serving.wire.errors import UnavailableError
from csm_serving.wire.protocol import SpeechRequest

from .listeners import STORY, Taken, closed_loop, connected, listen
from .table import Row, told

_SOME_FRAMES = 5


@dataclass(kw_only=True)
class Drained:
    """What came of live streams."""

    wanted: list[Taken]
    """The same streams, undisturbed."""
    live: list[Taken]
    """Those that were live when it happened."""
    frames_at: list[int]
    """How many frames each of them had then."""
    took_s: float = 0.0
    """Until it was over."""
    status: int | None = None
    """Of a server that exited."""
    refused: Taken | None = None
    """A stream that was asked for after a server was told to stop."""
    others: list[Taken] = field(default_factory=list)
    """Streams that were asked for during a swap."""
    load_s: float = 0.0

    @property
    def whole(self) -> int:
        """Live streams of which no frame was lost or changed."""
        return sum(a.end is not None and a.sound == b.sound for a, b in zip(self.live, self.wanted, strict=True))


def stories(count: int, speakers: Sequence[int] = (0, 2, 5), **given: Any) -> list[SpeechRequest]:
    """Long streams, each another."""
    return [
        SpeechRequest(text=STORY[4 * n :], speaker=speakers[n % len(speakers)], seed=n, **given) for n in range(count)
    ]


async def _together(url: str, requests: Sequence[SpeechRequest]) -> list[Taken]:
    async with connected(url) as client:
        return list(await asyncio.gather(*(listen(client, request) for request in requests)))


async def _while_live(
    url: str, requests: Sequence[SpeechRequest], act: Callable[[], Any]
) -> tuple[list[Taken], list[int], Any]:
    """Streams, and what `act` returns, which begins in a thread when some frames of each have come."""
    live: list[Taken] = []
    async with connected(url) as client:
        tasks = [asyncio.create_task(listen(client, request, live)) for request in requests]
        while min((len(taken.arrived) for taken in live), default=0) < _SOME_FRAMES or len(live) < len(requests):
            assert not any(task.done() for task in tasks), "a stream was over before all were live"
            await asyncio.sleep(0.01)
        frames = [len(taken.arrived) for taken in live]
        done = await asyncio.to_thread(act)
        await asyncio.gather(*tasks)
    return live, frames, done


def sigterm(triton: LocalTriton, requests: Sequence[SpeechRequest], *, grace_s: float) -> Drained:
    """Speaks undisturbed, then again, and is told to stop meanwhile."""
    wanted = asyncio.run(_together(triton.url, requests))
    late_comer = replace(requests[0], max_frames=1)

    def stop() -> tuple[Taken, float, int | None]:
        began = time.perf_counter()
        triton.terminate()
        while True:
            refused = asyncio.run(_one(triton.url, late_comer))
            if isinstance(refused.failure, UnavailableError) or time.perf_counter() > began + 10:
                break
        status = triton.wait(triton._settings.exit_timeout_s + 10)
        return refused, time.perf_counter() - began, status

    live, frames, (refused, took_s, status) = asyncio.run(_while_live(triton.url, requests, stop))
    return Drained(wanted=wanted, live=live, frames_at=frames, took_s=took_s, status=status, refused=refused)


async def _one(url: str, request: SpeechRequest) -> Taken:
    async with connected(url) as client:
        return await listen(client, request)


def swap(
    triton: LocalTriton, bundle: Path, requests: Sequence[SpeechRequest], late_comers: Sequence[SpeechRequest]
) -> Drained:
    """Speaks undisturbed, then again while `bundle` takes the place of what is served; others come and go meanwhile."""
    wanted = asyncio.run(_together(triton.url, requests))
    swapped = []

    async def others() -> list[Taken]:
        coming = asyncio.create_task(closed_loop(triton.url, late_comers, clients=1, seconds=2))
        found: list[Taken] = []
        while True:
            found += await coming
            if swapped:
                return found
            coming = asyncio.create_task(
                closed_loop(triton.url, late_comers, clients=1, seconds=1, seed=found[-1].request.seed + 1)
            )

    async def both() -> tuple[tuple[list[Taken], list[int], Any], list[Taken]]:
        def act() -> Any:
            done = triton.swap(bundle)
            swapped.append(done)
            return done

        return await asyncio.gather(_while_live(triton.url, requests, act), others())

    (live, frames, done), came = asyncio.run(both())
    return Drained(wanted=wanted, live=live, frames_at=frames, took_s=done.drain_s, load_s=done.load_s, others=came)


def rows_of(drained: Drained, what: str) -> list[Row]:
    """The table's lines."""
    total = sum(len(taken.arrived) for taken in drained.wanted)
    came = sum(len(taken.arrived) for taken in drained.live)
    return [
        Row(
            what=f"{what}: live streams that came whole, each frame as undisturbed",
            reach="all",
            found=f"{drained.whole} of {len(drained.live)}; {came} of {total} frames, {sum(drained.frames_at)} before",
            met=drained.whole == len(drained.live),
        ),
        told(f"{what}: late chunks of live streams", f"{sum(len(taken.late) for taken in drained.live)}"),
    ]


def sigterm_rows(drained: Drained, grace_s: float) -> list[Row]:
    """Of a server that was told to stop."""
    assert drained.refused is not None
    return [
        *rows_of(drained, "SIGTERM"),
        Row(
            what="SIGTERM: exit status, and seconds until then",
            reach=f"0 within {grace_s:g}",
            found=f"{drained.status} after {drained.took_s:.1f}",
            met=drained.status == 0 and drained.took_s <= grace_s,
        ),
        Row(
            what="SIGTERM: who asks afterwards is told",
            reach="`UnavailableError`",
            found=f"`{type(drained.refused.failure).__name__}`",
            met=isinstance(drained.refused.failure, UnavailableError),
        ),
    ]


def swap_rows(drained: Drained) -> list[Row]:
    """Of a server that got another model."""
    broken = [taken for taken in drained.others if taken.end is None and not taken.busy]
    busy = sum(taken.busy for taken in drained.others)
    return [
        *rows_of(drained, "swap"),
        Row(
            what="swap: streams that were asked for meanwhile and broke",
            reach="0",
            found=f"{len(broken)} of {len(drained.others)}, {busy} found no slot"
            f"{f'; the first: {broken[0].failure}' if broken else ''}",
            met=not broken and len(drained.others) > busy,
        ),
        told("swap: seconds to load, then until the old one was gone", f"{drained.load_s:.1f}, {drained.took_s:.1f}"),
    ]
