"""A gRPC server of a few lines that speaks the wire protocol and fails when it is told to; a word is a frame."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor
from waiting import HANG_S, eventually

from csm_model.frames import FRAME_SAMPLES
from csm_serving.client import calls
from csm_serving.client.retry import Retry
from csm_serving.server.tokens import TurnKey
from csm_serving.wire import messages
from csm_serving.wire.encodings import encoder_of
from csm_serving.wire.protocol import Chunk, End, SpeechRequest, TextPart
from csm_serving.wire.tensors import OUTPUTS

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
    authorizations: list[str] = field(default_factory=list)
    """What each call brought to say who it is."""
    certificate: tuple[bytes, bytes] | None = None
    """PEM of a certificate and its key: it listens behind TLS."""
    port: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    """Ends what waits in silence."""

    def start(self) -> StandIn:
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"
        if self.certificate is None:
            self.port = self._server.add_insecure_port(address)
        else:
            pair = self.certificate[::-1]
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
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
        self.authorizations += [str(value) for name, value in context.invocation_metadata() if name == "authorization"]

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
                    self.gate.wait(HANG_S)
                    return
                if index == fault.most:
                    break
                audio = np.full(FRAME_SAMPLES, index / 100, np.float32)
                codes = code_of(word)
                chunk = Chunk(audio=audio, frame_index=index, codes=codes, token=chain.next(codes))
                yield answer(first, messages.encode_chunk(chunk, encode))
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
        yield answer(first, messages.encode_end(end, encode), final=True)
        while inbox.get() is not None:
            pass


def decoded(message: Any) -> SpeechRequest | TextPart:
    response = service_pb2.ModelInferResponse(raw_output_contents=message.raw_input_contents)
    for tensor in message.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return messages.decode_request(calls.tensors_of(response))


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
    response.error_message = messages.encode_error(error)
    return response


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
"""Takes a stream to its end with one client or the other."""


def check(heard: Heard, text: str, retries: int = 0) -> None:
    assert heard.codes == [code_of(word).tolist() for word in text.split()]
    assert [chunk.frame_index for chunk in heard.chunks] == list(range(len(heard.chunks)))
    assert heard.end == End(ended=True)
    assert heard.retries == retries


def when_asked(server: StandIn, first: str, *rest: str) -> Iterator[str]:
    """Text of which more comes when its stream has begun."""
    yield first
    eventually(lambda: bool(server.asked))
    yield from rest
