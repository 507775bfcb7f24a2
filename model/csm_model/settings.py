"""The environment variables of the model's own code; what speaks to a platform has settings of its own."""

from __future__ import annotations

import os
from typing import Literal, get_args

from csm_model.errors import InputError

CpuIsa = Literal["native", "avx512", "avx2", "none"]
"""Instruction set of the kernels: what this processor has, AVX-512, AVX2; `none` does without kernels."""


def cpu_isa() -> CpuIsa:
    """`CSM_CPU_ISA`, `native` where it is not set; read once, when the first kernel or packed layer is made."""
    value = os.environ.get("CSM_CPU_ISA", "native")
    for known in get_args(CpuIsa):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise InputError(f"CSM_CPU_ISA is {value!r}; it must be one of {', '.join(get_args(CpuIsa))}")
