"""The client of a served model; the only module that imports tritonclient. It needs no torch.

It speaks through tritonclient's generated stubs, not through its `InferenceServerClient`: that one keeps the sending
side of a call open until it is stopped, and a server cannot exit under a call that a slow reader holds open.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from csm_serving import tensors, wire
from csm_serving.errors import ServingError, UnavailableError
from csm_serving.protocol import Chunk, End, SpeechRequest
from csm_serving.settings import load_settings
from csm_serving.speech import SpeechService, SpeechStream

_MAX_MESSAGE = 64 * 2**20
# How Triton 2.51 says that it starts or stops; which of them comes depends on how far it is with it.
_NOT_SERVED = (
    "Server exiting",
    "Server is stopping",
    "stopped accepting new inference requests",
    "has no available versions",
    "is not found",
    "version is not available",
)
_END_TIMEOUT_S = 2.0
_LOOPBACK = ("127.", "localhost", "[::1]")


def _says_not_served(line: str) -> bool:
    return any(words in line for words in _NOT_SERVED)


class SpeechClient(SpeechService):
    """Speaks through the server at `url` (`host:port` of its gRPC). Several threads may hold streams at once."""

    def __init__(self, url: str | None = None, *, chunk_timeout_s: float | None = None) -> None:
        settings = load_settings(chunk_timeout_s=chunk_timeout_s)
        self.url = url or f"{settings.host}:{settings.grpc_port}"
        self._chunk_timeout_s = settings.chunk_timeout_s
        options = [("grpc.max_send_message_length", _MAX_MESSAGE), ("grpc.max_receive_message_length", _MAX_MESSAGE)]
        if self.url.startswith(_LOOPBACK):
            options.append(
                ("grpc.enable_http_proxy", 0)
            )  # a proxy of the environment cannot reach this machine's ports
        self._channel = grpc.insecure_channel(self.url, options=options)
        self._server = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; streams still open are cancelled."""
        self._channel.close()

    def open(self, request: SpeechRequest) -> SpeechStream:
        """The stream that answers `request`; `UnavailableError` and others come while iterating."""
        return SpeechStream(self._responses(_message(request)))

    def _responses(self, message: Any) -> Generator[Chunk | End, None, None]:
        call = self._server.ModelStreamInfer(iter([message]))
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_collect, args=(call, arrived), name="csm-client", daemon=True).start()
        end: End | None = None
        over = False
        try:
            while not over:
                answer = self._next(arrived)
                response = answer.infer_response
                over = bool(answer.error_message) or response.parameters["triton_final_response"].bool_param
                if answer.error_message:
                    raise self._error_of(answer.error_message)
                if response.outputs:
                    item = wire.decode_response(_tensors(response))
                    if isinstance(item, End):
                        end = item
                    else:
                        yield item
        finally:
            if over:
                _let_end(call, arrived)
            else:
                call.cancel()
        if end is None:
            raise UnavailableError(f"{self.url} dropped the stream before the turn was over; ask again")
        yield end

    def _next(self, arrived: queue.SimpleQueue[Any]) -> Any:
        """The next message of the call; raises where the call has ended or nothing comes."""
        try:
            answer = arrived.get(timeout=self._chunk_timeout_s)
        except queue.Empty:
            raise UnavailableError(
                f"{self.url} sent nothing for {self._chunk_timeout_s:g} s (CSM_SERVING_CHUNK_TIMEOUT_S)"
            ) from None
        if answer is None:
            raise UnavailableError(f"{self.url} closed the stream before the turn was over; ask again")
        if isinstance(answer, grpc.RpcError):
            line = " ".join(str(answer.details()).split())
            if _says_not_served(line):
                raise self._not_served(line)
            raise UnavailableError(
                f"no server at {self.url} ({line}): start one with `csm serve`, or speak without one: csm say --local"
            )
        return answer

    def _error_of(self, message: str) -> Exception:
        """A response's error as one of ours."""
        if (ours := wire.find_error(message)) is not None:
            return ours
        line = " ".join(message.split())
        return self._not_served(line) if _says_not_served(line) else ServingError(f"{self.url}: {line}")

    def _not_served(self, line: str) -> UnavailableError:
        return UnavailableError(
            f"{self.url} does not serve {tensors.MODEL_NAME} now ({line}): it starts or stops; ask again"
        )


def _collect(call: Any, arrived: queue.SimpleQueue[Any]) -> None:
    """Takes responses off the wire as they come, so that a slow reader holds up nobody; then None or the error."""
    try:
        for response in call:
            arrived.put(response)
        arrived.put(None)
    except grpc.RpcError as error:
        arrived.put(error)


def _let_end(call: Any, arrived: queue.SimpleQueue[Any]) -> None:
    """Waits for the end of a call whose last response came: Triton 2.51 leaks a stream that is cancelled just then."""
    try:
        arrived.get(timeout=_END_TIMEOUT_S)
    except queue.Empty:
        call.cancel()


def _message(request: SpeechRequest) -> Any:
    """The request as Triton's message."""
    kinds = {spec.name: spec.dtype for spec in tensors.INPUTS}
    message = service_pb2.ModelInferRequest(model_name=tensors.MODEL_NAME)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, value in wire.encode_request(request).items():
        message.inputs.add(name=name, datatype=kinds[name], shape=value.shape)
        is_text = kinds[name] == "BYTES"
        message.raw_input_contents.append(serialize_byte_tensor(value).item() if is_text else value.tobytes())
    return message


def _tensors(response: Any) -> dict[str, tensors.Array]:
    """The tensors of Triton's message by name."""
    return {
        out.name: (
            deserialize_bytes_tensor(raw)
            if out.datatype == "BYTES"
            else np.frombuffer(raw, triton_to_np_dtype(out.datatype)).copy()
        ).reshape(out.shape)
        for out, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
