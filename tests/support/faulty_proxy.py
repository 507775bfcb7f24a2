"""An HTTP proxy before an S3 service, or another, in which requests fail as in the world: planned, one by one."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["busy", "too many", "broken", "no answer", "lost answer", "torn answer"]
FAULTS: tuple[Fault, ...] = ("busy", "too many", "broken", "no answer", "lost answer", "torn answer")
"""503 SlowDown; 429; 500 without a body that is XML; the connection ends before and after the service has done what is
asked; and in the middle of the answer's body."""
Plan = Callable[[str, str], Fault | None]
"""From a request's method and path to what goes wrong with it."""


@dataclass(kw_only=True)
class FaultyProxy:
    """Where the proxy is, what it does, and what it has seen."""

    address: str
    """`host:port`."""
    plan: Plan
    requests: list[tuple[str, str, Fault | None]] = field(default_factory=list)


def at_random(seed: int, share: float) -> Plan:
    """A share of all requests fails, in all ways alike."""
    rng, lock = random.Random(seed), threading.Lock()

    def plan(method: str, path: str) -> Fault | None:
        with lock:
            return rng.choice(FAULTS) if rng.random() < share else None

    return plan


def in_turn(*faults: Fault, method: str = "", path: str = "") -> Plan:
    """The first requests of a method with `path` in theirs fail, one after another."""
    left, lock = list(faults), threading.Lock()

    def plan(asked: str, where: str) -> Fault | None:
        with lock:
            return left.pop(0) if left and method in asked and path in where else None

    return plan


@contextmanager
def faulty_proxy(upstream: str, plan: Plan = lambda method, path: None) -> Iterator[FaultyProxy]:
    """A proxy on loopback before `upstream`, `host:port`; requests go on with the host that they were signed for."""
    host, _, port = upstream.rpartition(":")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.plan(self.command, self.path)
            proxy.requests.append((self.command, self.path, fault))
            if fault == "busy":
                text = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"
                self._answer(503, [("Content-Type", "application/xml")], text)
            elif fault == "too many":
                self._answer(429, [("Content-Type", "text/plain")], b"too many requests")
            elif fault == "broken":
                self._answer(500, [("Content-Type", "text/html")], b"<html>Internal Server Error</html>")
            elif fault == "no answer":
                self._reset()
            else:
                self._ask(body, fault)

        def _ask(self, body: bytes, fault: Fault | None) -> None:
            connection = http.client.HTTPConnection(host, int(port))
            with contextlib.closing(connection):
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                data = answer.read()
                if fault == "lost answer":
                    self._reset()
                else:
                    dropped = ("transfer-encoding", "connection", "content-length", "date", "server")
                    headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
                    length = len(data) if self.command != "HEAD" else int(answer.headers.get("Content-Length", 0))
                    self._answer(answer.status, headers, data, length=length, torn=fault == "torn answer")

        def _answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            data: bytes,
            *,
            length: int | None = None,
            torn: bool = False,
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) if length is None else length))
            self.end_headers()
            if torn and data:
                self.wfile.write(data[: len(data) // 2])
                self._reset()
            elif self.command != "HEAD":
                self.wfile.write(data)

        def _reset(self) -> None:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the connection was reset, here or there
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    for verb in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"):
        setattr(Handler, f"do_{verb}", Handler._pass_on)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy = FaultyProxy(address=f"127.0.0.1:{server.server_port}", plan=plan)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield proxy
        finally:
            server.shutdown()
