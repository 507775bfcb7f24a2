"""A small pushgateway: takes what is pushed, and shows the latest of each group with the group's labels.

Of the real one's API (https://github.com/prometheus/pushgateway) it has `POST` and `PUT` of a group and `GET /metrics`.
A POST replaces the metrics of the same names, a PUT the whole group; what cannot be read is refused with 400.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names."""


class Pushgateway:
    """Open inside a `with`; `groups` maps the labels of a group to its metrics' names and samples."""

    def __init__(self) -> None:
        self.groups: dict[Labels, dict[str, dict[Labels, float]]] = {}
        self.lock = Lock()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._take(whole=False)

            def do_PUT(self) -> None:
                self._take(whole=True)

            def do_GET(self) -> None:
                self._answer(200 if self.path == "/metrics" else 404, gateway.page())

            def _take(self, *, whole: bool) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                try:
                    gateway.take(self.path, text, whole=whole)
                except ValueError as error:
                    self._answer(400, str(error))
                else:
                    self._answer(200, "")

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def netloc(self) -> str:
        """Its address, `host:port`."""
        return f"127.0.0.1:{self._server.server_port}"

    def take(self, path: str, text: str, *, whole: bool) -> None:
        """Keeps what is pushed to `/metrics/job/NAME/LABEL/VALUE...`; raises ValueError for anything else."""
        parts = path.strip("/").split("/")
        if parts[:2] != ["metrics", "job"] or len(parts) % 2 == 0 or not all(parts):
            raise ValueError(f"{path} is no group: /metrics/job/NAME, and pairs of labels and values")
        group = tuple(sorted(zip(parts[1::2], parts[2::2], strict=True)))
        samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        with self.lock:
            self.groups[group] = samples if whole else self.groups.get(group, {}) | samples

    def page(self) -> str:
        """All that was pushed, and what it says of itself."""
        rows = ['pushgateway_build_info{version="0"} 1']
        with self.lock:
            for group, metrics in self.groups.items():
                for name, samples in metrics.items():
                    for labels, value in samples.items():
                        inside = ",".join(f'{label}="{text}"' for label, text in dict(labels + group).items())
                        rows.append(f"{name}{{{inside}}} {value}")
        return "".join(f"{row}\n" for row in rows)

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
