"""Thousands of requests that nobody should send, beside listeners who must hear nothing of them.

The listeners speak the same streams over and over, first undisturbed, then beside the attackers. What they hear must be
the same to the last code. From time to time the attackers pause until no stream is live: then memory is read.
"""

from __future__ import annotations

import asyncio
import http
import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import grpc.aio
import numpy as np

from csm_model.frames import SAMPLE_RATE
from csm_serving.client import SpeechClient
from csm_serving.client.retry import NEVER
from csm_serving.launcher.triton import LocalTriton
from csm_serving.wire.protocol import SpeechRequest, Turn

from . import attacks
from .attacks import Ground, Rng
from .listeners import STORY, TEXTS, Taken, hear
from .proxy import wire_to
from .raw import Answered, ask, channel_to, leave_after, take_control
from .server import counted, memory_mb, processes
from .table import Row, percentile, told

_SEED = 20261125
_ATTACKERS = 6
_CALLS_OF_A_CHANNEL = 200
_RUBBISH = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4_096,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x7f\xff\xff\x09\x00\x00\x00\x01",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
    b"\0",
    b"",
)


@dataclass(kw_only=True)
class Hostile:
    """What came of it."""

    count: int
    took_s: float
    outcomes: Counter[str]
    by_kind: dict[str, Counter[str]]
    wrong: list[str]
    """Attacks of which something became that may not."""
    calm: list[Taken]
    """What the listeners had undisturbed."""
    disturbed: list[Taken]
    memory_mb: list[tuple[int, float]]
    """After so many requests, with no stream live."""
    died: bool
    """Whether a process is not what it was."""
    left_live: float
    """Streams still live long after all had gone."""
    said: list[str]
    """Lines of the server's log that tell of a failure of its own."""

    @property
    def changed(self) -> list[Taken]:
        """Streams beside attackers that were not as they are undisturbed."""
        right = {(taken.request.text, taken.request.seed): taken.sound for taken in self.calm}
        return [
            taken
            for taken in self.disturbed
            if taken.end is None or taken.sound != right[(taken.request.text, taken.request.seed)]
        ]


@dataclass(kw_only=True)
class _Seen:
    outcomes: Counter[str] = field(default_factory=Counter)
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    done: int = 0

    def note(self, kind: str, answered: Answered, may: frozenset[str], count: int = 1) -> None:
        self.done += count
        self.outcomes[answered.outcome] += 1
        self.by_kind.setdefault(kind, Counter())[answered.outcome] += 1
        for outcome in (answered.outcome, *answered.errors):
            if outcome not in may | {"busy"}:
                self.wrong.append(f"{kind}: {outcome} {answered.line[:300]!r}")
                return


