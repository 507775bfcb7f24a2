"""Both clients against a gRPC server of a few lines that speaks the wire protocol and fails when it is told to.

A word is a frame. `test_client_triton.py` holds the same clients against a real Triton.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving import calls, wire
from csm_serving.aio import AsyncSpeechClient
from csm_serving.client import SpeechClient
from csm_serving.encodings import encoder_of
from csm_serving.errors import BusyError, DeadlineError, ServingError, UnavailableError
from csm_serving.protocol import Chunk, End, Resume, SpeechRequest, TextPart
from csm_serving.retry import NEVER, Retry
from csm_serving.tensors import OUTPUTS
from csm_serving.tokens import TurnKey

TEXT = "one two three four five six seven eight nine ten"
SOON = Retry(first_s=0.02, most_s=0.05)
KEY = TurnKey()
DTYPES = {spec.name: spec.dtype for spec in OUTPUTS}


def code_of(word: str) -> np.ndarray:
    return np.array([sum(word.encode()) % 97, len(word)], np.int32)


@dataclass(kw_only=True)
class Fault:
    """What a call meets instead of a good server."""

    error: Exception | None = None
    """The answer to the request."""
    break_before: int | None = None
    """The frame before which the connection is cut."""
    silent_before: int | None = None
    """The frame before which nothing comes any more."""
    part_error: Exception | None = None
    """The answer to the first part."""
    most: int | None = None
    """Frames that cut the turn."""


@dataclass
class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers `ModelStreamInfer` as the served model does: a word of the text is a frame."""

    faults: list[Fault] = field(default_factory=list)
    asked: list[SpeechRequest] = field(default_factory=list)
    parts: list[TextPart] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    """How each call ended: closed by the client's sending side, or cancelled."""
    peers: set[str] = field(default_factory=set)
    port: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    """Ends what waits in silence."""

    def start(self) -> StandIn:
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()
        return self

    def stop(self) -> None:
        self.gate.set()
        self._server.stop(grace=None).wait()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        context.add_callback(lambda: inbox.put(None))
        self.peers.add(context.peer())

        def read() -> None:
            try:
                for message in requests:
                    inbox.put(message)
                self.over.append("closed")
            except Exception:
                self.over.append("cancelled")
            inbox.put(None)

        threading.Thread(target=read, daemon=True).start()
        yield from self._answers(inbox, context, self.faults.pop(0) if self.faults else Fault())

    def _answers(self, inbox: queue.SimpleQueue[Any], context: grpc.ServicerContext, fault: Fault) -> Iterator[Any]:
        message = inbox.get()
        first, request = message.id, decoded(message)
        assert isinstance(request, SpeechRequest)
        self.asked.append(request)
        if fault.error is not None:
            yield failed(first, fault.error)
            while inbox.get() is not None:
                pass
            return
        encode = encoder_of(request.encoding)
        index = 0
        chain = KEY.begin("who")
        if request.resume is not None:
            assert KEY.verify("who", request.resume.codes, request.resume.token)
            index = request.resume.codes.shape[1]
            chain = KEY.begin("who", request.resume.codes)
        text, more = request.text, request.text_more
        while True:
            words = text.split()
            if more and text[-1:].strip():
                words = words[:-1]
            for word in words[index:]:
                if index == fault.break_before:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the stand-in goes away")
                if index == fault.silent_before:
                    self.gate.wait(30)
                    return
                if index == fault.most:
                    break
                audio = np.full(FRAME_SAMPLES, index / 100, np.float32)
                codes = code_of(word)
                chunk = Chunk(audio=audio, frame_index=index, codes=codes, token=chain.next(codes))
                yield answer(first, wire.encode_chunk(chunk, encode))
                index += 1
            if not more or index == fault.most:
                break
            if (message := inbox.get()) is None:
                return
            part = decoded(message)
            assert isinstance(part, TextPart)
            assert part.stream_id == request.stream_id
            if fault.part_error is not None:
                yield failed(message.id, fault.part_error)
                continue
            self.parts.append(part)
            text, more = text + part.text, part.more
            yield answer(message.id, {}, final=True)
        end = End(ended=index != fault.most)
        yield answer(first, wire.encode_end(end, encode), final=True)
        while inbox.get() is not None:
            pass


