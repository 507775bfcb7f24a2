"""The served model: one thread that works for all live streams, and the way of each stream to its caller.

What is taken on, and whose turn it is, `csm_model.inference.scheduler` decides; what is said, and how it sounds,
`csm_model.inference.batch` makes. The engine does not know Triton: a *sink* takes a stream's chunks away.

Requests with sound to be encoded are read by threads of their own, which take them out of the scheduler's queue: one
whose caller has gone is not in it any more.

A stream that breaks is its caller's matter. Where steps break, it is the engine that is broken (`FailureBudget`): it
takes no more streams, sends everybody elsewhere, and says so, to be started again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from csm_model.errors import CsmError, InputError, words_of
from csm_model.inference.faults import fault_of
from csm_model.inference.jobs import RefusedError, SchedulerPolicy, Streams
from csm_model.inference.scheduler import Scheduler
from csm_serving.server import metrics as names
from csm_serving.server.failures import FailureBudget
from csm_serving.server.metrics import Metrics
from csm_serving.server.source import ResolvedRequest
from csm_serving.server.stream import Account, LiveStream, Nobody, Sink
from csm_serving.wire.errors import BusyError, UnavailableError, UnknownStreamError
from csm_serving.wire.protocol import MAX_STREAM_CHARACTERS, SpeechRequest

_IDLE_S = 0.01
"""Seconds between looks at streams that wait for text, for a slot, or for their player to catch up."""
_BEAT_S = 1.0
"""Seconds between two signs of life of an engine that has nothing to do."""
_READERS_NICE = 10
"""How much nicer what reads requests is than the engine: streams that need no reading do not wait for a core."""
_BROKEN = "the server is broken ({reason}); ask another one, or this one when it is back"

log = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads requests: `RequestReader`."""

    def read(self, request: SpeechRequest, *, wanted: Callable[[], bool] = lambda: True) -> ResolvedRequest:
        """The request as it is spoken; raises `CsmError` where it may not be, or is not `wanted` any more."""
        ...

    def is_quick(self, request: SpeechRequest) -> bool:
        """Whether reading takes no time to speak of."""
        ...

    def warm_up_request(self) -> SpeechRequest:
        """A short turn."""
        ...


@dataclass(frozen=True, kw_only=True)
class Watchers:
    """Who looks on, beside the metrics."""

    may_begin: Callable[[], None] = lambda: None
    """Raises a `CsmError` where no stream may begin."""
    over: Callable[[Account], None] = lambda account: None
    """Hears of every stream that is over."""
    broken: Callable[[str], None] = lambda reason: None
    """Hears why the engine cannot go on, when its callers were told."""
    alive: Callable[[], None] = lambda: None
    """Is called by the engine's own thread, at least every second unless the model is at work for longer."""


