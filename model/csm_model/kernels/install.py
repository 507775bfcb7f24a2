"""A model whose products and passes are those of the kernels."""

from __future__ import annotations

import torch
from torch import nn

from csm_model.kernels.linear import KernelLinear
from csm_model.kernels.machine import kernels_for, this_machine
from csm_model.kernels.products import Kind
from csm_model.kernels.stack import KernelStack
from csm_model.model import CsmModel
from csm_model.quantize import RoundedLinear, unpack_int4


def packed(layer: nn.Linear | RoundedLinear) -> KernelLinear:
    """The layer for the kernels."""
    assert not isinstance(layer, nn.Linear) or layer.bias is None, layer
    if isinstance(layer, nn.Linear):
        return KernelLinear("bf16" if layer.weight.dtype == torch.bfloat16 else "fp32", layer.weight)
    weight = layer.weight if layer.kind == "int8" else unpack_int4(layer.weight)
    return KernelLinear(layer.kind, weight, layer.scale, in_features=layer.in_features)


def use_kernels(model: CsmModel) -> CsmModel:
    """Replaces every product of a model on a CPU, float or rounded, by one that the kernels do, in place.

    With `CSM_CPU_ISA=none` there are none, and the model stays as it is: torch does all the work.

    Each layer is let go of when its packed one is there, so that hardly more memory is needed than the model has. The
    model is then for speaking only, and has no weights of these layers to be saved.
    """
    if not kernels_for(model.audio_embeddings.weight.device):
        return model
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | RoundedLinear):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, packed(module))
    if model.code_heads is None:
        kind: Kind = "bf16" if model.audio_head.dtype == torch.bfloat16 else "fp32"
        model.code_heads = nn.ModuleList(KernelLinear(kind, head.T) for head in model.audio_head.detach())
        model.audio_head = nn.Parameter(torch.empty(0, dtype=model.audio_head.dtype), requires_grad=False)
    for stack in (model.backbone, model.decoder):
        if KernelStack.fits(stack.config):
            stack.stepped = KernelStack(stack, this_machine())
    if _rounded(model) and model.backbone.stepped and model.decoder.stepped:
        # With eight streams keys and values are much of what a step reads; weights of 8 bits lose more.
        model.backbone.cache_dtype = model.decoder.cache_dtype = torch.bfloat16
    return model


def _rounded(model: CsmModel) -> bool:
    return any(isinstance(module, KernelLinear) and module.kind in ("int8", "int4") for module in model.modules())
