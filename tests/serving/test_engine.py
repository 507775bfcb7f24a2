"""The engine over sources of a few lines: turns, slots, cancellation, errors, drain."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving.engine import Engine, Source
from csm_serving.errors import BusyError, ServingError, UnavailableError
from csm_serving.metrics import MemoryMetrics
from csm_serving.protocol import Chunk, End, SpeechRequest
from csm_serving.watch import PortWatch

TIMEOUT = 10.0


class Caller:
    """A sink that keeps all it hears, and may leave after some frames."""

    def __init__(self, leaves_after: int | None = None, on_chunk: Callable[[], None] = lambda: None) -> None:
        self.chunks: list[int] = []
        self.answer: End | Exception | str | None = None
        self.over = threading.Event()
        self._leaves_after = leaves_after
        self._on_chunk = on_chunk

    def chunk(self, chunk: Chunk) -> None:
        assert self.answer is None
        self.chunks.append(chunk.frame_index)
        self._on_chunk()

    def end(self, end: End) -> None:
        self._final(end)

    def fail(self, error: Exception) -> None:
        self._final(error)

    def drop(self) -> None:
        self._final("dropped")

    def cancelled(self) -> bool:
        return self._leaves_after is not None and len(self.chunks) >= self._leaves_after

    def _final(self, answer: End | Exception | str) -> None:
        assert self.answer is None, "a second final"
        self.answer = answer
        self.over.set()

    def wait(self) -> Caller:
        assert self.over.wait(TIMEOUT)
        return self


def counting(gate: threading.Event | None = None) -> Source:
    """Frames 0 to max_frames; speaker 9 is unknown, and speaker 8 breaks at frame 2."""

    def source(request: SpeechRequest) -> Generator[Chunk, None, End]:
        if request.speaker == 9:
            raise InputError("speaker 9: the bundle has 0")
        for index in range(request.max_frames or 5):
            if gate is not None:
                assert gate.wait(TIMEOUT)
            if request.speaker == 8 and index == 2:
                raise RuntimeError("out of\nmemory")
            yield Chunk(audio=np.zeros(FRAME_SAMPLES, np.float32), frame_index=index, codes=np.zeros(4, np.int32))
        return End(ended=request.max_frames is None)

    return source


@contextmanager
def running(source: Source, slots: int = 2) -> Iterator[tuple[Engine, MemoryMetrics]]:
    metrics = MemoryMetrics()
    engine = Engine(source, slots=slots, metrics=metrics)
    try:
        yield engine, metrics
    finally:
        engine.close(grace_s=TIMEOUT)


def ask(engine: Engine, caller: Caller, **values: int) -> Caller:
    engine.submit(SpeechRequest(text="hello", **values), caller)  # type: ignore[arg-type]
    return caller


def test_a_stream_is_whole_and_says_how_it_ended() -> None:
    with running(counting()) as (engine, metrics):
        ended = ask(engine, Caller()).wait()
        cut = ask(engine, Caller(), max_frames=3).wait()
    assert (ended.chunks, ended.answer) == ([0, 1, 2, 3, 4], End(ended=True))
    assert (cut.chunks, cut.answer) == ([0, 1, 2], End(ended=False))
    assert metrics.values["csm_frames_total"] == 8
    assert metrics.values["csm_streams_total{ended}"] == metrics.values["csm_streams_total{cut}"] == 1
    assert metrics.values["csm_audio_seconds_total"] == pytest.approx(0.64)
    assert metrics.values["csm_live_streams"] == 0
    assert metrics.values["csm_stream_slots"] == 2
    assert len(metrics.observed["csm_first_audio_seconds"]) == 2


def test_live_streams_take_turns_frame_by_frame() -> None:
    gate = threading.Event()
    order: list[str] = []
    with running(counting(gate)) as (engine, _):
        callers = [
            ask(engine, Caller(on_chunk=lambda name=name: order.append(name)), max_frames=4)  # type: ignore[misc]
            for name in "ab"
        ]
        gate.set()
        for caller in callers:
            caller.wait()
    assert sorted(order) == list("aaaabbbb")
    assert "aaa" not in "".join(order), "the first may be one frame ahead, no more"
    assert "bbb" not in "".join(order)


def test_above_the_slots_a_request_is_refused_and_a_freed_slot_is_taken_again() -> None:
    gate = threading.Event()
    with running(counting(gate), slots=1) as (engine, metrics):
        first = ask(engine, Caller())
        with pytest.raises(BusyError, match="all 1 slots"):
            ask(engine, Caller())
        gate.set()
        first.wait()
        assert ask(engine, Caller()).wait().answer == End(ended=True)
    assert metrics.values["csm_refusals_total{busy}"] == 1


def test_a_slot_is_free_by_the_time_its_caller_hears_the_end() -> None:
    with running(counting(), slots=1) as (engine, _):
        for _ in range(50):
            assert ask(engine, Caller()).wait().answer == End(ended=True)


def test_a_cancelled_stream_stops_before_its_next_frame() -> None:
    with running(counting()) as (engine, metrics):
        caller = ask(engine, Caller(leaves_after=2), max_frames=1000).wait()
    assert (caller.chunks, caller.answer) == ([0, 1], "dropped")
    assert metrics.values["csm_streams_total{cancelled}"] == 1


def test_errors_are_typed_and_leave_the_others_alone() -> None:
    with running(counting(), slots=3) as (engine, metrics):
        sound = ask(engine, Caller(), max_frames=50)
        unknown = ask(engine, Caller(), speaker=9).wait()
        broken = ask(engine, Caller(), speaker=8).wait()
        assert sound.wait().chunks == list(range(50))
    assert isinstance(unknown.answer, InputError)
    assert isinstance(broken.answer, ServingError)
    assert broken.chunks == [0, 1]
    assert "RuntimeError" in str(broken.answer)
    assert metrics.values["csm_refusals_total{invalid_input}"] == 1
    assert metrics.values["csm_streams_total{failed}"] == 1


def test_a_caller_that_breaks_does_not_stop_the_engine() -> None:
    def refuse() -> None:
        raise BrokenPipeError("gone")

    with running(counting()) as (engine, _):
        assert isinstance(ask(engine, Caller(on_chunk=refuse)).wait().answer, ServingError)
        assert ask(engine, Caller()).wait().answer == End(ended=True)


def test_closing_lets_live_streams_end_and_takes_no_more() -> None:
    gate = threading.Event()
    engine = Engine(counting(gate), slots=2, metrics=MemoryMetrics())
    live = ask(engine, Caller())
    drained: list[bool] = []
    closing = threading.Thread(target=lambda: drained.append(engine.close(grace_s=TIMEOUT)))
    closing.start()
    while True:
        try:
            ask(engine, Caller(leaves_after=0))
        except (UnavailableError, BusyError) as error:
            if isinstance(error, UnavailableError):
                break
    gate.set()
    closing.join(TIMEOUT)
    assert drained == [True]
    assert live.answer == End(ended=True)


def test_closing_without_grace_breaks_streams_with_a_typed_error() -> None:
    metrics = MemoryMetrics()
    started = threading.Event()
    engine = Engine(counting(), slots=1, metrics=metrics)
    caller = ask(engine, Caller(on_chunk=started.set), max_frames=10**9)
    assert started.wait(TIMEOUT)
    assert engine.close(grace_s=0) is False
    assert isinstance(caller.answer, UnavailableError)
    assert metrics.values["csm_live_streams"] == 0


def test_warming_up_is_not_counted_and_shows_errors() -> None:
    with running(counting()) as (engine, metrics):
        engine.warm_up(SpeechRequest(text="hello"))
        assert "csm_frames_total" not in metrics.values
        with pytest.raises(InputError, match="speaker 9"):
            engine.warm_up(SpeechRequest(text="hello", speaker=9))


def test_an_engine_needs_a_slot() -> None:
    with pytest.raises(InputError, match="slots 0"):
        Engine(counting(), slots=0, metrics=MemoryMetrics())


def test_a_port_that_closes_is_noticed_while_streams_live() -> None:
    closed, busy = threading.Event(), threading.Event()
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        watch = PortWatch("0.0.0.0", port.getsockname()[1], busy=busy.is_set, on_closed=closed.set)
        watch.look()
    assert not closed.wait(1), "nobody lives"
    busy.set()
    assert closed.wait(TIMEOUT)
    watch.stop()


def test_a_port_that_was_never_open_is_no_reason_to_stop() -> None:
    closed = threading.Event()
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        watch = PortWatch("127.0.0.1", port.getsockname()[1], busy=lambda: True, on_closed=closed.set)
        assert not closed.wait(1.5)
        watch.stop()
    assert not closed.is_set()
