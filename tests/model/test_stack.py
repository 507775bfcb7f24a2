"""A pass as one call is the transformer's own pass; a sequence comes out the same in any company, slot and cut."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from csm_model.config import debug_config, demo_config
from csm_model.inference.decoding import FrameDecoder
from csm_model.kernels import use_kernels
from csm_model.kernels.products import Kind
from csm_model.model import CsmModel
from csm_model.quantize import rounded_state, with_rounded_weights
from csm_model.transformer import KVCache, Transformer

SIZES = {
    make.__name__: make(text_vocab_size=40, num_codebooks=4, codebook_size=61) for make in (debug_config, demo_config)
}
TOLERANCE = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.02, "int4": 0.02}
"""Of the norm: other orders of float32 sums; bfloat16 rounded in other places; activations rounded to 8 bits alike, but
at places where the sums differ."""
ROWS = 320


def model_of(sizes: str, kind: Kind) -> CsmModel:
    torch.manual_seed(0)
    model = CsmModel(SIZES[sizes]).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.mul_(2.0) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    if kind in ("int8", "int4"):
        return use_kernels(with_rounded_weights(model, rounded_state(model, kind)))
    return use_kernels(model.bfloat16() if kind == "bf16" else model)


def cache_of(stack: Transformer, dtype: torch.dtype, slots: int = 5) -> KVCache:
    return KVCache(stack.config, batch_size=slots, rows=min(ROWS, len(stack.rotary.cos)), dtype=dtype)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("sizes", list(SIZES))
@torch.inference_mode()
def test_a_pass_is_the_transformers_own(sizes: str, kind: Kind) -> None:
    model = model_of(sizes, kind)
    dtype = model.audio_embeddings.weight.dtype
    for stack in (model.backbone, model.decoder):
        ours, theirs = cache_of(stack, dtype), cache_of(stack, dtype)
        stepped = stack.stepped
        assert stepped is not None
        for items, each in (([3, 0, 4], 2), ([3, 0, 4], 1), ([4], 1), ([1, 2], 3), ([0, 3], 7), ([2, 0], 150)):
            if each > 3 and ours.rows < ROWS:  # the depth decoder has few positions
                continue
            slots = torch.tensor(items)
            x = torch.randn(len(items), each, stack.config.dim).to(dtype)
            stack.stepped = stepped
            out = stack(x, ours.at(slots))
            stack.stepped = None
            exact = stack(x, theirs.at(slots))
            assert out.dtype == exact.dtype
            assert (out - exact).float().norm() < TOLERANCE[kind] * exact.float().norm()
            assert torch.equal(ours.lengths, theirs.lengths)
        for mine, its in zip(ours.keys + ours.values, theirs.keys + theirs.values, strict=True):
            assert (mine - its).float().norm() < TOLERANCE[kind] * its.float().norm()


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8", "int4"])
@torch.inference_mode()
def test_a_sequence_is_bitwise_the_same_in_any_company_slot_and_cut(kind: Kind) -> None:
    model = model_of("demo_config", kind)
    stack, dtype = model.backbone, model.audio_embeddings.weight.dtype
    x = torch.randn(13, 40, stack.config.dim).to(dtype)

    def alone(sequence: Tensor, cuts: list[int]) -> Tensor:
        cache = cache_of(stack, dtype, 1)
        return torch.cat([stack(part[None], cache.at(torch.tensor([0])))[0] for part in torch.split(sequence, cuts)])

    company = cache_of(stack, dtype, 20)
    slots = torch.randperm(20)[:13]
    together = torch.cat([stack(part, company.at(slots)) for part in torch.split(x, [20, 1, 1, 18], dim=1)], dim=1)
    for number in (0, 7, 12):
        for cuts in ([40], [1] * 40, [7, 1, 32]):
            assert torch.equal(alone(x[number], cuts), together[number]), cuts


@pytest.mark.parametrize("kind", ["int8", "int4"])
@torch.inference_mode()
def test_rounded_models_keep_keys_and_values_in_bfloat16_and_are_hardly_the_worse_for_it(kind: Kind) -> None:
    model = model_of("demo_config", kind)
    stack, slots = model.backbone, torch.tensor([1, 0])
    assert stack.cache_dtype == model.decoder.cache_dtype == torch.bfloat16
    assert model_of("demo_config", "fp32").backbone.cache_dtype is None
    assert FrameDecoder(model, slots=2, rows=20).copy(0, 0).keys[0].dtype == torch.bfloat16
    wide, narrow = cache_of(stack, torch.float32, 2), cache_of(stack, torch.bfloat16, 2)
    for each in (40, 1, 1):
        x = torch.randn(2, each, stack.config.dim)
        exact, out = stack(x, wide.at(slots)), stack(x, narrow.at(slots))
        assert out.dtype == torch.float32
        assert (out - exact).norm() < 0.02 * exact.norm()


@torch.inference_mode()
def test_two_caches_of_one_model_do_not_meet() -> None:
    model = model_of("debug_config", "fp32")
    stack, slots = model.backbone, torch.tensor([0])
    first, second = cache_of(stack, torch.float32, 1), cache_of(stack, torch.float32, 2)
    x = torch.randn(1, 6, stack.config.dim)
    whole = stack(x, first.at(slots))
    parts = []
    for row in torch.split(x, 1, dim=1):
        parts.append(stack(row, second.at(slots)))
        stack(torch.randn(1, 1, stack.config.dim), cache_of(stack, torch.float32, 1).at(slots))
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert second.lengths.tolist() == [6, 0]


def test_packed_models_are_not_copied() -> None:
    with pytest.raises(TypeError, match="packed layers are not copied"):
        copy.deepcopy(model_of("debug_config", "fp32"))
