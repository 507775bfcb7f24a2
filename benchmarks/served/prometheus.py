"""A real Prometheus on this machine that scrapes servers, with the labels that the chart's PodMonitor gives them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from csm_model.errors import MissingDependencyError
from csm_scaling.record import Prometheus
from csm_serving.wire.errors import UnavailableError


@contextlib.contextmanager
def scraping(folder: Path, targets: Mapping[str, Mapping[str, str]], *, every_s: float = 1.0) -> Iterator[Prometheus]:
    """A running Prometheus.

    Args:
        folder: for its data; kept.
        targets: metrics pages (`http://host:port/metrics`), each with its labels.
        every_s: seconds between two scrapes.

    Raises:
        MissingDependencyError: the program is not here.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise MissingDependencyError("no program `prometheus`; it is in Debian's package prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": f"{round(every_s * 1000)}ms"},
                "scrape_configs": [
                    {
                        "job_name": "csm-serving",
                        "static_configs": [
                            {"targets": [urlsplit(page).netloc], "labels": dict(labels)}
                            for page, labels in targets.items()
                        ],
                    }
                ],
            }
        )
    )
    with socket.socket() as claim:
        claim.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{claim.getsockname()[1]}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        prometheus = Prometheus(f"http://{address}")
        until(lambda: prometheus.ask("count(up == 1)") == len(targets), why=f"{folder / 'prometheus.log'}")
        yield prometheus
    finally:
        process.terminate()
        process.wait(timeout=30)


def until(holds: Callable[[], bool], *, seconds: float = 60.0, why: str = "it never held") -> None:
    """Waits until something holds; an unavailable server counts as not yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(UnavailableError):
            if holds():
                return
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s: {why}")