def decoded(message: Any) -> SpeechRequest | TextPart:
    response = service_pb2.ModelInferResponse(raw_output_contents=message.raw_input_contents)
    for tensor in message.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return wire.decode_request(calls.tensors_of(response))


def answer(name: str, tensors: dict[str, Any], *, final: bool = False) -> Any:
    response = service_pb2.ModelInferResponse(model_name="csm", id=name)
    response.parameters["triton_final_response"].bool_param = final
    for tensor, value in tensors.items():
        response.outputs.add(name=tensor, datatype=DTYPES[tensor], shape=value.shape)
        of_bytes = DTYPES[tensor] == "BYTES"
        response.raw_output_contents.append(serialize_byte_tensor(value).item() if of_bytes else value.tobytes())
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def failed(name: str, error: Exception) -> Any:
    response = answer(name, {}, final=True)
    response.error_message = wire.encode_error(error)
    return response


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn().start()
    yield stand_in
    stand_in.stop()


@dataclass
class Heard:
    """What a caller saw of a stream."""

    chunks: list[Chunk] = field(default_factory=list)
    end: End | None = None
    retries: int = 0

    @property
    def codes(self) -> list[list[int]]:
        return [chunk.codes.tolist() for chunk in self.chunks]


Hear = Callable[..., Heard]


@pytest.fixture(params=["threads", "asyncio"])
def hear(request: pytest.FixtureRequest) -> Hear:
    """Takes a stream to its end with one client or the other; what was heard before an error is in `into`."""

    def by_threads(url: Any, text: Any, into: Heard | None = None, asked: Any = None, **options: Any) -> Heard:
        heard = into or Heard()
        with SpeechClient(url, **{"retry": SOON} | options) as client:
            stream = client.stream(text, **asked or {})
            try:
                heard.chunks.extend(stream)
            finally:
                heard.retries, heard.end = stream.retries, stream.end
                stream.close()
        return heard

    async def by_asyncio(url: Any, text: Any, into: Heard | None = None, asked: Any = None, **options: Any) -> Heard:
        heard = into or Heard()
        async with (
            AsyncSpeechClient(url, **{"retry": SOON} | options) as client,
            client.stream(text, **asked or {}) as stream,
        ):
            try:
                async for chunk in stream:
                    heard.chunks.append(chunk)
            finally:
                heard.retries, heard.end = stream.retries, stream.end
        return heard

    if request.param == "threads":
        return by_threads
    return lambda *args, **kwargs: asyncio.run(by_asyncio(*args, **kwargs))


def check(heard: Heard, text: str, retries: int = 0) -> None:
    assert heard.codes == [code_of(word).tolist() for word in text.split()]
    assert [chunk.frame_index for chunk in heard.chunks] == list(range(len(heard.chunks)))
    assert heard.end == End(ended=True)
    assert heard.retries == retries


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.01)


def when_asked(server: StandIn, first: str, *rest: str) -> Iterator[str]:
    """Text of which more comes when its stream has begun."""
    yield first
    eventually(lambda: bool(server.asked))
    yield from rest


def test_a_stream_comes_whole_and_its_call_is_closed(server: StandIn, hear: Hear) -> None:
    check(hear(server.url, TEXT), TEXT)
    assert not server.asked[0].text_more
    assert server.over == ["closed"]


def test_text_in_parts_is_heard_as_the_whole(server: StandIn, hear: Hear) -> None:
    check(hear(server.url, when_asked(server, "one t", *TEXT[5:])), TEXT)
    assert server.asked[0].text_more
    assert server.asked[0].text + "".join(part.text for part in server.parts) == TEXT
    assert [part.more for part in server.parts] == [True] * (len(server.parts) - 1) + [False]
    assert len(server.parts) < len(TEXT) - 5, "what comes while a part is on its way gathers in the next"
    assert server.over == ["closed"]


def test_text_that_is_all_there_goes_out_at_once(server: StandIn) -> None:
    with SpeechClient(server.url) as client:
        stream = client.open(SpeechRequest(text="one "), ["two ", "three"])
        assert len(list(stream)) == 3


