"""When a client asks again, and over which connection: the parts that have no thread or socket, on a given clock."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving.client import calls
from csm_serving.client.exchange import Exchange
from csm_serving.client.pool import Pool
from csm_serving.client.retry import Retry
from csm_serving.wire import messages
from csm_serving.wire.errors import BusyError, DeadlineError, UnavailableError
from csm_serving.wire.protocol import Chunk, SpeechRequest

GONE = UnavailableError("gone")


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Longest(random.Random):
    """Draws the bound of every wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


def exchange(clock: Clock, retry: Retry, **request: object) -> Exchange:
    asked = SpeechRequest(text="hello", **request)  # type: ignore[arg-type]
    return Exchange(asked, retry=retry, chunk_timeout_s=5.0, clock=clock, draw=Longest())


def frame(index: int) -> object:
    chunk = Chunk(
        audio=np.zeros(FRAME_SAMPLES, np.float32), frame_index=index, codes=np.zeros(4, np.int32), token=b"token"
    )
    response = calls.ANSWER()
    for name, value in messages.encode_chunk(chunk).items():
        kind = "BYTES" if value.dtype == object else {"f4": "FP32", "i4": "INT32", "f8": "FP64"}[value.dtype.str[1:]]
        response.infer_response.outputs.add(name=name, datatype=kind, shape=value.shape)
        raw = len(value[0]).to_bytes(4, "little") + value[0] if kind == "BYTES" else value.tobytes()
        response.infer_response.raw_output_contents.append(raw)
    return response


def test_waits_grow_to_their_bound_and_are_drawn_below_it() -> None:
    retry = Retry(first_s=0.1, most_s=2.0)
    assert [retry.wait_s(n, Longest()) for n in (0, 1, 2, 4, 5, 99)] == [0.1, 0.2, 0.4, 1.6, 2.0, 2.0]
    waits = [retry.wait_s(4, random.Random(seed)) for seed in range(200)]
    assert min(waits) < 0.1 < 1.5 < max(waits) <= 1.6


@pytest.mark.parametrize("name", ["attempts", "first_s", "most_s", "budget_s"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_a_policy_of_negative_numbers_is_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} .*must be 0 or more"):
        Retry(**{name: value})


def test_attempts_are_counted_over_the_streams_life() -> None:
    clock = Clock()
    speaking = exchange(clock, Retry(attempts=3))
    speaking.begin()
    for index in range(3):
        speaking.take(frame(index), "here")
        assert speaking.again_in(GONE) > 0
        speaking.begin()
    speaking.take(frame(3), "here")
    with pytest.raises(UnavailableError, match="gone"):
        speaking.again_in(GONE)


def test_the_budget_counts_from_the_break_and_begins_anew_with_a_frame() -> None:
    clock = Clock()
    speaking = exchange(clock, Retry(attempts=99, first_s=1.0, most_s=1.0, budget_s=3.0))
    for index in range(2):
        speaking.begin()
        speaking.take(frame(index), "here")
        clock.now += 60
        for _ in range(3):
            clock.now += speaking.again_in(GONE)
    clock.now += 0.5
    with pytest.raises(UnavailableError, match="gone"):
        speaking.again_in(GONE)


def test_a_busy_server_is_left_alone_as_long_as_it_said() -> None:
    busy = BusyError("full", retry_after_s=1.5)
    assert exchange(Clock(), Retry(busy=True, first_s=0.1)).again_in(busy) == pytest.approx(1.6)
    with pytest.raises(BusyError):
        exchange(Clock(), Retry(busy=True, budget_s=1.0)).again_in(busy)
    with pytest.raises(BusyError):
        exchange(Clock(), Retry()).again_in(busy)
    broken = exchange(Clock(), Retry(first_s=0.1))
    broken.begin()
    broken.take(frame(0), "here")
    assert broken.again_in(busy) == pytest.approx(1.6), "somebody is listening"


def test_a_deadline_shrinks_with_the_time_that_passed() -> None:
    clock = Clock()
    speaking = exchange(clock, Retry(), deadline_s=4.0)
    speaking.begin()
    clock.now += 3.0
    assert speaking.timeout_s == pytest.approx(3.0), "what is left, and a margin for the server's own word"
    speaking.begin()
    clock.now += 1.0
    with pytest.raises(DeadlineError, match="not over within 4 s"):
        speaking.begin()


def test_a_stream_that_may_wait_for_a_slot_is_waited_for() -> None:
    clock = Clock()
    speaking = exchange(clock, Retry(), max_wait_s=10.0)
    speaking.begin()
    clock.now += 14
    speaking.check("here")
    speaking.take(frame(0), "here")
    clock.now += 5.1
    with pytest.raises(UnavailableError, match="sent nothing for 5 s"):
        speaking.check("here")


def test_while_the_text_is_the_callers_to_give_nothing_is_overdue() -> None:
    clock = Clock()
    asked = SpeechRequest(text="hello")
    speaking = Exchange(asked, retry=Retry(), chunk_timeout_s=5.0, more=True, clock=clock)
    speaking.begin()
    clock.now += 600
    speaking.check("here")
    speaking.offer(" there")
    assert len(speaking.due()) == 1
    clock.now += 5.1
    with pytest.raises(UnavailableError, match="sent nothing"):
        speaking.check("here")


def test_a_frame_out_of_turn_is_no_stream_of_this_protocol() -> None:
    speaking = exchange(Clock(), Retry())
    speaking.begin()
    speaking.take(frame(0), "here")
    with pytest.raises(Exception, match="frame 2 came where 1 was due"):
        speaking.take(frame(2), "here")


def test_a_channel_whose_server_failed_is_closed_after_its_last_stream() -> None:
    made = iter("abcdef")
    pool: Pool[str] = Pool(["one"], lambda _: next(made), streams_per_channel=2)
    first, second, third = pool.take(), pool.take(), pool.take()
    assert [lease.channel for lease in (first, second, third)] == ["a", "a", "b"]
    assert pool.give_back(first, broken=True) is None
    assert pool.take().channel == "b"
    assert pool.take().channel == "c"
    assert pool.give_back(second, broken=False) == "a"
    assert pool.close() == ["b", "c"]
    with pytest.raises(UnavailableError, match="closed"):
        pool.take()
    assert pool.give_back(third, broken=False) is None


def test_a_server_that_failed_is_passed_over_for_a_while_where_there_is_another() -> None:
    clock = Clock()
    pool: Pool[str] = Pool(["one", "two"], lambda url: url, streams_per_channel=9, clock=clock)
    assert [pool.take().url for _ in range(4)] == ["one", "two", "one", "two"]
    pool.give_back(pool.take(), broken=True)
    assert [pool.take().url for _ in range(4)] == ["two"] * 4
    clock.now += 1
    pool.give_back(pool.take(), broken=True)
    assert pool.take().url == "one", "it failed longer ago"
    clock.now += 10
    assert {pool.take().url for _ in range(4)} == {"one", "two"}


@pytest.mark.parametrize(
    "said",
    [
        "Failed to process the request(s) for model 'csm_0_0', message: Stub process 'csm_0_0' is not healthy.",
        "Server is stopping, scheduler for model has stopped accepting new inference requests",
        "Request for unknown model: 'csm' is not found",
    ],
)
def test_a_server_without_its_model_is_away_and_the_next_one_is_asked(said: str) -> None:
    answer = calls.ANSWER(error_message=said)
    assert isinstance(calls.error_in(answer, "here:1"), UnavailableError)
