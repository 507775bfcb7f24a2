"""Weight-only rounding to int8 and int4: from a float model to what is stored, and from there to a model that speaks.

int8: one scale an output channel. int4: 64 inputs of a channel share a scale; each is 0 to 15, of which 8 is zero. With
int4, the heads and the projection between the two transformers are int8: they are a fiftieth of what a frame reads, and
all that is said goes through them. Activations stay float. Embeddings, of which a frame reads a few rows only, are
stored in float16.

What is stored: of each rounded weight `NAME`, int8 `[out, in]` with `NAME.scale` float32 `[out]`; or uint8
`[out, in / 2]` with `NAME.scale` bfloat16 `[out, in / 64]`, where a byte holds an input of the first half of its group
of 64 in its low four bits, and the one 32 further in its high ones. Inputs are padded with zeros to a multiple of 64.
The depth heads `audio_head` are stored as `[K - 1, out, in]`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.config import ModelConfig
from csm_model.model import CsmModel, meta_model

Rounded = Literal["int8", "int4"]
GROUP = 64
"""Inputs that share a scale of int4."""
SCALE = ".scale"
"""What the name of a scale ends with, after the name of its weight."""
_HEADS = "audio_head"
_BLOCK = 1 << 12
"""Groups that are rounded at a time."""
_SHRUNK = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)
"""What is tried of the scale at which the farthest weight of a group becomes -8."""


class RoundedLinear(nn.Module):
    """A linear layer without bias over rounded weights, as they are stored, on any device.

    Args:
        weight: int8 `[out, in]`, or uint8 `[out, in / 2]`.
        scale: `[out]`, or `[out, in / 64]`.
        in_features: how many inputs there are without padding.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, *, in_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, len(weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    @property
    def kind(self) -> Rounded:
        """How the weights are rounded."""
        return "int8" if self.weight.dtype == torch.int8 else "int4"

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        if self.kind == "int8":
            return F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return F.linear(x, self.floats().to(x.dtype))

    def floats(self) -> Tensor:
        """The weights that it stands for: float32 `[out, in]`."""
        if self.kind == "int8":
            return self.weight.float() * self.scale[:, None]
        steps = unpack_int4(self.weight).float() - 8.0
        return (steps * self.scale.float().repeat_interleave(GROUP, 1))[:, : self.in_features]


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds `[..., out, in]` to int8 with one scale a row `[..., out]`, so that the largest weight becomes 127."""
    scale = weight.abs().amax(-1).clamp(min=1e-12) / 127.0
    return torch.round(weight / scale[..., None]).to(torch.int8), scale.float()


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds float `[out, in]` to int4, each group with the scale of least squared error among those tried.

    The weight that is farthest from zero would become -8 exactly; a smaller scale cuts it off and is finer for the
    others. Returns uint8 `[out, in / 2]` and bfloat16 `[out, in / 64]`.
    """
    groups = F.pad(weight, (0, -weight.shape[1] % GROUP)).float().reshape(-1, GROUP)
    steps, scales = (
        torch.cat(parts) for parts in zip(*(_round(part) for part in torch.split(groups, _BLOCK)), strict=True)
    )
    return pack_int4(steps.view(len(weight), -1)), scales.view(len(weight), -1)


def _round(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Groups `[n, 64]` to steps 0 to 15 and scales `[n]` bfloat16."""
    far = groups.gather(1, groups.abs().argmax(1, keepdim=True)) / -8.0
    least = torch.full((len(groups), 1), torch.inf)
    best, kept = torch.zeros_like(groups), torch.zeros_like(far)
    for part in _SHRUNK:
        scale = (far * part).bfloat16().float()  # as it is stored
        steps = torch.round(groups / torch.where(scale == 0.0, 1.0, scale)).clamp_(-8.0, 7.0)
        error = (steps * scale - groups).square_().sum(1, keepdim=True)
        better = error < least
        least, kept = torch.where(better, error, least), torch.where(better, scale, kept)
        best = torch.where(better, steps, best)
    return (best + 8.0).to(torch.uint8), kept[:, 0].bfloat16()


def pack_int4(steps: Tensor) -> Tensor:
    """Two steps 0 to 15 a byte: uint8 `[out, in]` to `[out, in / 2]`."""
    low, high = steps.view(len(steps), -1, 2, GROUP // 2).unbind(2)
    return (low | high << 4).flatten(1)


def unpack_int4(packed: Tensor) -> Tensor:
    """The inverse of `pack_int4`."""
    halves = packed.view(len(packed), -1, GROUP // 2)
    return torch.stack([halves & 15, halves >> 4], dim=2).flatten(1)


def rounded_state(model: CsmModel, kind: Rounded) -> dict[str, Tensor]:
    """The weights of a float model, rounded, ready to be stored."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in linear and kind == "int4" and ".layers." in name:
            state[name], state[name + SCALE] = quantize_groups(tensor)
        elif name in linear:
            state[name], state[name + SCALE] = quantize_rows(tensor.float())
        elif name == _HEADS:  # [K - 1, in, out]: its outputs are the last dimension
            rows, scale = quantize_rows(tensor.transpose(1, 2).float())
            state[name], state[name + SCALE] = rows.contiguous(), scale
        elif "embeddings" in name:
            state[name] = tensor.half()
        else:
            state[name] = tensor
    return state


def rounded_form(config: ModelConfig, kind: Rounded) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of every rounded weight and of its scale, as `rounded_state` gives them."""
    model = meta_model(config)
    form: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            key, (out, inputs) = f"{name}.weight", module.weight.shape
            if kind == "int4" and ".layers." in name:
                groups = -(-inputs // GROUP)
                form[key] = torch.uint8, (out, groups * GROUP // 2)
                form[key + SCALE] = torch.bfloat16, (out, groups)
            else:
                form[key], form[key + SCALE] = (torch.int8, (out, inputs)), (torch.float32, (out,))
    books, inputs, out = model.audio_head.shape
    form[_HEADS], form[_HEADS + SCALE] = (torch.int8, (books, out, inputs)), (torch.float32, (books, out))
    return form


def with_rounded_weights(model: CsmModel, state: dict[str, Tensor]) -> CsmModel:
    """Replaces the linear layers and the depth heads of `model` by those of `state` (from `rounded_state`).

    The rest becomes float32. The model may have been built without memory (`meta_model`); it is for speaking only.
    """
    rest = {
        name: tensor.float() for name, tensor in state.items() if name + SCALE not in state and not name.endswith(SCALE)
    }
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            key = f"{name}.weight"
            layer = RoundedLinear(state[key], state[key + SCALE], in_features=module.in_features)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, layer)
    model.code_heads = nn.ModuleList(
        RoundedLinear(rows, scale, in_features=rows.shape[1])
        for rows, scale in zip(state[_HEADS], state[_HEADS + SCALE], strict=True)
    )
    model.audio_head = nn.Parameter(torch.empty(0), requires_grad=False)
    rounded = {name for name, module in model.named_modules() if isinstance(module, RoundedLinear)}
    missing, unexpected = model.load_state_dict({**rest, _HEADS: model.audio_head}, strict=False, assign=True)
    unfilled = [name for name in missing if name.rpartition(".")[0] not in rounded]
    assert not unfilled and not unexpected, (unfilled, unexpected)
    return model
