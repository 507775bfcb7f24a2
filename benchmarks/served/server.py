"""A real Triton over the demo's model, and the memory of its processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csm_serving.client.load_report import scrape
from csm_serving.launcher.triton import LocalTriton
from csm_serving.settings import load_settings

DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo"


@contextlib.contextmanager
def served(bundle: Path = DEMO / "base", codec: Path | None = DEMO / "codec", **given: Any) -> Iterator[LocalTriton]:
    """A running Triton on free ports; `given` are settings."""
    settings = load_settings(
        **{"grpc_port": 0, "http_port": 0, "metrics_port": 0, "codec": codec, "ready_timeout_s": 300} | given
    )
    folder = os.environ.get("CSM_BENCH_FOLDER")  # kept, with the log
    with LocalTriton(bundle, settings=settings, folder=Path(folder) if folder else None) as triton:
        yield triton


def processes(triton: LocalTriton) -> dict[int, str]:
    """Triton's process and those that it started, by number and name."""
    found: dict[int, str] = {}
    waiting = [triton.pid]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return found


def memory_mb(triton: LocalTriton) -> float:
    """Memory of Triton and its stubs together: pages that several share count once (PSS)."""
    total = 0
    for pid in processes(triton):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def counted(triton: LocalTriton, name: str) -> float:
    """One of the server's own metrics, all versions and labels together."""
    return sum(value for key, value in scrape(triton.metrics_url).items() if key.partition("{")[0] == name)
