"""Linear layers whose weights are packed for the kernels of a CPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.inference.kernels.code import LANES
from csm_model.inference.kernels.machine import Machine, runner, this_machine
from csm_model.inference.kernels.products import CHANNELS, GROUP, TILES, UNROLL, Kind, product
from csm_model.model import CsmModel
from csm_model.quantize import RoundedLinear, unpack_int4

_STORED: dict[Kind, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "int4": torch.uint8,
}
_ALONE = 5 << 20
"""Bytes of weights, times rows and four more, below which one thread is sooner done than several."""


def pack_words(weight: Tensor) -> Tensor:
    """Weights `[N, K]` in the order that the kernels read: uint8, `[N / 32][words of K][2][16 channels][4 bytes]`."""
    rows, columns = weight.shape
    words = columns * weight.element_size() // 4
    parts = weight.contiguous().view(torch.int32).view(rows // CHANNELS, TILES, LANES, words)
    return parts.permute(0, 3, 1, 2).contiguous().view(torch.uint8).flatten()


def pack_int4(weight: Tensor, scale: Tensor) -> Tensor:
    """Weights 0 to 15 `[N, K]` uint8 and scales `[N, K / 64]`: `[N / 32][group]([word][2][16][4 bytes] [32] bfloat16)`.

    A byte has a weight of the first half of its group below and one of the second half above.
    """
    rows, columns = weight.shape
    groups = columns // GROUP
    halves = weight.view(rows, groups, 2, GROUP // 2)
    joined = (halves[:, :, 0] | halves[:, :, 1] << 4).contiguous().view(torch.int32)  # [N, groups, words]
    words = joined.view(rows // CHANNELS, CHANNELS, groups, -1).permute(0, 2, 3, 1).contiguous()
    parts = words.view(torch.uint8).view(rows // CHANNELS, groups, -1)
    scales = scale.to(torch.bfloat16).view(rows // CHANNELS, CHANNELS, groups).transpose(1, 2).contiguous()
    return torch.cat([parts, scales.view(torch.uint8).view(rows // CHANNELS, groups, -1)], dim=2).flatten()


class PackedLinear(nn.Module):
    """A linear layer without bias on a CPU; any number of rows, each bitwise the same in any company.

    Args:
        weight: `[out, in]`: float32 (fp32), bfloat16 (bf16), int8 (int8), or uint8 0 to 15, 8 being zero (int4).
        scale: float `[out]` (int8), `[out, groups of 64 in]` (int4).
        in_features: inputs without padding, where `weight` has some.
        activation: dtype of what comes in and goes out; with bf16 it is bfloat16.
        machine: what to compile for; None is this one.
    """

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
            self._weight = pack_words(weight.view(torch.uint8) ^ 128)  # w + 128
            self._scales[: self.out_features] = scale
        else:
            self._weight = pack_words(weight)
        kernels = product(kind, "bf16" if self.dtype == torch.bfloat16 else "fp32", machine or this_machine())
        self._prepare, self._kernel, self._run = kernels.prepare, kernels.kernel, runner()
        size, steps = self.dtype.itemsize, inputs // step
        self._scratch = inputs + 8 * steps if whole else 0
        self._plan = np.array(
            [
                self._weight.data_ptr(),
                self._scales.data_ptr(),
                steps,
                self._scratch or inputs * size,
                self._width * size,
                inputs * size,
                inputs,
            ],
            np.int64,
        )
        self._address = self._plan.ctypes.data
        self._items = self._width // CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        if self._more:
            x = F.pad(x, (0, self._more))
        x = x.to(self.dtype).contiguous()
        rows = x.numel() // x.shape[-1]
        out = torch.empty((*x.shape[:-1], self._width), dtype=self.dtype)
        scratch = torch.empty(rows * self._scratch, dtype=torch.uint8) if self._scratch else x
        parts = 1 if self._weight.numel() * (4 + rows) < _ALONE else torch.get_num_threads()
        self._run(
            self._prepare, self._kernel, self._address, x.data_ptr(), scratch.data_ptr(), out.data_ptr(), rows,
            self._items, parts,
        )  # fmt: skip
        return out if self._width == self.out_features else out[..., : self.out_features]

    def extra_repr(self) -> str:
        """What it is."""
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


def packed(layer: nn.Linear | RoundedLinear) -> PackedLinear:
    """The layer for the kernels."""
    assert not isinstance(layer, nn.Linear) or layer.bias is None, layer
    if isinstance(layer, nn.Linear):
        return PackedLinear("bf16" if layer.weight.dtype == torch.bfloat16 else "fp32", layer.weight)
    weight = layer.weight if layer.kind == "int8" else unpack_int4(layer.weight)
    return PackedLinear(layer.kind, weight, layer.scale, in_features=layer.in_features)


def pack(model: CsmModel) -> CsmModel:
    """Replaces every product of a model on a CPU, float or rounded, by one that the kernels do, in place.

    Each layer is let go of when its packed one is there, so that hardly more memory is needed than the model has. The
    model is then for speaking only, and has no weights of these layers to be saved.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | RoundedLinear):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, packed(module))
    if model.code_heads is not None:
        model.code_heads = [packed(head) for head in model.code_heads]  # type: ignore[arg-type]
    else:
        kind: Kind = "bf16" if model.audio_head.dtype == torch.bfloat16 else "fp32"
        model.code_heads = [PackedLinear(kind, head.T) for head in model.audio_head.detach()]
        model.audio_head = nn.Parameter(torch.empty(0, dtype=model.audio_head.dtype), requires_grad=False)
    return model
