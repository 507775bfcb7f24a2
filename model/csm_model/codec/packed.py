"""Linear layers laid out once for inference.

On a CPU the weights are oneDNN's own layout, and a row of the product is the same to the bit whatever rows stand beside
it, as each of its sums runs over the inputs in the one order: what a stream sounds like does not depend on how many
others are decoded with it. (MKL's products, which `torch.nn.functional.linear` calls, differ below 4 rows and with the
number of threads.) Elsewhere they are ordinary products.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Gelu = Literal["tanh", "erf"]
_FORMS: dict[Gelu, str] = {"tanh": "tanh", "erf": "none"}
_OPS: Any = torch.ops.mkldnn
_ROWS, _LONG = 16, 480  # rows for which the layouts are chosen


class PackedLinear:
    """`x @ weight.T + bias`, with a GELU after it where `gelu` names its form."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: Gelu | None = None) -> None:
        """Takes `weight` `[N, K]` and `bias` `[N]`, float32; neither is kept on a CPU but in the new layout."""
        weight = weight.detach().float().contiguous()
        self._bias = None if bias is None else bias.detach().float().clone()
        self._gelu = gelu
        self._packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        with torch.inference_mode(False), torch.no_grad():
            self._weight: Tensor = _OPS._reorder_linear_weight(weight, _ROWS) if self._packed else weight.clone()

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """`x` `[..., K]` to `[..., N]`; `plus` `[..., N]` is added to what comes out."""
        if not self._packed:
            y = F.linear(x, self._weight, self._bias)
            y = F.gelu(y, approximate=_FORMS[self._gelu]) if self._gelu else y
            return y if plus is None else y + plus
        if plus is not None:
            return _OPS._linear_pointwise.binary(x, plus, self._weight, self._bias, "add")  # type: ignore[no-any-return]
        kind, form = ("gelu", _FORMS[self._gelu]) if self._gelu else ("none", "")
        return _OPS._linear_pointwise(x, self._weight, self._bias, kind, [], form)  # type: ignore[no-any-return]


class PackedConv:
    """A convolution of rows `[M, T, C]` with as many kernels as it has channels out, without padding, for many rows."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Takes `weight` `[N, C, kernel]` and `bias` `[N]`, float32."""
        weight = weight.detach().float()[:, :, None].contiguous()
        self._bias = bias.detach().float().clone()
        self._packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        with torch.inference_mode(False), torch.no_grad():
            size = [1, weight.shape[1], 1, weight.shape[3] - 1 + _LONG]
            self._weight: Tensor = (
                _OPS._reorder_convolution_weight(weight, [0, 0], [1, 1], [1, 1], 1, size)
                if self._packed
                else weight.clone()
            )

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """`[M, T + kernel - 1, C]` to `[M, T, N]`; `plus` of that shape is added."""
        image = x.transpose(1, 2)[:, :, None]  # channels last, as it lies
        made: Tensor
        if self._packed:
            made = _OPS._convolution_pointwise(
                image, self._weight, self._bias, [0, 0], [1, 1], [1, 1], 1, "none", [], ""
            )
        else:
            made = F.conv2d(image, self._weight, self._bias)
        y = made[:, :, 0].transpose(1, 2)
        return y if plus is None else y + plus
