"""gRPC calls to Triton: messages, tensors, errors. The only module that imports tritonclient; it needs no torch.

It uses tritonclient's generated stubs, not its `InferenceServerClient`: that one keeps the sending side of a call open
until it is stopped, and a server cannot exit under a call that a slow reader holds open.

Several requests may share one call of Triton's `ModelStreamInfer`: they are handed to the model in the order in which
they were sent, their responses come mixed, each with its request's id, and every id gets its own final flag. The call
ends when its sending side is closed and all have been answered (Triton 2.51, seen). So a stream and the parts of its
text are one call: they reach one server, in order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from csm_model.errors import CsmError, InputError
from csm_serving.wire import messages
from csm_serving.wire.defaults import GRPC_PORT, HOST
from csm_serving.wire.errors import DeadlineError, ServingError, UnavailableError
from csm_serving.wire.protocol import SpeechRequest, TextPart
from csm_serving.wire.tensors import INPUTS, MODEL_NAME, Array

DEFAULT_URL: Final = f"{HOST}:{GRPC_PORT}"
ANSWER: Final = service_pb2.ModelStreamInferResponse
"""What comes back in a call."""
_MAX_MESSAGE = 64 * 2**20
# How Triton 2.51 says that it starts or stops; which of them comes depends on how far it is with it.
_NOT_SERVED = (
    "Server exiting",
    "Server is stopping",
    "stopped accepting new inference requests",
    "has no available versions",
    "is not found",
    "version is not available",
    "is not healthy",  # the model's process has died; who started the server ends it in a moment
)
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[^\s\[\]:/,@]+):[0-9]{1,5}")
_SCHEMES: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
"""gRPC's own ways to name a server."""
_LOOPBACK = ("127.", "localhost", "[::1]", "ipv4:127.", "ipv6:[::1]")
_LASTING: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""What another attempt would not change."""
_TYPES: Final = {spec.name: spec.dtype for spec in INPUTS}


def addresses(url: str | Sequence[str]) -> tuple[str, ...]:
    """The servers' addresses, of which `url` may be one or several; raises `InputError` for one that cannot be right.

    gRPC would ask port 443 of a name without a port, and look up "http" as a name.
    """
    given = (url,) if isinstance(url, str) else tuple(url)
    for address in given:
        if not _ADDRESS.fullmatch(address) and not address.startswith(_SCHEMES):
            raise InputError(
                f"address {address[:100]!r}: must be host:port, such as 127.0.0.1:{GRPC_PORT} or [::1]:{GRPC_PORT}"
            )
    return given


def check_seconds(**named: float) -> None:
    """Raises `InputError` for a time to wait that is none."""
    for name, value in named.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} {value}: must be above 0 seconds")


def is_here(url: str) -> bool:
    """Whether `url` (`host:port`) is an address of this machine."""
    return url.startswith(_LOOPBACK)


def channel_options(url: str, connect_timeout_s: float) -> list[tuple[str, int]]:
    """Options of a channel to `url`: an own connection, given up when it takes longer than `connect_timeout_s`."""
    options = [
        ("grpc.max_send_message_length", _MAX_MESSAGE),
        ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ("grpc.use_local_subchannel_pool", 1),  # else all channels to one address share one connection
        ("grpc.min_reconnect_backoff_ms", math.ceil(connect_timeout_s * 1_000)),  # gRPC's name of a connect timeout
        ("grpc.initial_reconnect_backoff_ms", 100),
    ]
    if is_here(url):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy of the environment cannot reach this machine's ports
    return options


def infer_stream(channel: Any) -> Any:
    """The method that opens a call on `channel`, synchronous or asynchronous as the channel is."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer


def message_of(request: SpeechRequest | TextPart, name: str) -> Any:
    """A request as Triton's message, with `name` as its id."""
    message = service_pb2.ModelInferRequest(model_name=MODEL_NAME, id=name)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    for tensor, value in messages.encode_request(request).items():
        message.inputs.add(name=tensor, datatype=_TYPES[tensor], shape=value.shape)
        of_bytes = _TYPES[tensor] == "BYTES"
        message.raw_input_contents.append(serialize_byte_tensor(value).item() if of_bytes else value.tobytes())
    return message


def tensors_of(response: Any) -> dict[str, Array]:
    """The tensors of Triton's message by name."""
    return {
        out.name: (
            deserialize_bytes_tensor(raw)
            if out.datatype == "BYTES"
            else np.frombuffer(raw, triton_to_np_dtype(out.datatype)).copy()
        ).reshape(out.shape)
        for out, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def is_final(answer: Any) -> bool:
    """Whether nothing follows for the answer's id."""
    return bool(answer.error_message) or answer.infer_response.parameters["triton_final_response"].bool_param


def error_in(answer: Any, url: str) -> CsmError | None:
    """The error that a response carries as one of ours, or None."""
    if not answer.error_message:
        return None
    if (ours := messages.find_error(answer.error_message)) is not None:
        return ours
    line = " ".join(answer.error_message.split())
    return _not_served(url, line) if _says_not_served(line) else ServingError(f"{url}: {line}")


def error_of(error: grpc.RpcError, url: str, *, encrypted: bool = False) -> CsmError:
    """A call's own error as one of ours; `encrypted`: over TLS."""
    code = error.code()
    line = " ".join(str(error.details()).split())
    if (why := _distrust(line, encrypted=encrypted)) is not None:
        return UnavailableError(f"{url} {why}")
    if _says_not_served(line):
        return _not_served(url, line)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(f"{url} did not end the stream by its deadline; ask for less, or give it longer")
    if code in _LASTING:
        return ServingError(f"{url} refused the call with {code.name}: {line}")
    return UnavailableError(
        f"no server at {url} ({line}): start one with `csm serve`, or speak without one: csm say --local"
    )


def _distrust(line: str, *, encrypted: bool) -> str | None:
    """Why two that reached each other do not speak, by gRPC's words for it; None where it is something else."""
    if (found := re.search(r"CERTIFICATE_VERIFY_FAILED: ([a-z ]+)", line)) is not None:
        return f"shows a certificate that is not believed ({found[1]}): give its authority, ca= or --ca"
    if "Hostname Verification Check failed" in line or "is not in peer certificate" in line:  # now, and before 1.80
        return "shows a certificate of another name: call it by a name or address that its certificate has"
    if encrypted and "WRONG_VERSION_NUMBER" in line:
        return "speaks without TLS: ask it without tls, ca and client_cert, or give the server a certificate"
    if "Socket closed" in line or "Connection reset" in line:
        return (
            "closed the connection: it has ended, or asks for a client certificate, client_cert= or --client-cert"
            if encrypted
            else "closed the connection: it has ended, or speaks TLS alone, tls= or --tls"
        )
    return None


def _says_not_served(line: str) -> bool:
    return any(words in line for words in _NOT_SERVED)


def _not_served(url: str, line: str) -> UnavailableError:
    return UnavailableError(f"{url} does not serve {MODEL_NAME} now ({line}): it starts or stops; ask again")