def test_an_asynchronous_source_of_text(server: StandIn) -> None:
    async def words() -> AsyncIterator[str]:
        for word in TEXT.split():
            await asyncio.sleep(0.001)
            yield word + " "

    async def main() -> list[int]:
        async with AsyncSpeechClient(server.url) as client:
            return [chunk.frame_index async for chunk in client.stream(words())]

    assert asyncio.run(main()) == list(range(10))


def test_sound_comes_before_the_text_is_over(server: StandIn) -> None:
    """The second part is only written when the first was heard, as in a conversation."""
    heard = threading.Event()

    def parts() -> Iterator[str]:
        yield "one two "
        assert heard.wait(20)
        yield "three"

    with SpeechClient(server.url) as client:
        for chunk in client.stream(parts()):
            if chunk.frame_index == 1:
                heard.set()
    assert chunk.frame_index == 2


def test_long_text_goes_out_in_parts(server: StandIn, hear: Hear) -> None:
    text = "It is a long story. " * 120
    check(hear(server.url, text), text)
    assert [len(part.text) for part in server.parts] == [1_000, 400]


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


def test_characters_that_are_none_come_out_in_the_iterator(server: StandIn, hear: Hear) -> None:
    with pytest.raises(InputError, match="UTF-8 does not hold"):
        hear(server.url, ["one two ", "\ud800"])


def test_a_refused_part_comes_out_in_the_iterator(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(part_error=InputError("the stream's text is too long"))]
    with pytest.raises(InputError, match="too long"):
        hear(server.url, when_asked(server, "one two ", "three "))


def test_a_part_refused_because_the_stream_had_ended_is_no_error(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(most=2)]
    heard = hear(server.url, when_asked(server, "one two ", "three ", "four "))
    assert (len(heard.chunks), heard.end) == (2, End(ended=False))


def test_text_is_not_asked_for_when_the_stream_is_over(server: StandIn) -> None:
    server.faults = [Fault(most=2)]
    given, over = [], threading.Event()

    def parts() -> Iterator[str]:
        for word in when_asked(server, "one ", "two ", "three "):
            given.append(word)
            yield word
        over.wait(20)
        for _ in range(1000):
            given.append("more ")
            yield "more "

    with SpeechClient(server.url) as client:
        assert sum(1 for _ in client.stream(parts())) == 2
    over.set()
    eventually(lambda: "csm-client-text" not in {thread.name for thread in threading.enumerate()})
    assert len(given) == 4


def test_the_text_waits_while_the_server_does_not_take_it(server: StandIn) -> None:
    server.faults = [Fault(silent_before=0)]
    given = []

    def parts() -> Iterator[str]:
        for _ in range(1000):
            given.append("word ")
            yield "word " * 100

    with SpeechClient(server.url) as client:
        stream = client.stream(parts())
        reader = threading.Thread(target=lambda: list(stream))
        reader.start()
        eventually(lambda: len(given) > 3)
        time.sleep(0.2)
        assert len(given) < 20
        stream.close()
        reader.join(20)
        assert not reader.is_alive()


def test_a_deadline_goes_along_and_bounds_the_call_here(
    server: StandIn, hear: Hear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csm_serving.exchange.DEADLINE_MARGIN_S", 0.1)
    server.faults = [Fault(break_before=2), Fault(silent_before=5)]
    with pytest.raises(DeadlineError, match="by its deadline"):
        hear(server.url, TEXT, asked={"deadline_s": 1.5})
    first, second = (asked.deadline_s for asked in server.asked)
    assert first is not None
    assert second is not None
    assert second < first <= 1.5


def test_a_silent_server_is_given_up(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(silent_before=3)]
    check(hear(server.url, TEXT, chunk_timeout_s=0.3), TEXT, retries=1)
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
        reader.join(20)
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
                    asyncio.get_running_loop().call_later(0.05, stream.close)
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
            while len(server.over) < 2:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 20))


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


def test_more_streams_than_a_channel_takes_open_another_and_close_it(server: StandIn) -> None:
    with SpeechClient(server.url, streams_per_channel=2) as client:
        streams = [client.stream(TEXT) for _ in range(5)]
        for stream in streams:
            next(stream)
        assert client._pool.channels == 3
        assert len(server.peers) == 3
        assert [len(list(stream)) for stream in streams] == [9] * 5
        assert client._pool.channels == 1


