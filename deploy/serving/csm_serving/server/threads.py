"""How many threads the model's arithmetic gets, and that they stay on their cores: said before torch is imported.

What stands in the environment already was set on purpose, and stays.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

_SMALL_MODEL_BYTES: Final = 200 * 2**20


def threads_for(bundle: Path | None) -> int:
    """One for a small model, whose products are over before a second thread has woken; else every core."""
    weights = None if bundle is None else bundle / "model.safetensors"
    small = weights is None or not weights.is_file() or weights.stat().st_size < _SMALL_MODEL_BYTES
    return 1 if small else len(os.sched_getaffinity(0))


def set_threads(threads: int, environment: MutableMapping[str, str]) -> None:
    """Sets what is not set. torch reads it when it is imported, and numba follows torch."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, str(threads))
    if threads > 1:
        # Unbound threads wander between cores: a large product takes 5 times as long.
        environment.setdefault("OMP_PROC_BIND", "true")
