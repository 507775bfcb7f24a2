"""How many threads a model gets, and that what was set outside stays."""

from __future__ import annotations

import os
from pathlib import Path

from csm_serving.server.threads import set_threads, threads_for


def test_a_small_model_gets_one_thread_and_a_large_one_every_core(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    assert threads_for(None) == threads_for(tmp_path) == 1
    weights.write_bytes(b"small")
    assert threads_for(tmp_path) == 1
    os.truncate(weights, 200 * 2**20)  # of a hole: it takes no room
    assert threads_for(tmp_path) == len(os.sched_getaffinity(0))


def test_threads_are_bound_and_what_was_set_stays() -> None:
    environment: dict[str, str] = {}
    set_threads(1, environment)
    assert environment == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = {"OMP_NUM_THREADS": "3", "OMP_PROC_BIND": "close"}
    set_threads(8, environment)
    assert environment == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "8", "OMP_PROC_BIND": "close"}
    environment = {}
    set_threads(2, environment)
    assert environment["OMP_PROC_BIND"] == "true"
