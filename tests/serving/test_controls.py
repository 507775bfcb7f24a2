"""Every call that Triton's protocol knows, made from outside: which of them answer a stranger, and which nobody."""

from __future__ import annotations

import http.client
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf import message_factory
from tritonclient.grpc import service_pb2

from csm_serving.client import SpeechClient
from csm_serving.launcher.controls import HEADER, closing
from csm_serving.launcher.installation import find_installation
from csm_serving.launcher.swap import STATE_NAME, ServerState
from csm_serving.launcher.triton import LocalTriton

SERVICE: Final = "inference.GRPCInferenceService"
OPEN_RPCS: Final = {
    "/grpc.health.v1.Health/Check",
    f"/{SERVICE}/ServerLive",
    f"/{SERVICE}/ServerReady",
    f"/{SERVICE}/ModelReady",
    f"/{SERVICE}/ServerMetadata",
    f"/{SERVICE}/ModelMetadata",
    f"/{SERVICE}/ModelInfer",
    f"/{SERVICE}/ModelStreamInfer",
}
"""What answers everybody: inference, health, metadata."""
CLOSED_RPCS: Final = {
    f"/{SERVICE}/{name}"
    for name in (
        *("ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
        *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
        *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
        *("TraceSetting", "LogSettings"),
    )
}
UNSERVED_RPCS: Final = {"/grpc.health.v1.Health/Watch"}
"""Named in the program, and answered with UNIMPLEMENTED."""

ROUTES: Final = {
    r"/v2(?:/health/(live|ready))?": ("/v2", "/v2/health/live", "/v2/health/ready"),
    r"/v2/models/([^/]+)(?:/versions/([0-9]+))?"
    r"(?:/(infer|generate|generate_stream|ready|config|stats|trace/setting))?": tuple(
        f"/v2/models/csm{version}{call}"
        for version in ("", "/versions/1")
        for call in (*("", "/infer", "/generate", "/generate_stream", "/ready", "/config", "/stats", "/trace/setting"),)
    ),
    r"/v2/models/stats": ("/v2/models/stats",),
    r"/v2/repository(?:/([^/]+))?/(index|models/([^/]+)/(load|unload))": (
        *("/v2/repository/index", "/v2/repository/here/index"),
        *("/v2/repository/models/csm/load", "/v2/repository/models/csm/unload"),
        *("/v2/repository/here/models/probe/load", "/v2/repository/here/models/csm/unload"),
    ),
    r"/v2/systemsharedmemory(?:/region/([^/]+))?/(status|register|unregister)": tuple(
        f"/v2/systemsharedmemory{region}/{call}"
        for region in ("", "/region/mine")
        for call in ("status", "register", "unregister")
    ),
    r"/v2/cudasharedmemory(?:/region/([^/]+))?/(status|register|unregister)": tuple(
        f"/v2/cudasharedmemory{region}/{call}"
        for region in ("", "/region/mine")
        for call in ("status", "register", "unregister")
    ),
    r"/v2/trace/setting": ("/v2/trace/setting",),
    r"/v2/logging": ("/v2/logging",),
}
"""The patterns of HTTP routes in Triton's program, and addresses that each of them takes."""
OPEN_ROUTES: Final = {
    *("/v2/health/live", "/v2/health/ready"),
    *("/v2/models/csm/ready", "/v2/models/csm/versions/1/ready"),
}
_RPC_NAME: Final = re.compile(rb"(?<=\0)/((?:inference|grpc\.health)\.[A-Za-z0-9_.]+/[A-Za-z]+)(?=\0)")
_ROUTE: Final = re.compile(rb"(?<=\0)/v[2-9][!-~]*(?=\0)")  # /v1/... are OpenTelemetry's, which it calls


@pytest.fixture(scope="module")
def program() -> bytes:
    """Triton's own program: the names of its calls are constants in it."""
    return find_installation().server.read_bytes()


@pytest.fixture
def channel(triton: LocalTriton) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(triton.url, options=[("grpc.enable_http_proxy", 0)]) as opened:
        yield opened


def ask(channel: grpc.Channel, name: str, **metadata: str) -> grpc.StatusCode:
    """The status of a call with a request of its type, filled in so that it would do something."""
    service, method = name.strip("/").split("/")
    message = b""
    if service == SERVICE:
        descriptor = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[method]
        request: Any = message_factory.GetMessageClass(descriptor.input_type)()
        fields = {field.name for field in descriptor.input_type.fields}
        for field, value in (("name", "csm"), ("model_name", "csm"), ("key", "/mine"), ("byte_size", 8)):
            if field in fields:
                setattr(request, field, value)
        message = request.SerializeToString()
    try:
        call = channel.stream_stream(name)(iter([message]), timeout=60, metadata=tuple(metadata.items()))
        list(call)
    except grpc.RpcError as error:
        status: grpc.StatusCode = error.code()
        return status
    return grpc.StatusCode.OK


def get(triton: LocalTriton, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", triton.ports["http"], timeout=60)
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_all_calls_of_this_triton_are_known(program: bytes) -> None:
    """A Triton with a new call or route fails here: put it on one of the lists, with the group that closes it."""
    known = OPEN_RPCS | CLOSED_RPCS | UNSERVED_RPCS
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {f"/{SERVICE}/{method.name}" for method in service.methods} == known - {
        name for name in known if name.startswith("/grpc.")
    }
    assert {"/" + name.decode() for name in _RPC_NAME.findall(program)} == known
    assert {route.decode() for route in _ROUTE.findall(program)} - {"/v2"} == set(ROUTES)


@pytest.mark.parametrize("secret", ["none", "wrong", "empty"])
def test_every_rpc_but_inference_health_and_metadata_is_refused(
    triton: LocalTriton, channel: grpc.Channel, secret: str
) -> None:
    keys = {"none": {}, "wrong": {f"triton-grpc-protocol-{HEADER}": "0" * 64}, "empty": {HEADER: ""}}[secret]
    answers = {name: ask(channel, name, **keys) for name in OPEN_RPCS | CLOSED_RPCS | UNSERVED_RPCS}
    closed = {name for name, status in answers.items() if status is grpc.StatusCode.UNAVAILABLE}
    assert closed == CLOSED_RPCS
    assert {name for name, status in answers.items() if status is grpc.StatusCode.UNIMPLEMENTED} == (
        UNSERVED_RPCS | {f"/{SERVICE}/ModelInfer"}  # of a model with many responses to a request
    )
    assert all(answers[name] is grpc.StatusCode.OK for name in OPEN_RPCS - {f"/{SERVICE}/ModelInfer"})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_every_http_route_but_health_is_refused(triton: LocalTriton, method: str) -> None:
    for path in (path for paths in ROUTES.values() for path in paths):
        for headers in ({}, {HEADER: "0" * 64}, {HEADER: ""}):
            status, said = get(triton, method, path, headers)
            if path in OPEN_ROUTES:
                assert status in (200, 405), (path, said)
            else:
                assert status in (403, 404, 405), (path, said)
                assert status != 403 or method == "HEAD" or b"restricted" in said
    assert get(triton, method, "/")[0] in (404, 405)


def test_the_controls_of_a_stranger_change_nothing(triton: LocalTriton, channel: grpc.Channel, tmp_path: Path) -> None:
    """A model of Triton's Python backend is a program: whoever may load one runs it as the server."""
    marker = tmp_path / "ran"
    model = f"open({str(marker)!r}, 'w')\nclass TritonPythonModel:\n    def execute(self, requests): return []\n"
    load = service_pb2.RepositoryModelLoadRequest(model_name="probe")
    load.parameters["config"].string_param = '{"name": "probe", "backend": "python"}'
    load.parameters["file:1/model.py"].bytes_param = model.encode()
    unload = service_pb2.RepositoryModelUnloadRequest(model_name="csm")
    for name, message in (("RepositoryModelLoad", load), ("RepositoryModelUnload", unload)):
        with pytest.raises(grpc.RpcError, match="restricted"):
            channel.unary_unary(f"/{SERVICE}/{name}")(message.SerializeToString(), timeout=60)
    assert not marker.exists()
    assert get(triton, "GET", "/v2/models/csm/ready")[0] == 200
    with SpeechClient(triton.url) as client:
        assert client.say("Good morning.", max_frames=2).frames == 2


def test_the_secret_opens_the_controls_and_is_nowhere_that_others_read(
    triton: LocalTriton, channel: grpc.Channel
) -> None:
    secret = ServerState.read(triton.folder).secret
    status, said = get(triton, "POST", "/v2/repository/index", {HEADER: secret})
    assert (status, b'"csm"' in said) == (200, True)
    assert ask(channel, f"/{SERVICE}/RepositoryIndex", **{f"triton-grpc-protocol-{HEADER}": secret}) is (
        grpc.StatusCode.OK
    )
    holders = [
        path
        for path in triton.folder.rglob("*")
        if path.is_file() and path.stat().st_size < 10**6 and secret.encode() in path.read_bytes()
    ]
    assert holders == [triton.folder / STATE_NAME]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600
    command_line = Path(f"/proc/{triton.pid}/cmdline").read_bytes()
    assert secret.encode() not in command_line
    assert b"--grpc-restricted-protocol=" in command_line
    assert secret not in repr(ServerState.read(triton.folder))


def test_the_page_closes_the_same_where_triton_is_started_by_hand() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    closed = re.search(r"^closed=(\S+):csm-control=\$\(openssl rand -hex 32\)$", page, re.M)
    assert closed is not None
    by_hand = {
        "--grpc-restricted-protocol": set(closed[1].split(",")),
        "--http-restricted-api": {"metadata", "inference", *closed[1].split(",")},
    }
    assert "--grpc-restricted-protocol=$closed --http-restricted-api=metadata,inference,$closed" in page
    ours = [option.partition("=") for option in closing("secret")]
    groups = {name: set(value.partition(":")[0].split(",")) for name, _, value in ours if "restricted" in name}
    assert groups == by_hand
    assert all(f"{name}={value}" in page for name, _, value in ours if "restricted" not in name)
