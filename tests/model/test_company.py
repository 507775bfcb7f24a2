"""A stream is the same to the bit alone and in company of every number up to 64, by either set of instructions.

The bodies are in `company.py`, which runs as a process of its own for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llvmlite import binding

PATIENT = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2"}
"""Threads that wait do not spin: on a machine that others work on as well, they would wait for each other long."""
AVX2_ALONE = {
    "CSM_CPU_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Has a processor with AVX-512 compute as one that has AVX2 alone."""


@pytest.fixture(scope="module", params=["avx512", "avx2"])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What `company.py` found, by one set of instructions."""
    features = binding.get_host_cpu_features()
    needed = "avx512f" if request.param == "avx512" else "avx2"
    if not features.get(needed, False):
        pytest.skip(f"this processor has no {needed}")
    environment = {**os.environ, **PATIENT, **(AVX2_ALONE if request.param == "avx2" else {"CSM_CPU_ISA": "avx512"})}
    script = Path(__file__).with_name("company.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    assert results["wide"] == (request.param == "avx512")
    return results


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "subject",
    ["rvq", "mimi", "narrow_mimi", "watermark", *(f"generation_{kind}" for kind in ("fp32", "bf16", "int8", "int4"))],
)
def test_nobody_differs_by_a_bit(found: dict[str, Any], subject: str) -> None:
    assert found[subject] == []
