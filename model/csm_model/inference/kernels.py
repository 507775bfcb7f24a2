"""Products of a bfloat16 matrix and one row on a CPU, at the speed of reading the matrix.

A frame of one stream multiplies every weight with one row, so the weights' way from memory is all that counts. oneDNN's
product of one row, which `torch.nn.functional.linear` calls, takes about twice as long as reading them. The kernel here
is a loop that numba compiles for the processor at hand; no C++ compiler is needed.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.errors import MissingDependencyError
from csm_model.model import CsmModel

Kernel = Callable[[npt.NDArray[np.uint32], npt.NDArray[np.float32], npt.NDArray[np.float32]], None]


@functools.cache
def row_product() -> Kernel:
    """`out[n] = sum over k of weight[n, k] * x[k]`, sums in float32.

    The weights come as pairs of bfloat16 in a uint32 `[N, K / 2]`: a bfloat16 is the upper half of a float32, so that a
    shift makes one of the even weight and a mask one of the odd.
    """
    # numba counts the cores of the thread that imports it; where threads are bound (OMP_PROC_BIND) that is one. Once it
    # is there, it takes no other number.
    if "numba" not in sys.modules:
        os.environ["NUMBA_NUM_THREADS"] = str(torch.get_num_threads())
    try:
        import numba
        from llvmlite import ir
        from numba.extending import intrinsic
    except ImportError:
        raise MissingDependencyError(
            "numba is not installed: it compiles the products of one row; pip install 'csm-foundry[serve]'"
        ) from None

    config: Any = numba.config
    numba.set_num_threads(min(torch.get_num_threads(), config.NUMBA_NUM_THREADS))

    @intrinsic
    def _float_of(context: Any, bits: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.bitcast(values[0], ir.FloatType())

        return numba.types.float32(numba.types.uint32), code

    float_of: Any = _float_of
    low, high = np.uint32(16), np.uint32(0xFFFF0000)

    @numba.njit(parallel=True, fastmath=True, boundscheck=False, error_model="numpy", nogil=True)
    def product(pairs, x, out):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
        even, odd = x[0::2].copy(), x[1::2].copy()
        for n in numba.prange(pairs.shape[0]):
            row = pairs[n]
            total = np.float32(0)
            for k in range(row.shape[0]):
                total += float_of(row[k] << low) * even[k] + float_of(row[k] & high) * odd[k]
            out[n] = total

    return product


class RowLinear(nn.Module):
    """A linear layer without bias whose product with one row is the kernel's; several rows go the usual way."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        assert weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.shape[1] % 2 == 0, weight.shape
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        self._pairs = self.weight.detach().view(torch.uint32).numpy()  # the same memory
        self._kernel = row_product()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        if x.numel() > x.shape[-1]:
            return F.linear(x, self.weight)
        out = np.empty(len(self._pairs), np.float32)
        self._kernel(self._pairs, x.detach().float().flatten().numpy(), out)
        return torch.from_numpy(out).to(x.dtype).view(*x.shape[:-1], -1)


def with_row_kernels(model: CsmModel) -> CsmModel:
    """Puts the kernel into every product of a bfloat16 model on a CPU, in place; the weights keep their memory."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, RowLinear(module.weight))
    heads = model.audio_head.detach().transpose(1, 2).contiguous()
    model.audio_head = nn.Parameter(heads.transpose(1, 2), requires_grad=False)  # the same memory
    model.code_heads = [RowLinear(head) for head in heads]
    return model
