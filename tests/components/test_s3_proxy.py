"""S3 through a proxy: the one that the environment names, and none for hosts that it leaves out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from csm_components.proxies import connections
from csm_components.settings import Settings
from csm_components.storage import open_storage


class Proxy(ThreadingHTTPServer):
    """A proxy that knows no host: it writes down what it is asked for, and answers that it is not there."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Asked)


class Asked(BaseHTTPRequestHandler):
    """One request to a `Proxy`."""

    server: Proxy

    def do_HEAD(self) -> None:
        """Answers 404, as a store does for an object that it does not have."""
        self.server.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *said: object) -> None:
        """Says nothing."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_s3_is_asked_through_the_proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    settings = Settings(s3_endpoint="http://store.invalid:8333", s3_access_key="a", s3_secret_key=SecretStr("b"))
    assert not open_storage("s3://csm/runs", settings).exists("one.json")
    assert proxy.asked == ["http://store.invalid:8333/csm/runs/one.json"]


@pytest.mark.parametrize(
    ("address", "through"),
    [
        ("http://store.example:8333", True),
        ("https://store.example", True),
        ("http://csm-s3.csm-platform.svc:8333", False),
        ("http://127.0.0.1:8333", False),
        ("http://[::1]:8333", False),
    ],
)
def test_hosts_that_are_left_out_are_asked_directly(
    address: str, through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"http": "http://p:1", "https": "http://p:2", "no": "localhost,127.0.0.1,::1,.svc"}.items():
        monkeypatch.setenv(f"{name}_proxy", value)
        monkeypatch.setenv(f"{name.upper()}_PROXY", value)
    assert (getattr(connections(address), "proxy", None) is not None) is through
