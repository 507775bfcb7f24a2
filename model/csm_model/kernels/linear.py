"""Linear layers whose weights are packed for the kernels of a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.kernels.code import LANES, words
from csm_model.kernels.machine import Machine, runner, this_machine
from csm_model.kernels.products import CHANNELS, GROUP, TILES, UNROLL, Kind, ProductPlan, product

_STORED: dict[Kind, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "int4": torch.uint8,
}


def pack_words(weight: Tensor) -> Tensor:
    """Weights `[N, K]` in the order that the kernels read: uint8, `[N / 32][words of K][2][16 channels][4 bytes]`."""
    rows, columns = weight.shape
    count = columns * weight.element_size() // 4
    parts = weight.contiguous().view(torch.int32).view(rows // CHANNELS, TILES, LANES, count)
    return parts.permute(0, 3, 1, 2).contiguous().view(torch.uint8).flatten()


def pack_int4(weight: Tensor, scale: Tensor) -> Tensor:
    """Weights 0 to 15 `[N, K]` uint8 and scales `[N, K / 64]`: `[N / 32][group]([word][2][16][4 bytes] [32] bfloat16)`.

    A byte has a weight of the first half of its group below and one of the second half above.
    """
    rows, columns = weight.shape
    groups = columns // GROUP
    halves = weight.view(rows, groups, 2, GROUP // 2)
    joined = (halves[:, :, 0] | halves[:, :, 1] << 4).contiguous().view(torch.int32)  # [N, groups, words]
    ordered = joined.view(rows // CHANNELS, CHANNELS, groups, -1).permute(0, 2, 3, 1).contiguous()
    parts = ordered.view(torch.uint8).view(rows // CHANNELS, groups, -1)
    scales = scale.to(torch.bfloat16).view(rows // CHANNELS, CHANNELS, groups).transpose(1, 2).contiguous()
    return torch.cat([parts, scales.view(torch.uint8).view(rows // CHANNELS, groups, -1)], dim=2).flatten()


class KernelLinear(nn.Module):
    """A linear layer without bias on a CPU; any number of rows, each bitwise the same in any company.

    Args:
        weight: `[out, in]`: float32 (fp32), bfloat16 (bf16), int8 (int8), or uint8 0 to 15, 8 being zero (int4).
        scale: float `[out]` (int8), `[out, groups of 64 in]` (int4).
        in_features: inputs without padding, where `weight` has some.
        activation: dtype of what comes in and goes out; with bf16 it is bfloat16.
        machine: what to compile for; None is this one.
    """

    ALONE = 5 << 20
    """Bytes of weights, times rows and four more, below which one thread is sooner done than several."""

    def __init__(
        self,
        kind: Kind,
        weight: Tensor,
        scale: Tensor | None = None,
        *,
        in_features: int | None = None,
        activation: torch.dtype = torch.float32,
        machine: Machine | None = None,
    ) -> None:
        super().__init__()
        assert weight.dtype == _STORED[kind] and weight.device.type == "cpu", (kind, weight.dtype, weight.device)
        self.kind, self.dtype = kind, torch.bfloat16 if kind == "bf16" else activation
        self.out_features, self.in_features = len(weight), in_features or weight.shape[1]
        whole = kind in ("int8", "int4")
        step = GROUP if whole else UNROLL * (2 if kind == "bf16" else 1)  # inputs
        rows, columns = -self.out_features % CHANNELS, -weight.shape[1] % step
        weight = F.pad(weight.detach(), (0, columns, 0, rows), value=8 if kind == "int4" else 0)
        self._width, inputs = weight.shape
        self._more = inputs - self.in_features
        self._scales = torch.zeros(self._width if kind == "int8" else 0)
        if kind == "int4":
            assert scale is not None
            self._weight = pack_int4(weight, F.pad(scale, (0, 0, 0, rows)))
        elif kind == "int8":
            assert scale is not None
            # vpdpbusd multiplies bytes without sign by bytes with one: weights are stored as w + 128 (the top bit
            # flipped), and `prepare` takes 128 times the sum of the inputs off again.
            self._weight = pack_words(weight.view(torch.uint8) ^ 128)
            self._scales[: self.out_features] = scale
        else:
            self._weight = pack_words(weight)
        kernels = product(kind, "bf16" if self.dtype == torch.bfloat16 else "fp32", machine or this_machine())
        self.prepare, self.kernel, self._run = kernels.prepare, kernels.kernel, runner()
        self._steps = inputs // step
        self.scratch = inputs + 8 * self._steps if whole else 0
        """Bytes that the integers of a row take."""
        self._inputs = inputs
        self._point()

    @property
    def items(self) -> int:
        """Groups of channels that are summed together."""
        return self._width // CHANNELS

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights."""
        return self._weight.numel()

    def plan(self, *, given: int, out: int) -> list[int]:
        """What the kernel reads, for rows of x and of out that are so many bytes apart."""
        return words(
            ProductPlan,
            weights=self._weight.data_ptr(),
            scales=self._scales.data_ptr(),
            steps=self._steps,
            stride=self.scratch or given,
            out=out,
            given=given,
            integers=self._inputs,
        )

    def _point(self) -> None:
        size = self.dtype.itemsize
        self._plan = np.array(self.plan(given=self._inputs * size, out=self._width * size), np.int64)
        self._address = self._plan.ctypes.data

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        if self._more:
            x = F.pad(x, (0, self._more))
        x = x.to(self.dtype).contiguous()
        rows = x.numel() // x.shape[-1]
        out = torch.empty((*x.shape[:-1], self._width), dtype=self.dtype)
        scratch = torch.empty(rows * self.scratch, dtype=torch.uint8) if self.scratch else x
        parts = 1 if self._weight.numel() * (4 + rows) < self.ALONE else torch.get_num_threads()
        self._run(
            self.prepare, self.kernel, self._address, x.data_ptr(), scratch.data_ptr(), out.data_ptr(), rows,
            self.items, parts,
        )  # fmt: skip
        return out if self._width == self.out_features else out[..., : self.out_features]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raises TypeError: a copy would hold the addresses of this one's memory."""
        raise TypeError("packed layers are not copied; load the model again")

    def extra_repr(self) -> str:
        """What it is."""
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


