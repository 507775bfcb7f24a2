"""A real MLflow server on loopback, with sqlite behind it; it can be killed and started again on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ports import free_port
from waiting import eventually

_NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Its seven processes for jobs, which nothing here asks for, are half a minute of processor time at each start."""


@dataclass(kw_only=True)
class MlflowServer:
    """A server that keeps its database and its log in `home`."""

    home: Path
    artefacts: str
    """Where it keeps files, as `--artifacts-destination` takes it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it; it does not answer yet."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"),
            f"--backend-store-uri=sqlite:///{self.home / 'mlflow.db'}",
            f"--artifacts-destination={self.artefacts}",
        ]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.home, env={**os.environ, **_NO_JOBS, **self.environment}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Waits until it answers."""
        eventually(self._answers, "the MLflow server did not come up", every_s=0.2)

    def kill(self) -> None:
        """Ends it and its workers at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        log = self.home / "log"
        assert self._process.poll() is None, f"the MLflow server ended:\n{log.read_text(errors='replace')[-2000:]}"
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=60):
                return True
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def mlflow_server(
    home: Path, *, artefacts: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[MlflowServer]:
    """A server that answers; it is killed at the end."""
    server = MlflowServer(home=home, artefacts=artefacts or str(home / "artefacts"), environment=environment or {})
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()
