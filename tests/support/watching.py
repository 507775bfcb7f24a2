"""A real Prometheus with the charts' rules, which scrapes what a test names."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml
from monitoring import RULES
from ports import free_port
from waiting import HANG_S, eventually


class Prometheus:
    """Open inside a `with`; skips where Prometheus is not here.

    Args:
        folder: for its configuration and data.
        jobs: scrape configurations.
    """

    def __init__(self, folder: Path, jobs: Sequence[Mapping[str, Any]]) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("prometheus is not here; it is in Debian's package prometheus")
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in RULES],
            "scrape_configs": list(jobs),
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.address = f"127.0.0.1:{free_port()}"
        self._process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address}",
                "--log.level=error",
            ]
        )

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer; raises `AssertionError` with what Prometheus says against a question."""
        asked = urllib.parse.urlencode({name.replace("match", "match[]"): value for name, value in parameters.items()})
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{asked}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise  # it is starting
            raise AssertionError(f"{parameters}: {json.load(error)['error']}") from None

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def labels(self) -> dict[str, set[str]]:
        """The labels of every metric that it has, by the metric's name."""
        found: dict[str, set[str]] = {}
        for series in self.get("series", match='{__name__=~".+"}'):
            found.setdefault(series.pop("__name__"), set()).update(series)
        return found

    def until(self, expression: str) -> None:
        """Waits until an expression has a series."""

        def has() -> bool:
            assert self._process.poll() is None, "Prometheus has ended"
            try:
                return bool(self.ask(expression))
            except urllib.error.URLError:
                return False  # it is starting

        eventually(has, f"{expression} has no series", every_s=0.3)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(HANG_S)