class JoinedLinear:
    """Layers of the same inputs as one product, its channels one layer's after another's, each padded to 32.

    The layers go on, over the same memory.
    """

    def __init__(self, layers: Sequence[KernelLinear]) -> None:
        first = layers[0]
        kinds = {(layer.kind, layer.dtype, layer.in_features, layer.kernel) for layer in layers}
        assert len(kinds) == 1, kinds
        self._first = first
        self._weight = torch.cat([layer._weight for layer in layers])
        self._scales = torch.cat([layer._scales for layer in layers])
        self.offsets = [sum(layer._width for layer in layers[:place]) for place in range(len(layers))]
        """Channels before each layer's own."""
        self.width = sum(layer._width for layer in layers)
        self.prepare, self.kernel, self.scratch = first.prepare, first.kernel, first.scratch
        self.items, self.weight_bytes = self.width // CHANNELS, self._weight.numel()
        weights = torch.split(self._weight, [layer._weight.numel() for layer in layers])
        scales = torch.split(self._scales, [layer._scales.numel() for layer in layers])
        for layer, weight, scale in zip(layers, weights, scales, strict=True):
            layer._weight, layer._scales = weight, scale
            layer._point()

    def plan(self, *, given: int, out: int) -> list[int]:
        """See `KernelLinear.plan`."""
        plan = self._first.plan(given=given, out=out)
        plan[ProductPlan.WEIGHTS], plan[ProductPlan.SCALES] = self._weight.data_ptr(), self._scales.data_ptr()
        return plan
