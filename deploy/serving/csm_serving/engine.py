"""Several live streams over one model: a bounded number of slots, stepped in turn, a frame each.

One thread does all the model's work, so that a source need not be thread-safe, no stream can starve another, and a
cancelled stream is gone before its next frame. The engine knows neither Triton nor torch: a *source* turns a request
into frames, a *sink* takes them away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from csm_model.errors import CsmError, InputError
from csm_model.frames import FRAME_SECONDS, seconds_of
from csm_serving import metrics as names
from csm_serving.errors import BusyError, ServingError, UnavailableError
from csm_serving.metrics import Metrics
from csm_serving.protocol import Chunk, End, SpeechRequest

Source = Callable[[SpeechRequest], Generator[Chunk, None, End]]
"""Begins a stream: yields its chunks, returns how it ended. Raises `CsmError` on its first step where it cannot."""

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where a stream goes. Exactly one of `end`, `fail` and `drop` is called, last."""

    def chunk(self, chunk: Chunk) -> None:
        """Takes a frame away."""
        ...

    def end(self, end: End) -> None:
        """The stream is complete."""
        ...

    def fail(self, error: Exception) -> None:
        """The stream broke; nothing follows."""
        ...

    def drop(self) -> None:
        """The stream was cancelled; nothing follows."""
        ...

    def cancelled(self) -> bool:
        """Whether the caller has gone."""
        ...


@dataclass(eq=False)
class _Live:
    frames: Generator[Chunk, None, End]
    sink: Sink
    began: float
    measured: bool
    first_audio: float = 0.0
    count: int = 0


class Engine:
    """Runs `source` for at most `slots` streams at once."""

    def __init__(
        self, source: Source, *, slots: int, metrics: Metrics, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        if slots < 1:
            raise InputError(f"slots {slots}: a server needs at least 1")
        self.slots = slots
        self._source = source
        self._metrics = metrics
        self._clock = clock
        self._live: list[_Live] = []
        self._changed = threading.Condition()
        self._closing = False
        self._broken_off = False
        self._thread = threading.Thread(target=self._run, name="csm-engine", daemon=True)
        metrics.set(names.STREAM_SLOTS, slots)
        metrics.set(names.LIVE_STREAMS, 0)
        self._thread.start()

    @property
    def live(self) -> int:
        """Streams being spoken now."""
        return len(self._live)

    def submit(self, request: SpeechRequest, sink: Sink) -> None:
        """Takes a slot for `request`; raises `BusyError` where none is free and `UnavailableError` while closing."""
        self._admit(request, sink, measured=True)

    def refuse(self, reason: str) -> None:
        """Counts a request that was refused before it came here."""
        self._metrics.add(names.REFUSALS, label=reason)

    def warm_up(self, request: SpeechRequest) -> None:
        """Speaks `request` to nobody, in the engine's own thread, so that the first caller does not pay for it."""
        sink = _Nobody()
        self._admit(request, sink, measured=False)
        sink.over.wait()
        if sink.error is not None:
            raise sink.error

    def close(self, grace_s: float) -> bool:
        """Takes no more streams, lets live ones end for `grace_s` seconds, breaks the rest; True when none was left."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            drained = self._changed.wait_for(lambda: not self._live, timeout=grace_s)
            self._broken_off = True
        self._thread.join()
        return drained

    def _admit(self, request: SpeechRequest, sink: Sink, *, measured: bool) -> None:
        with self._changed:
            if self._closing:
                self.refuse("stopping")
                raise UnavailableError("the server is stopping; ask another one, or this one after its restart")
            if len(self._live) >= self.slots:
                self.refuse("busy")
                raise BusyError(f"all {self.slots} slots hold live streams; try again when one of them ends")
            self._live.append(_Live(self._source(request), sink, self._clock(), measured))
            self._metrics.set(names.LIVE_STREAMS, len(self._live))
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._live or self._closing)
                if not self._live:
                    return
                round_ = list(self._live)
            for live in round_:
                if self._broken_off:
                    self._broke(live, UnavailableError("the server stopped before the turn was over; ask again"))
                else:
                    self._step(live)

    def _step(self, live: _Live) -> None:
        try:
            if live.sink.cancelled():
                self._leave(live, "cancelled")
                live.sink.drop()
                return
            try:
                chunk = next(live.frames)
            except StopIteration as stop:
                end: End = stop.value
                self._leave(live, "ended" if end.ended else "cut")
                live.sink.end(end)
                return
            live.sink.chunk(chunk)
            self._sent(live)
        except CsmError as error:
            self._broke(live, error)
        except Exception as error:
            log.exception("a stream broke")
            self._broke(live, ServingError(f"the model failed with {type(error).__name__}: {error}"))

    def _broke(self, live: _Live, error: CsmError) -> None:
        if live.count == 0 and isinstance(error, InputError):
            self.refuse("invalid_input")
            self._leave(live, None)
        else:
            self._leave(live, "failed")
        try:
            live.sink.fail(error)
        except Exception:
            log.exception("the caller could not be told: %s", error)

    def _sent(self, live: _Live) -> None:
        live.count += 1
        if not live.measured:
            return
        now = self._clock()
        if live.count == 1:
            live.first_audio = now
            self._metrics.observe(names.FIRST_AUDIO, now - live.began)
        elif now > live.first_audio + (live.count - 1) * FRAME_SECONDS:
            self._metrics.add(names.UNDERRUNS)
        self._metrics.add(names.FRAMES)

    def _leave(self, live: _Live, outcome: str | None) -> None:
        """Frees the slot before the caller hears of it, so that its next request finds the slot free."""
        live.frames.close()
        with self._changed:
            if live in self._live:
                self._live.remove(live)
            self._metrics.set(names.LIVE_STREAMS, len(self._live))
            self._changed.notify_all()
        if outcome is None or not live.measured:
            return
        took, sound = self._clock() - live.began, seconds_of(live.count)
        self._metrics.add(names.STREAMS, label=outcome)
        self._metrics.add(names.STREAM_SECONDS, took)
        self._metrics.add(names.AUDIO_SECONDS, sound)
        if sound:
            self._metrics.set(names.REAL_TIME_FACTOR, took / sound)


class _Nobody:
    """A sink that keeps nothing."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.error: Exception | None = None

    def chunk(self, chunk: Chunk) -> None:
        pass

    def end(self, end: End) -> None:
        self.over.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.over.set()

    def drop(self) -> None:
        self.over.set()

    def cancelled(self) -> bool:
        return False