class _Listeners:
    """Streams in threads of their own, over and over."""

    def __init__(self, url: str, requests: Sequence[SpeechRequest]) -> None:
        self._url = url
        self._requests = requests
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.taken: list[Taken] = []
        self.refused = 0

    def once(self) -> None:
        """Every stream once, all at the same time."""
        self._start(lambda request: self._hear_one(request))

    def begin(self) -> None:
        """Every stream over and over."""

        def endless(request: SpeechRequest) -> None:
            while not self._stopped.is_set():
                self._hear_one(request)

        self._stopped.clear()
        self._start(endless)

    def end(self) -> None:
        """Lets the streams end, and begins no more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self, run: Callable[[SpeechRequest], None]) -> None:
        self._threads = [threading.Thread(target=run, args=(request,)) for request in self._requests]
        for thread in self._threads:
            thread.start()

    def _hear_one(self, request: SpeechRequest) -> None:
        """To the end; asks again where it is refused for lack of capacity."""
        with SpeechClient(self._url, retry=NEVER, raw=True) as client:
            while True:
                taken = hear(client, request)
                if not taken.busy:
                    self.taken.append(taken)
                    return
                self.refused += 1
                time.sleep(0.2)


def run(
    triton: LocalTriton,
    *,
    count: int,
    speakers: Sequence[int] = (0, 2, 5),
    listeners: int = 3,
    readings: int = 5,
    seed: int = _SEED,
    max_frames: int | None = None,
) -> Hostile:
    """`count` hostile requests; memory is read after each of `readings` equal parts of them.

    Args:
        triton: the server; one that asks after silent clients soon (`keepalive_s`), so that it finds out who vanished.
        count: requests.
        speakers: some that the bundle has.
        listeners: streams beside them.
        readings: of memory.
        seed: of all attacks.
        max_frames: of the listeners' streams.
    """
    requests = [
        SpeechRequest(
            text=f"{TEXTS[n % len(TEXTS)]} {TEXTS[(n + 3) % len(TEXTS)]}",
            speaker=speakers[n % len(speakers)],
            seed=n,
            priority=9,
            max_wait_s=10.0,
            max_frames=max_frames,
        )
        for n in range(listeners)
    ]
    before = processes(triton)
    calm = _Listeners(triton.url, requests)
    for _ in range(3):
        calm.once()
        calm.end()
    short = _Listeners(triton.url, [replace(requests[0], text="That sounds like a good plan.", max_frames=20)])
    short.once()
    short.end()
    ground = Ground(speakers=speakers, heard=short.taken[0])
    assert ground.heard.codes, f"nothing was said: {ground.heard.failure}"
    beside = _Listeners(triton.url, requests)
    seen, memory, began, left = _Seen(), list[tuple[int, float]](), time.perf_counter(), 0.0
    for part in range(readings):
        if triton.wait(0) is not None:
            break
        beside.begin()
        asyncio.run(_part(triton, ground, seen, range(part * count // readings, (part + 1) * count // readings), seed))
        beside.end()
        if triton.wait(0) is None:
            left = _until_empty(triton)
            memory.append((seen.done, memory_mb(triton)))
    log = triton.log.lines()
    words = ("Traceback", "a stream broke", "round broke", "could not be told", "Signal (", "terminate called", " in /")
    return Hostile(
        count=seen.done,
        took_s=time.perf_counter() - began,
        outcomes=seen.outcomes,
        by_kind=seen.by_kind,
        wrong=seen.wrong,
        calm=calm.taken,
        disturbed=beside.taken,
        memory_mb=memory,
        died=processes(triton) != before,
        left_live=left,
        said=[line for line in log if any(word in line for word in words)],
    )


def _until_empty(triton: LocalTriton, limit_s: float = 60.0) -> float:
    """Waits until no stream is live; returns how many are."""
    end = time.perf_counter() + limit_s
    while True:
        live = counted(triton, "csm_live_streams") + counted(triton, "csm_queued_streams")
        if not live or time.perf_counter() > end:
            return live
        time.sleep(0.1)


async def _part(triton: LocalTriton, ground: Ground, seen: _Seen, numbers: range, seed: int) -> None:
    """Attackers at work on some of the requests, each number its own random numbers."""
    todo = iter(numbers)
    end = seen.done + len(numbers)
    one_storm = asyncio.Semaphore(1)

    async def attacker() -> None:
        calls = 0
        while seen.done < end:
            async with channel_to(triton.url) as channel:
                while seen.done < end and (calls := calls + 1) % _CALLS_OF_A_CHANNEL:
                    number = next(todo, None)
                    if number is None or triton.wait(0) is not None:
                        return
                    await _attack(triton, channel, ground, seen, np.random.default_rng((seed, number)), one_storm)

    await asyncio.gather(*(attacker() for _ in range(_ATTACKERS)))


async def _attack(
    triton: LocalTriton, channel: grpc.aio.Channel, ground: Ground, seen: _Seen, rng: Rng, alone: asyncio.Semaphore
) -> None:
    behaviour = rng.random()
    if behaviour < 0.80:
        attack = attacks.draw(ground, rng)
        seen.note(attack.kind, await ask(channel, attack.messages), attack.may)
    elif behaviour < 0.97:
        await _leave(triton, channel, ground, seen, rng)
    elif behaviour < 0.975:
        async with alone:
            await _storm(triton, ground, seen, rng)
    elif behaviour < 0.98:
        async with alone:
            await _stop_reading(triton, ground, seen, rng)
    elif behaviour < 0.988:
        async with alone:
            await _vanish(triton, ground, seen, rng)
    elif behaviour < 0.992:
        async with alone:
            await _leave_sound(channel, ground, seen, rng)
    elif behaviour < 0.994:
        await _control(triton, channel, seen, rng)
    else:
        await _rubbish(triton, seen, rng)


_LEFT = frozenset({"left", "spoken", "rpc"})


def _long(ground: Ground, rng: Rng) -> Any:
    return ground.message(text=STORY, max_frames=400, seed=int(rng.integers(2**40)))


async def _leave(triton: LocalTriton, channel: grpc.aio.Channel, ground: Ground, seen: _Seen, rng: Rng) -> None:
    """A caller that cancels: at once, soon, or in the middle."""
    chunks = int(rng.integers(0, 4))
    wait_s = float(rng.choice([0.0, 0.0, 0.01, 0.05]))
    answered = await leave_after(channel, _long(ground, rng), chunks=chunks, wait_s=wait_s)
    seen.note("cancelled", answered, _LEFT)


async def _leave_sound(channel: grpc.aio.Channel, ground: Ground, seen: _Seen, rng: Rng) -> None:
    """A caller who brings sound for minutes to be encoded, and leaves."""
    seconds = float(rng.choice([10, 60, 150, 320]))
    turns = int(rng.integers(1, 5))
    sound = rng.uniform(-0.3, 0.3, round(seconds / turns * SAMPLE_RATE)).astype(np.float32)
    context = tuple(Turn(speaker=ground.speakers[1], text="Hello.", audio=sound) for _ in range(turns))
    message = ground.message(context=context, text="Good morning.")
    seen.note("leaves its sound", await leave_after(channel, message, chunks=0, wait_s=0.25), _LEFT)


async def _control(triton: LocalTriton, channel: grpc.aio.Channel, seen: _Seen, rng: Rng) -> None:
    """A stranger who takes the model away, or brings one of his own."""
    if rng.random() < 0.7:
        outcome, line = await take_control(channel, int(rng.integers(4)))
    else:
        path = str(rng.choice(["/v2/repository/models/csm/unload", "/v2/repository/index", "/v2/models/csm/infer"]))
        outcome, line = await asyncio.to_thread(_posted, triton, path)
    seen.note("control", Answered(outcome=outcome, line=line), frozenset({"refused"}))


def _posted(triton: LocalTriton, path: str) -> tuple[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", triton.ports["http"], timeout=10)
    try:
        connection.request("POST", path, body="{}")
        answer = connection.getresponse()
        return (
            "obeyed" if answer.status == http.HTTPStatus.OK else "refused",
            f"{answer.status} {answer.read()[:200]!r}",
        )
    finally:
        connection.close()


async def _storm(triton: LocalTriton, ground: Ground, seen: _Seen, rng: Rng) -> None:
    """Thirty callers at once on one connection, which all cancel."""
    async with channel_to(triton.url) as channel:
        each = [leave_after(channel, _long(ground, rng), chunks=int(rng.integers(0, 2))) for _ in range(30)]
        for number, answered in enumerate(await asyncio.gather(*each)):
            seen.note("cancel storm", answered, _LEFT, count=int(number == 0))


async def _stop_reading(triton: LocalTriton, ground: Ground, seen: _Seen, rng: Rng) -> None:
    """A caller whose connection is full."""
    async with channel_to(triton.url, window=16_384) as channel:
        answered = await leave_after(channel, _long(ground, rng), chunks=1, wait_s=float(rng.uniform(0.5, 4)))
        seen.note("stops reading", answered, _LEFT)


async def _vanish(triton: LocalTriton, ground: Ground, seen: _Seen, rng: Rng) -> None:
    """A caller whose connection is cut, with or without a word."""
    async with wire_to(triton.url) as wire, AsyncExitStack() as stack:
        channel = await stack.enter_async_context(channel_to(wire.url))
        messages = [_long(ground, rng) for _ in range(int(rng.integers(1, 3)))]
        running: list[Coroutine[Any, Any, Answered]] = [
            leave_after(channel, message, chunks=10**6, limit_s=30.0) for message in messages
        ]
        tasks = [asyncio.create_task(each) for each in running]
        await asyncio.sleep(float(rng.uniform(0.0, 1.0)))
        if silent := rng.random() < 0.5:
            wire.silence()
            await asyncio.sleep(float(rng.uniform(0.5, 6.0)))
        wire.reset()
        for answered in await asyncio.gather(*tasks):
            seen.note("vanished silently" if silent else "vanished", answered, _LEFT, count=0)
        seen.done += 1


async def _rubbish(triton: LocalTriton, seen: _Seen, rng: Rng) -> None:
    """Bytes that are no gRPC, on any of its ports."""
    port = triton.ports[str(rng.choice(["grpc", "grpc", "http", "metrics"]))]
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        seen.note("no gRPC", Answered(outcome="refused", line=str(error)), frozenset())
        return
    said = (
        _RUBBISH[int(rng.integers(len(_RUBBISH)))] if rng.random() < 0.7 else bytes(rng.integers(0, 256, 500, np.uint8))
    )
    outcome = "closed"
    try:
        writer.write(said)
        await writer.drain()
        if rng.random() < 0.5:
            await asyncio.wait_for(reader.read(65_536), 0.2)
    except TimeoutError:
        outcome = "left"
    except OSError:
        pass
    finally:
        writer.transport.abort()
    seen.note("no gRPC", Answered(outcome=outcome), frozenset({"left", "closed"}))


def rows_of(hostile: Hostile) -> list[Row]:
    """The table's lines."""
    for kind, outcomes in sorted(hostile.by_kind.items()):
        print(f"  {kind:20} {dict(outcomes.most_common())}")
    for line in [*hostile.wrong[:20], *hostile.said[:20]]:
        print(f"  !! {line}")
    assert hostile.memory_mb, "the server died in the first part"
    first, last = hostile.memory_mb[0][1], hostile.memory_mb[-1][1]
    calm, disturbed = hostile.calm, hostile.disturbed
    firsts = [
        f"{percentile([taken.first_ms for taken in streams if taken.arrived], 0.5):.0f}"
        for streams in (calm, disturbed)
    ]
    late = [sum(len(taken.late) for taken in streams) for streams in (calm, disturbed)]
    frames = [sum(len(taken.arrived) for taken in streams) for streams in (calm, disturbed)]
    return [
        told("hostile: requests, time", f"{hostile.count}, {hostile.took_s:.0f} s"),
        Row(
            what="hostile: processes that died",
            reach="0",
            found=f"{int(hostile.died)}; {len(hostile.said)} lines in the log of a failure of its own",
            met=not hostile.died and not hostile.said,
        ),
        Row(
            what="hostile: requests without a typed error, or with one that is not theirs",
            reach="0",
            found=f"{len(hostile.wrong)}; {', '.join(f'{n} {name}' for name, n in hostile.outcomes.most_common())}",
            met=not hostile.wrong,
        ),
        Row(
            what="hostile: memory with no stream live, MB (PSS of Triton and stub)",
            reach="after the last within 5 % of that after a fifth",
            found=", ".join(f"{value:.0f} after {number:,}" for number, value in hostile.memory_mb)
            + f": {100 * (last / first - 1):+.1f} %",
            met=last <= 1.05 * first,
        ),
        Row(what="hostile: streams still live a minute after all went", reach="0", found=f"{hostile.left_live:.0f}",
            met=not hostile.left_live),
        Row(
            what="hostile: listeners' streams with another code than undisturbed",
            reach="0",
            found=f"{len(hostile.changed)} of {len(disturbed)}",
            met=bool(disturbed) and not hostile.changed,
        ),
        Row(
            what="hostile: listeners' late chunks, no start buffer",
            reach="0",
            found=f"{late[1]} of {frames[1]} (undisturbed: {late[0]} of {frames[0]})",
            met=late[1] == 0,
        ),
        told("hostile: listeners' first audio, ms, median, undisturbed and beside", " and ".join(firsts)),
    ]  # fmt: skip
