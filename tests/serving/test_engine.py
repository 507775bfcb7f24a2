"""The engine over work of a few lines: slots, queue, text in parts, cancellation, errors, drain, what is counted."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from waiting import HANG_S, eventually, let_pass, never

from csm_model.errors import CsmError, InputError
from csm_model.frames import FRAME_SAMPLES
from csm_model.inference.batch import Frame
from csm_model.inference.jobs import SchedulerPolicy
from csm_model.inference.narration import Utterance
from csm_model.inference.safety import Reason
from csm_serving.server.engine import Engine, Watchers
from csm_serving.server.metrics import MemoryMetrics
from csm_serving.server.source import ResolvedRequest
from csm_serving.server.stored_voices import Voice
from csm_serving.server.stream import Account
from csm_serving.server.tokens import TurnKey
from csm_serving.server.watch import PortWatch
from csm_serving.wire.errors import BusyError, DeadlineError, ServingError, UnavailableError
from csm_serving.wire.protocol import Chunk, End, SpeechRequest


class Caller:
    """A sink that keeps all it hears, and may leave after some frames."""

    def __init__(self, leaves_after: int | None = None, on_chunk: Callable[[], None] = lambda: None) -> None:
        self.chunks: list[int] = []
        self.token = b""
        self.answer: End | Exception | str | None = None
        self.over = threading.Event()
        self._leaves_after = leaves_after
        self._on_chunk = on_chunk

    def chunk(self, chunk: Chunk) -> None:
        assert self.answer is None
        self.chunks.append(chunk.frame_index)
        self.token = chunk.token
        self._on_chunk()

    def end(self, end: End) -> None:
        self._final(end)

    def fail(self, error: Exception) -> None:
        self._final(error)

    def drop(self) -> None:
        self._final("dropped")

    def cancelled(self) -> bool:
        return self._leaves_after is not None and len(self.chunks) >= self._leaves_after

    def leave(self) -> None:
        self._leaves_after = 0

    def _final(self, answer: End | Exception | str) -> None:
        assert self.answer is None, "a second final"
        self.answer = answer
        self.over.set()

    def wait(self) -> Caller:
        assert self.over.wait(HANG_S)
        return self


class Work:
    """Streams of `max_frames` frames, or a frame a letter; "no" cannot be said, "breaks" breaks at frame 2."""

    def __init__(self, slots: int, gate: threading.Event | None = None) -> None:
        self.slots = slots
        self._gate = gate
        self._texts: dict[int, tuple[str, bool]] = {}
        self._made: dict[int, int] = {}
        self._most: dict[int, int | None] = {}
        self._errors: dict[int, CsmError] = {}
        self.together = 0

    def open(self, slot: int, asked: Utterance) -> None:
        if asked.text == "no":
            raise InputError("nothing to say")
        assert slot not in self._texts
        self._texts[slot], self._made[slot], self._most[slot] = (asked.text, asked.more), 0, asked.max_frames

    def close(self, slot: int) -> None:
        del self._texts[slot]
        self._errors.pop(slot, None)

    def add(self, slot: int, text: str, *, more: bool) -> None:
        self._texts[slot] = (self._texts[slot][0] + text, more)

    def reads(self, slot: int) -> bool:
        return False

    def leads(self, slot: int) -> bool:
        return False

    def lead(self, slots: Sequence[int], *, short: bool = False) -> None:
        raise AssertionError

    def prefill(self, slot: int) -> None:
        raise AssertionError

    def sounds(self, slot: int) -> bool:
        return self._made[slot] < self._length(slot) and slot not in self._errors

    def waits(self, slot: int) -> bool:
        return self._texts[slot][1] and self._made[slot] == self._length(slot)

    def step(self, slots: Sequence[int], emit: Callable[[int, Frame], None]) -> None:
        if self._gate is not None:
            assert self._gate.wait(HANG_S)
        self.together = max(self.together, len(slots))
        for slot in slots:
            if self._texts[slot][0] == "breaks" and self._made[slot] == 2:
                self._errors[slot] = InputError("no sentence")
                continue
            index = self._made[slot]
            self._made[slot] += 1
            codes = torch.full((4,), index, dtype=torch.long)
            emit(slot, Frame(codes, np.zeros(FRAME_SAMPLES, np.float32), index, 0))

    def over(self, slot: int) -> Reason | CsmError | None:
        if slot in self._errors:
            return self._errors[slot]
        if self._made[slot] < self._length(slot) or self._texts[slot][1]:
            return None
        return Reason.ENDED if self._most[slot] is None else Reason.CUT

    def dropped(self, slot: int) -> int:
        return 2

    def left_out(self, slot: int) -> str:
        return "".join(character for character in self._texts[slot][0] if not character.isascii())

    def _length(self, slot: int) -> int:
        most = self._most[slot]
        return len(self._texts[slot][0]) if most is None else most


class Reader:
    """Speaker 9 is unknown; a named voice takes as long to read as the gate is shut."""

    def __init__(self) -> None:
        self.key = TurnKey()
        self.gate = threading.Event()
        self.asked: list[str | None] = []

    def read(self, request: SpeechRequest, *, wanted: Callable[[], bool] = lambda: True) -> ResolvedRequest:
        self.asked.append(request.voice)
        if request.speaker == 9 or request.voice == "nobody":
            raise InputError("unknown speaker 9: the bundle has 0")
        if request.voice == "broken":
            raise RuntimeError("out of\nmemory")
        if request.voice is not None:
            assert self.gate.wait(HANG_S)
        utterance = Utterance(
            text=request.text, more=request.text_more, speaker=request.speaker or 0, max_frames=request.max_frames
        )
        voice = Voice(name="heart", speaker=0, identity="speaker:0")
        return ResolvedRequest(utterance=utterance, voice=voice, chain=self.key.begin(voice.identity))

    def is_quick(self, request: SpeechRequest) -> bool:
        return request.voice is None

    def warm_up_request(self) -> SpeechRequest:
        return SpeechRequest(text="hello", max_frames=3)


@contextmanager
def running(
    slots: int = 2, gate: threading.Event | None = None, watchers: Watchers | None = None, **policy: float
) -> Iterator[tuple[Engine, MemoryMetrics, Reader]]:
    metrics, reader = MemoryMetrics(), Reader()
    engine = Engine(
        Work(slots, gate),
        reader,
        policy=SchedulerPolicy(**policy),
        metrics=metrics,
        watchers=watchers,
        max_characters=20,
        max_wait_s=HANG_S,
    )  # type: ignore[arg-type]
    try:
        yield engine, metrics, reader
    finally:
        engine.close(grace_s=HANG_S)


def ask(engine: Engine, caller: Caller, text: str = "hello", **values: object) -> Caller:
    engine.submit(SpeechRequest(text=text, **values), caller)  # type: ignore[arg-type]
    return caller


def test_a_stream_is_whole_and_says_how_it_ended() -> None:
    with running() as (engine, metrics, reader):
        ended = ask(engine, Caller()).wait()
        cut = ask(engine, Caller(), max_frames=3).wait()
    assert (ended.chunks, ended.answer) == ([0, 1, 2, 3, 4], End(ended=True, dropped=2))
    assert (cut.chunks, cut.answer) == ([0, 1, 2], End(ended=False, reason="cut", dropped=2))
    codes = np.stack([np.full(4, n, np.int32) for n in range(5)], axis=1)
    assert reader.key.verify("speaker:0", codes, ended.token)
    assert not reader.key.verify("speaker:0", codes, cut.token)
    assert metrics.values["csm_frames_total"] == 8
    assert metrics.values["csm_streams_total{ended}"] == metrics.values["csm_streams_total{cut}"] == 1
    assert metrics.values["csm_audio_seconds_total"] == pytest.approx(0.64)
    assert metrics.values["csm_live_streams"] == metrics.values["csm_queued_streams"] == 0
    assert metrics.values["csm_stream_slots"] == 2
    assert len(metrics.observed["csm_first_audio_seconds"]) == len(metrics.observed["csm_queue_wait_seconds"]) == 2
    assert len(metrics.observed["csm_step_seconds"]) == 8


def test_what_was_left_out_is_told_and_counted() -> None:
    with running() as (engine, metrics, _):
        end = ask(engine, Caller(), "a 你好 b").wait().answer
        assert isinstance(end, End)
        assert (end.left_out, end.left_out_text) == (2, "你好")
        end = ask(engine, Caller(), "plain").wait().answer
        assert isinstance(end, End)
        assert (end.left_out, end.left_out_text) == (0, "")
        assert metrics.values["csm_left_out_characters_total"] == 2


def test_a_text_that_is_too_long_is_refused_before_its_first_sound() -> None:
    with running() as (engine, metrics, _):
        with pytest.raises(InputError, match="the text has 21 characters: at most 20 go into a stream; speak the rest"):
            engine.submit(SpeechRequest(text="a" * 10, stream_id="long-text", text_more=True, text_length=21), Caller())
        assert metrics.values["csm_refusals_total{invalid_input}"] == 1
        assert engine.queued == engine.live == 0


def test_above_the_slots_a_request_is_refused_and_a_freed_slot_is_taken_again() -> None:
    gate = threading.Event()
    with running(slots=1, gate=gate, frame_budget=0) as (engine, metrics, _):
        first = ask(engine, Caller())
        with pytest.raises(BusyError, match="all 1 slots are taken; try again in") as busy:
            ask(engine, Caller())
        waiting = ask(engine, Caller(), max_wait_s=HANG_S)
        impatient = ask(engine, Caller(), max_wait_s=0.001)
        let_pass(0.05)
        gate.set()
        first.wait()
        assert waiting.wait().answer == End(ended=True, dropped=2)
        assert isinstance(impatient.wait().answer, BusyError)
        assert ask(engine, Caller()).wait().answer == End(ended=True, dropped=2)
    assert busy.value.retry_after_s is not None
    assert busy.value.retry_after_s > 0
    assert (metrics.values["csm_refusals_total{busy}"], metrics.values["csm_refusals_total{wait}"]) == (1, 1)


def test_a_slot_is_free_by_the_time_its_caller_hears_the_end() -> None:
    with running(slots=1) as (engine, _, _):
        for _ in range(50):
            assert ask(engine, Caller()).wait().answer == End(ended=True, dropped=2)


def test_a_cancelled_stream_stops_before_its_next_frame() -> None:
    with running() as (engine, metrics, _):
        caller = ask(engine, Caller(leaves_after=2), max_frames=1000).wait()
    assert (caller.chunks, caller.answer) == ([0, 1], "dropped")
    assert metrics.values["csm_streams_total{cancelled}"] == 1


def test_errors_are_typed_and_leave_the_others_alone() -> None:
    with running(slots=4, frame_budget=0) as (engine, metrics, _):
        sound = ask(engine, Caller(), max_frames=50)
        with pytest.raises(InputError, match="speaker 9"):
            ask(engine, Caller(), speaker=9)
        unsaid = ask(engine, Caller(), "no").wait()
        halfway = ask(engine, Caller(), "breaks").wait()
        later = ask(engine, Caller(), voice="nobody").wait()
        broken = ask(engine, Caller(), voice="broken").wait()
        assert sound.wait().chunks == list(range(50))
    assert isinstance(unsaid.answer, InputError)
    assert isinstance(halfway.answer, InputError)
    assert halfway.chunks == [0, 1]
    assert isinstance(later.answer, InputError)
    assert isinstance(broken.answer, ServingError)
    assert "RuntimeError" in str(broken.answer)
    assert metrics.values["csm_refusals_total{invalid_input}"] == 3
    assert metrics.values["csm_streams_total{failed}"] == 2


def test_a_caller_that_breaks_does_not_stop_the_engine() -> None:
    def refuse() -> None:
        raise BrokenPipeError("gone")

    with running() as (engine, _, _):
        assert isinstance(ask(engine, Caller(on_chunk=refuse)).wait().answer, ServingError)
        assert ask(engine, Caller()).wait().answer == End(ended=True, dropped=2)


def test_text_comes_in_parts_under_the_streams_name() -> None:
    with running() as (engine, _, _):
        caller = ask(engine, Caller(), "abc", stream_id="stream-1", text_more=True)
        engine.append("stream-1", "de", more=True)
        with pytest.raises(InputError, match="live already"):
            ask(engine, Caller(), stream_id="stream-1")
        with pytest.raises(InputError, match="21 characters"):
            engine.append("stream-1", "a" * 16, more=True)
        with pytest.raises(InputError, match="not live here"):
            engine.append("stream-2", "a", more=True)
        engine.append("stream-1", "f", more=False)
        assert caller.wait().chunks == list(range(6))
        with pytest.raises(InputError, match="not live here"):
            engine.append("stream-1", "g", more=False)
        again = ask(engine, Caller(), "ab", stream_id="stream-1", text_more=True)
        engine.append("stream-1", "", more=False)
        assert again.wait().answer == End(ended=True, dropped=2)
        closed = ask(engine, Caller(), "ab", stream_id="stream-3", text_more=True)
        engine.append("stream-3", "c" * 10, more=False)
        with pytest.raises(InputError, match=r"has ended|not live here"):
            engine.append("stream-3", "d", more=False)
        closed.wait()


def test_a_stream_that_waits_for_text_ends_when_none_comes() -> None:
    with running(text_timeout_s=0.05) as (engine, metrics, _):
        caller = ask(engine, Caller(), "abc", stream_id="stream-1", text_more=True).wait()
    assert isinstance(caller.answer, DeadlineError)
    assert caller.chunks == [0, 1, 2]
    assert metrics.values["csm_streams_total{expired}"] == 1


def test_a_deadline_ends_a_stream() -> None:
    gate = threading.Event()
    with running(gate=gate) as (engine, _, _):
        caller = ask(engine, Caller(), max_frames=1000, deadline_s=0.01)
        let_pass(0.05)
        gate.set()
        assert isinstance(caller.wait().answer, DeadlineError)
    assert len(caller.chunks) < 1000


def test_a_request_that_takes_long_to_read_holds_nobody_up() -> None:
    with running(frame_budget=0) as (engine, _, reader):
        slow = ask(engine, Caller(), voice="anna")
        assert ask(engine, Caller()).wait().answer == End(ended=True, dropped=2)
        assert slow.answer is None
        reader.gate.set()
        assert slow.wait().answer == End(ended=True, dropped=2)


def test_nobody_is_read_for_who_has_gone_and_those_who_wait_are_counted() -> None:
    with running(frame_budget=0) as (engine, metrics, reader):
        first = ask(engine, Caller(), voice="anna")
        eventually(lambda: reader.asked == ["anna"])
        gone = [ask(engine, Caller(), voice="berta", max_wait_s=HANG_S) for _ in range(5)]
        stays = ask(engine, Caller(), voice="carla", max_wait_s=HANG_S)
        eventually(lambda: metrics.values["csm_unread_streams"] == metrics.values["csm_queued_streams"] == 7)
        with pytest.raises(BusyError):
            ask(engine, Caller(), voice="dora")
        for caller in gone:
            caller.leave()
        assert [caller.wait().answer for caller in gone] == ["dropped"] * 5
        reader.gate.set()
        assert first.wait().answer == stays.wait().answer == End(ended=True, dropped=2)
        assert reader.asked == ["anna", "carla"]
        eventually(lambda: metrics.values["csm_unread_streams"] == 0)


def test_several_are_read_at_once_where_there_are_readers() -> None:
    metrics, reader = MemoryMetrics(), Reader()
    engine = Engine(Work(2), reader, policy=SchedulerPolicy(frame_budget=0), metrics=metrics, readers=2)
    try:
        callers = [ask(engine, Caller(), voice=name) for name in ("anna", "berta")]
        eventually(lambda: sorted(map(str, reader.asked)) == ["anna", "berta"])
        reader.gate.set()
        assert [caller.wait().answer for caller in callers] == [End(ended=True, dropped=2)] * 2
    finally:
        reader.gate.set()
        engine.close(grace_s=HANG_S)


def test_what_reads_requests_gives_way_to_what_speaks() -> None:
    def niceness(name: str) -> int:
        (thread,) = (thread for thread in threading.enumerate() if thread.name == name)
        return os.getpriority(os.PRIO_PROCESS, thread.native_id or 0)

    with running():
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        eventually(lambda: niceness("csm-reader-0") == min(19, mine + 10))
        assert niceness("csm-engine") == mine


def test_streams_are_accounted_for_and_none_begins_unaccounted() -> None:
    accounts: list[Account] = []
    full = threading.Event()

    def may_begin() -> None:
        if full.is_set():
            raise ServingError("the disk is full")

    with running(watchers=Watchers(may_begin=may_begin, over=accounts.append)) as (engine, metrics, _):
        engine.warm_up()
        ask(engine, Caller()).wait()
        ask(engine, Caller(leaves_after=1), max_frames=9).wait()
        full.set()
        with pytest.raises(ServingError, match="disk is full"):
            ask(engine, Caller())
    assert [(a.outcome, a.frames, a.characters) for a in accounts] == [("ended", 5, 5), ("cancelled", 1, 5)]
    assert accounts[0].first_audio_s is not None
    assert metrics.values["csm_refusals_total{audit}"] == 1


def test_closing_lets_live_streams_end_and_takes_no_more() -> None:
    gate = threading.Event()
    with running(slots=1, gate=gate, frame_budget=0) as (engine, _, _):
        live = ask(engine, Caller())
        eventually(lambda: engine.live)
        waiting = ask(engine, Caller(), max_wait_s=HANG_S)
        drained: list[bool] = []
        closing = threading.Thread(target=lambda: drained.append(engine.close(grace_s=HANG_S)))
        closing.start()
        assert isinstance(waiting.wait().answer, UnavailableError)
        with pytest.raises(UnavailableError):
            ask(engine, Caller())
        assert not engine.ready
        gate.set()
        closing.join(HANG_S)
        assert drained == [True]
        assert live.answer == End(ended=True, dropped=2)


def test_closing_without_grace_breaks_streams_with_a_typed_error() -> None:
    started = threading.Event()
    with running(slots=1) as (engine, metrics, _):
        caller = ask(engine, Caller(on_chunk=started.set), max_frames=10**9)
        assert started.wait(HANG_S)
        assert engine.close(grace_s=0) is False
        assert isinstance(caller.answer, UnavailableError)
        assert metrics.values["csm_live_streams"] == 0


def test_warming_up_is_not_counted_and_fills_every_slot() -> None:
    with running(slots=3) as (engine, metrics, _):
        engine.warm_up()
        assert "csm_frames_total" not in metrics.values
        assert "a step of 3" in engine.times


def test_a_server_that_is_slow_for_its_slots_starts_and_takes_what_it_can() -> None:
    with running(slots=3, frame_budget=1e-6) as (engine, metrics, _):
        engine.warm_up()
        assert "a step of 3" in engine.times
        assert not any("refusals" in name for name in metrics.values)
        ask(engine, Caller(), max_frames=10**9)
        with pytest.raises(BusyError, match="would make them late"):
            ask(engine, Caller())
        engine.close(grace_s=0)


def test_a_port_that_closes_is_noticed_while_streams_live() -> None:
    closed, busy = threading.Event(), threading.Event()
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        watch = PortWatch("0.0.0.0", port.getsockname()[1], busy=busy.is_set, on_closed=closed.set)
        watch.look()
    assert never(closed, 1.0), "nobody lives"
    busy.set()
    assert closed.wait(HANG_S)
    watch.stop()


def test_a_port_that_was_never_open_is_no_reason_to_stop() -> None:
    closed = threading.Event()
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        watch = PortWatch("127.0.0.1", port.getsockname()[1], busy=lambda: True, on_closed=closed.set)
        assert never(closed, 1.5)
        watch.stop()
    assert not closed.is_set()