class Engine:
    """Takes streams on and speaks them; every method may be called from any thread.

    Args:
        streams: does the work: a `SpeechBatch`.
        reader: reads requests.
        policy: what is taken on.
        metrics: where measurements go.
        watchers: who looks on.
        max_characters: the longest text of a stream, all its parts together.
        max_wait_s: the longest time that a request may wait for a slot, whatever it asks.
        readers: threads that read requests whose sound has to be encoded.
        clock: seconds.
    """

    def __init__(
        self,
        streams: Streams,
        reader: Reader,
        *,
        policy: SchedulerPolicy,
        metrics: Metrics,
        watchers: Watchers | None = None,
        max_characters: int = MAX_STREAM_CHARACTERS,
        max_wait_s: float = 30.0,
        readers: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.slots = streams.slots
        self.broken: str | None = None
        """Why the engine cannot go on; None while it can."""
        self._scheduler = Scheduler(streams, policy, clock=clock, seen=self._seen, failed=self._failed)
        self._failures = FailureBudget(clock)
        self._reader = reader
        self._metrics = metrics
        self._watchers = watchers or Watchers()
        self._max_characters = max_characters
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._named: dict[str, LiveStream] = {}
        self._changed = threading.Condition()
        self._news = False
        self._closing = False
        self._broken_off = False
        self._over = False
        metrics.set(names.STREAM_SLOTS, self.slots)
        self._count()
        self._thread = threading.Thread(target=self._run, name="csm-engine", daemon=True)
        self._thread.start()
        self._readers = [
            threading.Thread(target=self._read_on, name=f"csm-reader-{n}", daemon=True) for n in range(readers)
        ]
        for thread in self._readers:
            thread.start()

    @property
    def live(self) -> int:
        """Streams that hold slots."""
        return self._scheduler.live

    @property
    def queued(self) -> int:
        """Streams that have no slot yet."""
        return self._scheduler.queued

    @property
    def times(self) -> str:
        """How long steps take, in one line."""
        times = self._scheduler.times
        return ", ".join(f"{1000 * times.of(n):.1f} ms a step of {n}" for n in sorted({1, self.slots}))

    @property
    def ready(self) -> bool:
        """Whether streams are taken on."""
        return self._thread.is_alive() and not self._closing and self.broken is None

    def submit(self, request: SpeechRequest, sink: Sink, *, caller: str | None = None) -> None:
        """Takes a stream on; `caller` is who asks for it, where the server knows.

        Raises:
            BusyError: there is no room for it, and it may not wait, or too many wait.
            UnavailableError: the server is stopping.
            InputError: it cannot be said, or may not be. What is found out later, the sink hears of.
        """
        self._admit(request, sink, measured=True, caller=caller)

    def append(self, stream_id: str, text: str, more: bool, *, caller: str | None = None) -> None:
        """More text; raises `UnknownStreamError` for a stream that is not live, or another caller's, and `InputError`
        where it takes no more.
        """
        with self._changed:
            stream = self._named.get(stream_id)
            if stream is None or stream.caller != caller:
                raise UnknownStreamError(stream_id)
            stream.check_part(text, self._max_characters)
            stream.take_part(text, more=more)
            self._scheduler.append(stream.job, text, more=more)
            self._wake()

    def refuse(self, reason: str) -> None:
        """Counts a request that was refused."""
        self._metrics.add(names.REFUSALS, label=reason)

    def warm_up(self) -> None:
        """Speaks to nobody, in one slot and in all: no caller pays for it, and the times of steps are known.

        Raises:
            CsmError: the model does not work.
        """
        request = self._reader.warm_up_request()
        self._scheduler.bounded = False
        try:
            for turn, count in enumerate((1, self.slots, 1, self.slots)):
                if turn == 2:  # the first two have made everything warm
                    self._scheduler.times.clear()
                sinks = [Nobody() for _ in range(count)]
                for sink in sinks:
                    self._admit(request, sink, measured=False)
                for sink in sinks:
                    sink.over.wait()
                    if sink.error is not None:
                        raise sink.error
        finally:
            self._scheduler.bounded = True

    def close(self, grace_s: float) -> bool:
        """Takes no more streams; those without a slot are told so, live ones may end for `grace_s` seconds, then break.

        Returns whether none was broken off. May be called again.
        """
        error = UnavailableError("the server is stopping; ask another one, or this one after its restart")
        with self._changed:
            self._closing = True
        self._scheduler.break_off(error, live=False)
        with self._changed:
            self._wake()
            drained = self._changed.wait_for(lambda: not self._scheduler.live, timeout=grace_s)
            self._broken_off = True
            self._wake()
            self._over = True
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._changed:
            self._wake()
        for thread in self._readers:
            thread.join()
        return drained

    def _admit(self, request: SpeechRequest, sink: Sink, *, measured: bool, caller: str | None = None) -> None:
        self._check_open()
        try:
            self._watchers.may_begin()
        except CsmError:
            self.refuse("audit")
            raise
        stream = LiveStream(
            request,
            sink,
            caller=caller,
            metrics=self._metrics if measured else None,
            over=self._leave,
            clock=self._clock,
        )
        stream.job.max_wait_s = min(request.max_wait_s, self._max_wait_s)
        try:
            stream.check_length(self._max_characters)
            stream.check_part(request.text, self._max_characters)
            if self._reader.is_quick(request):
                try:
                    stream.read(self._reader.read(request))
                except CsmError as error:
                    if request.voice is None:
                        raise
                    stream.fail(error)  # who asks for a voice and may not have it is accounted for
                    return
            else:
                stream.keep()
            with self._changed:
                self._check_open()
                if request.stream_id in self._named:
                    raise InputError(f"stream {request.stream_id!r} is live already: give each one a name of its own")
                self._enter(stream)
        except InputError:
            self.refuse("invalid_input")
            raise

    def _check_open(self) -> None:
        """Raises `UnavailableError` where no stream is taken on any more."""
        if self.broken is not None:
            self.refuse("stopping")
            raise UnavailableError(_BROKEN.format(reason=self.broken))
        if self._closing:
            self.refuse("stopping")
            raise UnavailableError("the server is stopping; ask another one, or this one after its restart")

    def _enter(self, stream: LiveStream) -> None:
        try:
            self._scheduler.admit(stream.job)
        except RefusedError as refused:
            self.refuse(refused.reason)
            why = (
                f"all {self.slots} slots are taken"
                if refused.reason == "busy"
                else f"one stream more than {self.live} would make them late"
            )
            raise BusyError(
                f"{why}; try again in {refused.retry_after_s:.1f} s, or ask to wait (MAX_WAIT_MS)",
                retry_after_s=refused.retry_after_s,
            ) from None
        if stream.request.stream_id is not None:
            self._named[stream.request.stream_id] = stream
        stream.take_part(stream.request.text, more=stream.request.text_more)
        self._wake()

    def _read_on(self) -> None:
        """Reads requests that take time, beside the engine's own thread, until the engine is closed."""
        _give_way()
        while True:
            with self._changed:
                job = self._scheduler.take_unread()
                if job is None:
                    if self._over:
                        return
                    self._changed.wait()
                    continue
            stream = job.listener
            assert isinstance(stream, LiveStream)
            try:
                stream.read(self._reader.read(stream.request, wanted=stream.wanted))
            except BaseException as error:
                self._scheduler.fail(job, fault_of(error))
            with self._changed:
                self._wake()

    def _leave(self, stream: LiveStream, account: Account) -> None:
        """A stream is over; its caller hears of it next."""
        with self._changed:
            name = stream.request.stream_id
            if name is not None and self._named.get(name) is stream:
                del self._named[name]
            self._count()
            self._changed.notify_all()
        if stream.measured:
            self._watchers.over(account)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._news:
                    some = self._scheduler.live or self._scheduler.queued
                    self._changed.wait_for(lambda: self._news, timeout=_IDLE_S if some else _BEAT_S)
                self._news = False
                if self._closing and (self._broken_off or not self._scheduler.live):
                    break
            self._watchers.alive()
            try:
                while self.broken is None and self._scheduler.round():
                    self._count()
                    self._watchers.alive()
                    if self._broken_off:
                        break
            except BaseException as broken:  # of the scheduler itself: whoever waits must not wait for ever
                error = fault_of(broken)
                log.error("the engine's round broke", exc_info=error)
                self._failed(error, True)
                self._scheduler.break_off(UnavailableError(f"the server broke: {words_of(error)}"), live=True)
            if self.broken is not None and not self._closing:
                self._give_up(self.broken)
            self._count()
        error = UnavailableError("the server stopped before the turn was over; ask again, or go on with its frames")
        self._scheduler.break_off(error, live=True)
        with self._changed:
            self._changed.notify_all()

    def _give_up(self, reason: str) -> None:
        """Sends everybody elsewhere, and says why."""
        log.error("the engine is broken: %s", reason)
        with self._changed:
            self._closing = self._broken_off = self._news = True
        error = UnavailableError(_BROKEN.format(reason=reason))
        self._scheduler.break_off(error, live=True)
        self._count()
        self._watchers.broken(reason)

    def _failed(self, error: Exception, step: bool) -> None:
        """A step broke, or the reading of a prompt."""
        self._metrics.add(names.ENGINE_FAILURES)
        if not step:
            log.error("the reading of a prompt broke", exc_info=error)
        reason = self._failures.failed(error, step=step)
        if reason is not None and self.broken is None:
            self.broken = reason

    def _wake(self) -> None:
        self._news = True
        self._changed.notify_all()

    def _count(self) -> None:
        self._metrics.set(names.LIVE_STREAMS, self._scheduler.live)
        self._metrics.set(names.QUEUED_STREAMS, self._scheduler.queued)
        self._metrics.set(names.UNREAD_STREAMS, self._scheduler.unread)

    def _seen(self, streams: int, seconds: float) -> None:
        self._failures.worked()
        self._metrics.observe(names.STEP_SECONDS, seconds)
        self._metrics.observe(names.STEP_STREAMS, streams)


def _give_way() -> None:
    """Has this thread, and the threads of products that it starts, run after the engine's own (Linux: sched(7))."""
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _READERS_NICE)
