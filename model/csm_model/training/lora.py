"""Low-rank adapters ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)): `W + scale * B A`, A and B are trained.

An adapted layer keeps the name of its weight, so that a checkpoint of the base loads into an adapted model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.errors import InputError
from csm_model.training.config import TARGETS


class LoraLinear(nn.Linear):
    """A linear layer without bias whose own weight is frozen beside a trained product of two thin matrices."""

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight = base.weight
        self.weight.requires_grad_(False)
        device = base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        if not self.lora_a.is_meta:
            nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return F.linear(x, self.weight) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale

    def merged(self) -> nn.Linear:
        """The same map as a plain layer."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(self.weight.detach() + self.scale * (self.lora_b @ self.lora_a).detach())
        return layer


def add_lora(model: nn.Module, *, rank: int, alpha: float, targets: Iterable[str] = TARGETS) -> list[str]:
    """Freezes `model` and adapts each linear layer whose name matches one of `targets`; returns their names.

    Raises:
        InputError: nothing matches.
    """
    model.requires_grad_(False)
    patterns = list(targets)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(fnmatch(name, pattern) for pattern in patterns)
    ]
    if not names:
        raise InputError(f"lora_targets {patterns}: no linear layer has such a name; the default is {list(TARGETS)}")
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        _replace(model, name, LoraLinear(layer, rank=rank, alpha=alpha))
    return names


def merge_lora(model: nn.Module) -> None:
    """Folds every adapter into the weight beside it."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            _replace(model, name, module.merged())


def lora_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapters' part of a state."""
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] in ("lora_a", "lora_b")}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
