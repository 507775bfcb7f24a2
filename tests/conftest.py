"""What every test has: no model hub, no telemetry, a fixed number of threads, and marks that say what it starts.

The variables are set before any library reads them. Tests that run side by side share the cores.
"""

from __future__ import annotations

import os

import costs
import pytest
import starts

CORES = len(os.sched_getaffinity(0))
OF_A_LANE = ("CSM_CPU_ISA",)
"""What a lane sets for all its tests (`tools/lanes.py`)."""
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

if WORKERS > 1:  # the process that started them has all cores, and has set this already
    os.environ["OMP_NUM_THREADS"] = str(max(1, min(CORES, 2) // WORKERS))
for name, value in {
    "OMP_NUM_THREADS": str(min(CORES, 2)),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "300",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}.items():
    os.environ.setdefault(name, value)


def pytest_configure(config: pytest.Config) -> None:
    for name, what in starts.MARKS.items():
        config.addinivalue_line("markers", f"{name}: {what}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks each test by what it starts; what shares a server stays together; the dearest files come first."""
    collected = config.stash.setdefault(starts.COLLECTED, {})
    for item in items:
        assert isinstance(item, pytest.Function)
        for mark in sorted(starts.marks_of(item)):
            item.add_marker(mark)
        item.add_marker(pytest.mark.xdist_group(costs.group_of(item)))
        collected[item.nodeid] = {mark.name for mark in item.iter_markers()}
    costs.dearest_first(items)


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own settings of the program must not reach a test."""
    for name in list(os.environ):
        if (
            name.startswith(("CSM_", "MLFLOW_TRACKING_", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_"))
            and name not in OF_A_LANE
        ):
            monkeypatch.delenv(name)
