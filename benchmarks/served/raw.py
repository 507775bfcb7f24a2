"""Triton's own protocol, spoken badly: messages that the client would never send, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from csm_serving.client import calls
from csm_serving.wire import messages

Message = Any
"""`service_pb2.ModelInferRequest`."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What came back."""

    outcome: str
    """Code of an error of this protocol (`invalid_input`, `busy`, ...), `triton` for one of Triton's own, `rpc` for one
    of the call itself, `spoken` for a whole stream, `silent` where nothing came that ends it, `left` where we went."""
    line: str = ""
    chunks: int = 0
    errors: tuple[str, ...] = ()
    """Codes of all errors, where a call asked for several things."""


@asynccontextmanager
async def channel_to(url: str, *, window: int | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own; with `window`, one whose reader takes so many bytes at most until it reads on."""
    options: list[tuple[str, Any]] = calls.channel_options(url, 5.0)
    if window is not None:
        options += [("grpc.http2.lookahead_bytes", window), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(url, options=options) as channel:
        yield channel


async def ask(channel: grpc.aio.Channel, messages: Sequence[Message], *, limit_s: float = 60.0) -> Answered:
    """Sends all messages in one call, and reads what comes until each has its last answer."""
    call = calls.infer_stream(channel)(iter(messages), timeout=limit_s)
    waiting, chunks, errors, lines = len(messages), 0, list[str](), list[str]()
    try:
        async for answer in call:
            if answer.error_message:
                code, line = code_of(answer)
                errors.append(code)
                lines.append(line)
            elif answer.infer_response.outputs:
                chunks += 1
            waiting -= calls.is_final(answer)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Answered(outcome="silent", line=str(error.details()), chunks=chunks, errors=tuple(errors))
        typed = calls.error_of(error, "server")
        return Answered(outcome="rpc", line=f"{type(typed).__name__}: {typed}", chunks=chunks, errors=tuple(errors))
    if errors:
        return Answered(outcome=errors[-1], line=lines[-1], chunks=chunks, errors=tuple(errors))
    return Answered(outcome="silent" if waiting > 0 else "spoken", chunks=chunks)


def code_of(answer: Any) -> tuple[str, str]:
    """The code and the line of an error in an answer."""
    ours = messages.find_error(answer.error_message)
    return ("triton", answer.error_message) if ours is None else (messages.error_code(ours), str(ours))


def copy_of(message: Message) -> Message:
    """A message that may be changed."""
    other = service_pb2.ModelInferRequest()
    other.CopyFrom(message)
    return other


def empty_message() -> Message:
    """A message in which nothing is said."""
    return service_pb2.ModelInferRequest()


async def leave_after(
    channel: grpc.aio.Channel, message: Message, *, chunks: int, wait_s: float = 0.0, limit_s: float = 60.0
) -> Answered:
    """Asks, reads so many chunks, reads nothing for a while, and cancels."""
    call = calls.infer_stream(channel)(iter([message]), timeout=limit_s)
    came = 0
    try:
        while came < chunks:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                return Answered(outcome="spoken", chunks=came)
            if answer.error_message:
                code, line = code_of(answer)
                return Answered(outcome=code, line=line)
            came += 1
        await asyncio.sleep(wait_s)
    except grpc.RpcError as error:
        return Answered(outcome="rpc", line=str(error.details()))
    finally:
        call.cancel()
    return Answered(outcome="left", chunks=came)


async def take_control(channel: grpc.aio.Channel, choice: int) -> tuple[str, str]:
    """Asks for one of the calls that no stranger may make; `refused` or `obeyed`, and what was said."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    load = service_pb2.RepositoryModelLoadRequest(model_name="probe")
    load.parameters["config"].string_param = '{"backend": "python"}'
    load.parameters["file:1/model.py"].bytes_param = b"class TritonPythonModel: pass\n"
    region = service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=8)
    call, request = (
        (stub.RepositoryModelUnload, service_pb2.RepositoryModelUnloadRequest(model_name="csm")),
        (stub.RepositoryModelLoad, load),
        (stub.SystemSharedMemoryRegister, region),
        (stub.LogSettings, service_pb2.LogSettingsRequest()),
    )[choice]
    try:
        await call(request, timeout=10)
    except grpc.RpcError as error:
        return "refused", str(error.details())
    return "obeyed", type(request).__name__