def test_streams_go_to_the_servers_in_turn(server: StandIn) -> None:
    other = StandIn().start()
    try:
        with SpeechClient([server.url, other.url]) as client:
            for _ in range(6):
                list(client.stream(TEXT))
    finally:
        other.stop()
    assert (len(server.asked), len(other.asked)) == (3, 3)


@pytest.mark.parametrize("encoding", ["float32", "int16", "opus"])
def test_other_encodings_come_as_samples(server: StandIn, hear: Hear, encoding: str) -> None:
    heard = hear(server.url, TEXT, asked={"encoding": encoding})
    assert heard.end is not None
    audio = np.concatenate([*(chunk.audio for chunk in heard.chunks), heard.end.audio])
    assert (audio.dtype, audio.shape) == (np.float32, (10 * FRAME_SAMPLES,))
    if encoding != "opus":
        np.testing.assert_allclose(audio[::FRAME_SAMPLES], np.arange(10) / 100, atol=1e-4)


def test_an_opus_stream_that_breaks_loses_what_the_codec_held(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(break_before=4)]
    heard = hear(server.url, TEXT, asked={"encoding": "opus"})
    check(heard, TEXT, retries=1)
    assert heard.end is not None
    samples = sum(chunk.audio.size for chunk in heard.chunks) + heard.end.audio.size
    assert samples == 10 * FRAME_SAMPLES - 156  # 6.5 ms


@pytest.mark.parametrize(("encoding", "kind", "scale"), [("float32", "<f4", 1.0), ("int16", "<i2", 32767.0)])
def test_raw_bytes_are_those_of_the_wire(server: StandIn, hear: Hear, encoding: str, kind: str, scale: float) -> None:
    heard = hear(server.url, TEXT, raw=True, asked={"encoding": encoding})
    assert all(chunk.audio.size == 0 for chunk in heard.chunks)
    samples = np.frombuffer(b"".join(chunk.encoded for chunk in heard.chunks), kind) / scale
    assert samples.shape == (10 * FRAME_SAMPLES,)
    np.testing.assert_allclose(samples[::FRAME_SAMPLES], np.arange(10) / 100, atol=1e-4)


def test_raw_opus_is_a_file(server: StandIn, hear: Hear) -> None:
    heard = hear(server.url, TEXT, raw=True, asked={"encoding": "opus"})
    assert heard.end is not None
    data = b"".join(chunk.encoded for chunk in heard.chunks) + heard.end.encoded
    assert data[:4] == b"OggS"
    assert all(chunk.encoded for chunk in heard.chunks)


def test_said_to_files_by_both(server: StandIn, tmp_path: Any) -> None:
    import soundfile

    async def main() -> None:
        async with AsyncSpeechClient(server.url) as client:
            for name, encoding in (("a.wav", "float32"), ("b.wav", "opus"), ("c.opus", "opus"), ("d.opus", "int16")):
                await client.say(TEXT, path=tmp_path / name, encoding=encoding)

    asyncio.run(main())
    with SpeechClient(server.url) as client:
        heard: list[np.ndarray] = []
        spoken = client.say(TEXT, path=tmp_path / "e.wav", listener=heard.append)
    assert (spoken.frames, spoken.ended, spoken.reason, spoken.retries) == (10, True, "ended", 0)
    assert len(heard) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "c.opus", "d.opus", "e.wav"]
    for path in tmp_path.iterdir():
        assert soundfile.info(path).duration == pytest.approx(0.8, abs=0.01), path.name


def test_many_streams_at_once(server: StandIn) -> None:
    async def main() -> list[int]:
        async with AsyncSpeechClient(server.url, streams_per_channel=4) as client:

            async def one() -> int:
                return len([chunk async for chunk in client.stream(TEXT)])

            return await asyncio.gather(*(one() for _ in range(20)))

    assert asyncio.run(main()) == [10] * 20


def test_addresses_must_be_given() -> None:
    with pytest.raises(InputError, match="at least one host:port"):
        SpeechClient([])
