"""What every test has: no model hub, no telemetry, and a fixed number of threads, set before any library reads them."""

from __future__ import annotations

import os

import pytest

CORES = len(os.sched_getaffinity(0))

for name, value in {
    "OMP_NUM_THREADS": str(min(CORES, 2)),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}.items():
    os.environ.setdefault(name, value)


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own settings of the program must not reach a test."""
    for name in list(os.environ):
        if name.startswith(("CSM_", "MLFLOW_TRACKING_", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_")):
            monkeypatch.delenv(name)
