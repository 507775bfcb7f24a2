"""Weight-only int8: one scale an output channel, two verbs.

`int8_state` makes the stored weights from a float model; `with_int8_weights` puts them into a model for use.
Activations stay float32. Linear layers and the depth heads become int8; embeddings, of which a frame reads a few rows
only, become float16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.model import CsmModel

_SCALE = ".scale"


class Int8Linear(nn.Module):
    """`x @ (weight * scale).T` with `weight` int8 `[out, in]` and `scale` float32 `[out]`."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds `[..., out, in]` to int8 with one scale a row `[..., out]`, so that the largest weight becomes 127."""
    scale = weight.abs().amax(-1).clamp(min=1e-12) / 127.0
    return torch.round(weight / scale[..., None]).to(torch.int8), scale.float()


def int8_state(model: CsmModel) -> dict[str, Tensor]:
    """The weights of a float model as int8 and scales, ready to be stored."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in linear:
            state[name], state[name + _SCALE] = quantize_rows(tensor)
        elif name == "audio_head":  # [K - 1, in, out]: its outputs are the last dimension
            rows, scale = quantize_rows(tensor.transpose(1, 2))
            state[name], state[name + _SCALE] = rows.contiguous(), scale
        elif "embeddings" in name:
            state[name] = tensor.half()
        else:
            state[name] = tensor
    return state


def with_int8_weights(model: CsmModel, state: dict[str, Tensor]) -> CsmModel:
    """Replaces the linear layers of `model` by int8 ones and loads `state` (from `int8_state`) into it."""
    rest = {name: tensor for name, tensor in state.items() if name + _SCALE not in state and not name.endswith(_SCALE)}
    for name, module in list(model.named_modules()):
        key = f"{name}.weight"
        if isinstance(module, nn.Linear):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], Int8Linear(state[key], state[key + _SCALE]))
    head = state["audio_head"].float() * state["audio_head" + _SCALE][..., None]
    rest["audio_head"] = head.transpose(1, 2)
    quantized = {name for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in rest.items()}, strict=False)
    unfilled = [name for name in missing if name.rpartition(".")[0] not in quantized]
    assert not unfilled and not unexpected, (unfilled, unexpected)
    return model
