"""A pod that is scaled in while its slots speak, as Kubernetes does it, with a second one that stays.

Out of the endpoints (new connections to the Service lead to the other server), `preStop` (a sleep, during which it
serves as before), SIGTERM, the exit timeout, and SIGKILL at the end of the grace period:
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination.
Half of the streams end in time; the others are longer, and their clients go on with the other server.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from csm_model.errors import CsmError
from csm_model.frames import FRAME_RATE
from csm_scaling.pods import CUT_MARGIN_S, Server
from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.client.retry import Retry
from csm_serving.launcher.triton import LocalTriton
from csm_serving.wire.protocol import SpeechRequest

from .listeners import STORY, Taken
from .proxy import wire_to
from .server import DEMO, served
from .table import Row

_SOME_FRAMES = 5
_BEYOND_S = 8.0
"""Long streams have so much left when the server ends them."""
_STORY_S = 40.0
"""`STORY` is at least so long, whoever speaks it."""


@dataclass(kw_only=True)
class Heard(Taken):
    """A stream, and how often its client had to ask again."""

    retries: int = 0


@dataclass(kw_only=True)
class ScaledIn:
    """What came of it."""

    server: Server
    wanted: list[Heard]
    """All streams, undisturbed."""
    short: list[Heard]
    long: list[Heard]
    late: Heard
    """Asked of the pod during its `preStop`, by a client that had not heard yet."""
    fresh: Heard
    """Asked meanwhile by a new client of the Service."""
    took_s: float
    """From leaving the endpoints to the end of the process."""
    status: int | None
    """Of the process; 1 where Triton's exit timeout was over before the last call had closed, None where it had to be
    killed."""

    def delivered(self, streams: Sequence[Heard]) -> tuple[int, int, int]:
        """Streams that came whole, each frame as undisturbed; frames that came; frames that were to come."""
        wanted = {taken.request: taken for taken in self.wanted}
        whole = sum(taken.end is not None and taken.sound == wanted[taken.request].sound for taken in streams)
        return whole, sum(len(taken.codes) for taken in streams), sum(len(wanted[t.request].codes) for t in streams)


def run(
    server: Server,
    slots: int,
    *,
    bundle: Path = DEMO / "base",
    codec: Path | None = DEMO / "codec",
    speakers: Sequence[int] = (0, 2, 5),
) -> ScaledIn:
    """Starts two servers, speaks on the one that is to go, and scales it in.

    Args:
        server: the rendered Deployment's times.
        slots: of each server; one stays free for those that ask meanwhile.
        bundle: that both serve.
        codec: for a bundle that carries none.
        speakers: of the bundle.
    """
    ends_s = server.pre_stop_s + server.exit_timeout_s - CUT_MARGIN_S
    frames = {True: round(0.5 * ends_s * FRAME_RATE), False: round((ends_s + _BEYOND_S) * FRAME_RATE)}
    requests = [
        SpeechRequest(text=STORY[4 * n :], speaker=speakers[n % len(speakers)], seed=n, max_frames=frames[n % 2 == 0])
        for n in range(slots - 1)
    ]
    more = [f" {STORY}"] * math.ceil(frames[False] / FRAME_RATE / _STORY_S)
    given = {"slots": slots, "frame_budget": 0.0, "exit_timeout_s": server.exit_timeout_s, "turn_key": "5a" * 32}
    with served(bundle, codec, **given) as stays, served(bundle, codec, **given) as goes:
        return asyncio.run(_run(server, requests, more, goes, stays))


async def _run(
    server: Server, requests: list[SpeechRequest], more: list[str], goes: LocalTriton, stays: LocalTriton
) -> ScaledIn:
    async with AsyncSpeechClient(stays.url, raw=True) as client:
        wanted = list(await asyncio.gather(*(_hear(client, request, more) for request in requests)))
    live: list[Heard] = []
    async with wire_to(goes.url) as service, AsyncSpeechClient(service.url, retry=Retry(), raw=True) as client:
        tasks = [asyncio.create_task(_hear(client, request, more, live)) for request in requests]
        while len(live) < len(tasks) or min(len(taken.codes) for taken in live) < _SOME_FRAMES:
            assert not any(task.done() for task in tasks), "a stream was over before all were live"
            await asyncio.sleep(0.02)
        began = time.perf_counter()
        service.lead(stays.url)
        half = server.pre_stop_s / 2
        late, fresh, status = await asyncio.gather(
            _ask(goes.url, replace(requests[0], max_frames=1, max_wait_s=30.0), after_s=half),
            _ask(service.url, replace(requests[0], max_frames=10, max_wait_s=30.0), after_s=half),
            _end(server, goes),
        )
        took_s = time.perf_counter() - began
        await asyncio.gather(*tasks)
    return ScaledIn(
        server=server,
        wanted=wanted,
        short=live[::2],
        long=live[1::2],
        late=late,
        fresh=fresh,
        took_s=took_s,
        status=status,
    )


async def _end(server: Server, goes: LocalTriton) -> int | None:
    """The kubelet's part, from the moment that the pod is out of the endpoints."""
    await asyncio.sleep(server.pre_stop_s)
    goes.terminate()
    status = await asyncio.to_thread(goes.wait, server.grace_s - server.pre_stop_s)
    if status is None:
        os.killpg(goes.pid, signal.SIGKILL)
    return status


async def _ask(url: str, request: SpeechRequest, *, after_s: float) -> Heard:
    await asyncio.sleep(after_s)
    heard: list[Heard] = []
    async with AsyncSpeechClient(url, raw=True) as client:
        try:
            return await _hear(client, request, (), heard)
        except CsmError as error:
            heard[0].failure = error
            return heard[0]


async def _hear(
    client: AsyncSpeechClient, request: SpeechRequest, more: Sequence[str], into: list[Heard] | None = None
) -> Heard:
    heard = Heard(request=request, asked=time.perf_counter())
    if into is not None:
        into.append(heard)
    async with contextlib.aclosing(client.open(request, more or None)) as stream:
        async for chunk in stream:
            heard.take(chunk, time.perf_counter())
        heard.end, heard.retries = stream.end, stream.retries
    heard.over = time.perf_counter()
    return heard


def rows_of(found: ScaledIn) -> list[Row]:
    """The table's lines."""
    server = found.server
    rows = []
    for name, streams, moved in (("end in time", found.short, False), ("are longer", found.long, True)):
        whole, came, expected = found.delivered(streams)
        went_on = sum(taken.retries > 0 for taken in streams)
        rows.append(
            Row(
                what=f"scale-in: streams that {name}, each frame as undisturbed",
                reach="all" + (", on the other server" if moved else ", without asking again"),
                found=f"{whole} of {len(streams)}; {came:,} of {expected:,} frames; {went_on} went on elsewhere",
                met=whole == len(streams) and went_on == (len(streams) if moved else 0),
            )
        )
    return [
        *rows,
        Row(
            what=f"scale-in: seconds until it ended by itself, and its status (preStop {server.pre_stop_s:g}, exit "
            f"timeout {server.exit_timeout_s:g})",
            reach=f"within a grace of {server.grace_s:g}",
            found=f"{found.took_s:.1f}, {found.status}",
            met=found.status is not None and found.took_s <= server.grace_s,
        ),
        Row(
            what="scale-in: who still asked the pod itself during its preStop, and a new client of the Service",
            reach="both served",
            found=f"{len(found.late.codes)} and {len(found.fresh.codes)} frames",
            met=found.late.end is not None and found.fresh.end is not None,
        ),
    ]
