"""Both clients against a stand-in for the server that goes away, refuses, falls silent, or is left."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from stand_in import SOON, TEXT, Fault, Hear, Heard, StandIn, check, when_asked
from waiting import HANG_S, eventually, eventually_async

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving.client import SpeechClient
from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.client.retry import NEVER, Retry
from csm_serving.wire.errors import BusyError, DeadlineError, ServingError, UnavailableError
from csm_serving.wire.protocol import Chunk, Resume, SpeechRequest


def test_a_stream_that_breaks_goes_on_after_the_last_frame(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(break_before=4), Fault(break_before=4), Fault(break_before=7)]
    check(hear(server.url, TEXT), TEXT, retries=3)
    assert [0 if asked.resume is None else asked.resume.codes.shape[1] for asked in server.asked] == [0, 4, 4, 7]
    assert server.asked[1].seed == server.asked[0].seed


def test_text_in_parts_is_sent_again_as_far_as_it_is_known(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(break_before=3), Fault(break_before=6)]

    def parts() -> Iterator[str]:
        yield "one two "
        eventually(lambda: len(server.asked) == 1)
        yield "three four "
        eventually(lambda: len(server.asked) == 2)
        yield "five six seven "
        eventually(lambda: len(server.asked) == 3)
        yield "eight nine ten"

    check(hear(server.url, parts()), TEXT, retries=2)
    assert [asked.text for asked in server.asked] == [
        "one two ",
        "one two three four ",
        "one two three four five six seven ",
    ]
    assert len({asked.stream_id for asked in server.asked}) == 3


def test_what_broke_after_all_its_text_was_sent_is_asked_for_whole(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(break_before=9)]
    check(hear(server.url, ["one two three four five ", "six seven eight nine ten"]), TEXT, retries=1)
    assert (server.asked[1].text, server.asked[1].text_more) == (TEXT, False)


def test_a_stream_goes_on_at_the_next_server(server: StandIn, hear: Hear) -> None:
    other = StandIn(faults=[Fault(silent_before=5)]).start()
    taken = Heard()
    try:
        threading.Thread(target=lambda: (eventually(lambda: len(taken.chunks) == 5), other.stop()), daemon=True).start()
        check(hear([other.url, server.url], TEXT, taken), TEXT, retries=1)
    finally:
        other.stop()
    assert server.asked[0].resume is not None


def test_a_server_that_comes_back_under_its_address_is_found(hear: Hear) -> None:
    first = StandIn(faults=[Fault(silent_before=5)]).start()
    second = StandIn(port=first.port)
    taken = Heard()

    def restart() -> None:
        eventually(lambda: len(taken.chunks) == 5)
        first.stop()
        second.start()

    restarting = threading.Thread(target=restart, daemon=True)
    restarting.start()
    try:
        heard = hear(first.url, TEXT, taken, retry=Retry(attempts=100, first_s=0.02, most_s=0.05))
    finally:
        restarting.join()
        second.stop()
    assert heard.retries >= 1
    check(heard, TEXT, heard.retries)


def test_a_request_may_go_on_from_what_another_process_heard(server: StandIn) -> None:
    with SpeechClient(server.url) as client:
        chunks = list(client.stream(TEXT))
        codes, sentences = np.stack([chunk.codes for chunk in chunks[:4]], axis=1), np.zeros(4, np.int32)
        server.faults = [Fault(break_before=6)]
        resume = Resume(codes=codes, sentences=sentences, token=chunks[3].token)
        stream = client.open(SpeechRequest(text=TEXT, resume=resume))
        assert [chunk.frame_index for chunk in stream] == list(range(4, 10))
    assert stream.retries == 1


def test_a_stream_breaks_when_nobody_answers_any_more(hear: Hear) -> None:
    server = StandIn(faults=[Fault(break_before=2)] * 9).start()
    taken = Heard()
    with pytest.raises(UnavailableError, match="the stand-in goes away"):
        hear(server.url, TEXT, taken, retry=Retry(attempts=2, first_s=0.01))
    server.stop()
    assert (len(taken.chunks), len(server.asked), taken.end) == (2, 3, None)


def test_without_retries_a_break_is_an_error(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(break_before=2)]
    with pytest.raises(UnavailableError):
        hear(server.url, TEXT, retry=NEVER)
    assert len(server.asked) == 1


def test_resuming_that_is_refused_names_the_break(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(break_before=2), Fault(error=InputError("resume: the token is another server's"))]
    with pytest.raises(UnavailableError, match="broke after frame 1 and cannot go on: resume: the token"):
        hear(server.url, TEXT)


@pytest.mark.parametrize("error", [InputError("no"), DeadlineError("late"), ServingError("broken"), BusyError("full")])
def test_what_another_attempt_would_not_change_is_not_tried(server: StandIn, hear: Hear, error: Exception) -> None:
    server.faults = [Fault(error=error)]
    with pytest.raises(type(error), match=str(error)):
        hear(server.url, TEXT)
    assert len(server.asked) == 1
    assert server.over == ["closed"], "a Triton leaks a stream that is cancelled at its last response"


def test_a_busy_server_is_asked_again_only_where_asked_for(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(error=BusyError("full", retry_after_s=0.01))] * 2
    check(hear(server.url, TEXT, retry=Retry(first_s=0.01, busy=True)), TEXT, retries=2)


def test_the_text_going_wrong_cancels_the_stream(server: StandIn, hear: Hear) -> None:
    def parts() -> Iterator[str]:
        yield from when_asked(server, "one two ", "three ")
        raise KeyError("the language model failed")

    with pytest.raises(KeyError, match="the language model failed"):
        hear(server.url, parts())
    eventually(lambda: bool(server.over))
    assert len(server.asked) == 1


def test_a_deadline_goes_along_and_bounds_the_call_here(
    server: StandIn, hear: Hear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csm_serving.client.exchange.DEADLINE_MARGIN_S", 0.1)
    for deadline_s in (1.5, 15.0, 150.0):  # until one is long enough for two attempts, however slow the machine
        server.asked.clear()
        server.faults = [Fault(break_before=2), Fault(silent_before=5)]
        with pytest.raises(DeadlineError, match="by its deadline"):
            hear(server.url, TEXT, asked={"deadline_s": deadline_s})
        if len(server.asked) == 2:
            break
    first, second = (asked.deadline_s for asked in server.asked)
    assert first is not None
    assert second is not None
    assert second < first <= deadline_s


def test_a_silent_server_is_given_up(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(silent_before=3)]
    heard = hear(server.url, TEXT, chunk_timeout_s=0.3, retry=Retry(attempts=1_000, first_s=0.02, most_s=0.05))
    assert heard.retries >= 1  # a machine that is slower than that is given up as well
    check(heard, TEXT, heard.retries)
    server.faults = [Fault(silent_before=3)]
    with pytest.raises(UnavailableError, match=r"sent nothing for 0\.3 s"):
        hear(server.url, TEXT, chunk_timeout_s=0.3, retry=NEVER)


def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up(hear: Hear) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with pytest.raises(UnavailableError, match="no server at"):
            hear(f"127.0.0.1:{deaf.getsockname()[1]}", TEXT, connect_timeout_s=0.3, retry=NEVER)


def test_closing_from_another_thread_ends_the_iteration(server: StandIn) -> None:
    server.faults = [Fault(silent_before=2)]
    with SpeechClient(server.url) as client:
        stream = client.stream(TEXT)
        chunks: list[Chunk] = []
        reader = threading.Thread(target=lambda: chunks.extend(stream))
        reader.start()
        eventually(lambda: len(chunks) == 2)
        stream.close()
        reader.join(HANG_S)
        assert not reader.is_alive()
    assert stream.end is None
    assert len(server.asked) == 1


def test_closing_from_another_task_ends_the_iteration(server: StandIn) -> None:
    server.faults = [Fault(silent_before=2)]

    async def main() -> int:
        chunks = []
        async with AsyncSpeechClient(server.url) as client:
            stream = client.stream(TEXT)
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == 2:
                    asyncio.get_running_loop().call_soon(stream.close)
        return len(chunks)

    assert asyncio.run(main()) == 2


def test_a_stream_that_is_left_is_cancelled(server: StandIn) -> None:
    server.faults = [Fault(silent_before=2), Fault(silent_before=2)]
    with SpeechClient(server.url) as client:
        for _ in client.stream(TEXT):
            break
        eventually(lambda: len(server.over) == 1)

    async def main() -> None:
        async with AsyncSpeechClient(server.url) as client:
            async for _ in client.stream(TEXT):
                break
            await eventually_async(lambda: len(server.over) == 2)

    asyncio.run(main())


@pytest.mark.parametrize(("fault", "code"), [(Fault(), "OK"), (Fault(silent_before=2), "CANCELLED")])
def test_a_stream_is_only_cancelled_while_there_is_something_to_cancel(
    server: StandIn, fault: Fault, code: str
) -> None:
    """A Triton does not forget a call that is cancelled at its last response; here all has come and one was read."""
    server.faults = [fault]
    with SpeechClient(server.url) as client:
        stream = client.stream(TEXT)
        next(stream)
        speaking = stream._cancel.__self__  # type: ignore[attr-defined]
        if code == "OK":
            eventually(lambda: speaking._ends)
        stream.close()
        assert speaking._call.code() is grpc.StatusCode[code]


def test_a_closed_client_says_so(server: StandIn) -> None:
    server.faults = [Fault(silent_before=2)]  # so that not all of it has come before the client is closed
    client = SpeechClient(server.url, retry=SOON)
    stream = client.stream(TEXT)
    next(stream)
    client.close()
    with pytest.raises(UnavailableError, match="the client is closed"):
        list(stream)
    with pytest.raises(UnavailableError, match="the client is closed"):
        list(client.stream(TEXT))

    async def main() -> None:
        client = AsyncSpeechClient(server.url, retry=SOON)
        await client.close()
        with pytest.raises(UnavailableError, match="the client is closed"):
            await anext(client.stream(TEXT))

    asyncio.run(main())


def test_an_opus_stream_that_breaks_loses_what_the_codec_held(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(break_before=4)]
    heard = hear(server.url, TEXT, asked={"encoding": "opus"})
    check(heard, TEXT, retries=1)
    assert heard.end is not None
    samples = sum(chunk.audio.size for chunk in heard.chunks) + heard.end.audio.size
    assert samples == 10 * FRAME_SAMPLES - 156  # 6.5 ms
