"""The kernels are the products they stand for; a row comes out the same in any company."""

from __future__ import annotations

import itertools
import platform

import pytest
import torch
import torch.nn.functional as F
from llvmlite import binding
from torch import Tensor

from csm_model.config import debug_config
from csm_model.kernels import KernelLinear, Machine, attend_slots, this_machine, use_kernels
from csm_model.kernels.attention import attention_ir
from csm_model.kernels.products import Kind, prepare_ir, product_ir
from csm_model.model import CsmModel
from csm_model.quantize import quantize_groups, quantize_rows, rounded_state, unpack_int4, with_rounded_weights

CONFIG = debug_config(text_vocab_size=40, num_codebooks=4, codebook_size=61)
KINDS: tuple[Kind, ...] = ("fp32", "bf16", "int8", "int4")
TOLERANCE = {"fp32": 1e-6, "bf16": 2**-8, "int8": 2**-6, "int4": 2**-6}
"""Of the norm: float32's sums; bfloat16 keeps 8 bits of what comes out; activations of 7 bits and a sign."""


def machines() -> list[Machine]:
    """This one, and the least of its family, whose instructions it has too."""
    found = [this_machine()]
    if platform.machine() in ("x86_64", "AMD64"):
        found.append(Machine(name="x86-64", features="", wide=False, dot_bfloat16=False, dot_int8=False))
    return found


def layer_of(kind: Kind, weight: Tensor, machine: Machine) -> tuple[KernelLinear, Tensor]:
    """A layer, and the weights that it really has."""
    if kind == "fp32":
        return KernelLinear(kind, weight, machine=machine), weight
    if kind == "bf16":
        return KernelLinear(kind, weight.bfloat16(), machine=machine), weight.bfloat16()
    if kind == "int8":
        rows, scale = quantize_rows(weight)
        return KernelLinear(kind, rows, scale, machine=machine), rows * scale[:, None]
    packed, scales = quantize_groups(weight)
    steps = unpack_int4(packed)
    real = (steps.double() - 8) * scales.double().repeat_interleave(64, 1)
    columns = weight.shape[1]
    return KernelLinear(kind, steps, scales, in_features=columns, machine=machine), real[:, :columns]


@pytest.mark.parametrize("machine", machines(), ids=lambda machine: machine.name)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 2), (7, 64), (33, 130), (2051, 192)])
def test_a_product_is_exact_but_for_rounding_and_the_same_in_any_company(
    kind: Kind, outputs: int, inputs: int, machine: Machine
) -> None:
    torch.manual_seed(0)
    layer, weight = layer_of(kind, torch.randn(outputs, inputs), machine)
    x = torch.randn(19, inputs) * torch.logspace(-3, 3, 19)[:, None]
    out = layer(x)
    assert out.shape == (19, outputs)
    assert out.dtype == layer.dtype
    exact = F.linear(x.to(layer.dtype).double(), weight.double())
    error = (out - exact).norm(dim=1) / (x.double().norm(dim=1) * weight.double().norm())
    assert error.max() < TOLERANCE[kind]
    for begin, end in itertools.combinations(range(20), 2):
        assert torch.equal(layer(x[begin:end]), out[begin:end]), (begin, end)
    backwards = torch.arange(18, -1, -1)
    assert torch.equal(layer(x[backwards]), out[backwards])
    assert torch.equal(layer(x.view(19, 1, inputs))[:, 0], out)


@pytest.mark.parametrize("machine", machines(), ids=lambda machine: machine.name)
@pytest.mark.parametrize("kind", KINDS)
def test_each_input_meets_its_own_weight(kind: Kind, machine: Machine) -> None:
    """One input alone gives its column: no two are confused in the packing."""
    torch.manual_seed(1)
    layer, weight = layer_of(kind, torch.randn(37, 200), machine)
    out = layer(torch.eye(200))
    torch.testing.assert_close(out.double(), weight.T.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_integers_speak_with_either_float(kind: Kind, activation: torch.dtype) -> None:
    torch.manual_seed(2)
    weight = torch.randn(64, 128)
    layer, real = layer_of(kind, weight, this_machine())
    if kind == "int8":
        other = KernelLinear(kind, *quantize_rows(weight), activation=activation)
    else:
        steps, scales = quantize_groups(weight)
        other = KernelLinear(kind, unpack_int4(steps), scales, activation=activation)
    x = torch.randn(5, 128).bfloat16()
    assert torch.equal(other(x.to(activation)), layer(x.float()).to(activation))
    assert real.shape == weight.shape


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_visible(kind: Kind) -> None:
    layer, _ = layer_of(kind, torch.randn(32, 64).abs() + 0.1, this_machine())
    for bad in (torch.nan, torch.inf):
        x = torch.ones(3, 64)
        x[1, 7] = bad
        out = layer(x)
        assert not out[1].isfinite().any()
        assert out[[0, 2]].isfinite().all()


def model_of(dtype: torch.dtype) -> CsmModel:
    torch.manual_seed(3)
    model = CsmModel(CONFIG).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.mul_(6.0 if weight.dim() > 1 else 1.0)
    return model.to(dtype)


@pytest.mark.parametrize(("kind", "tolerance"), [("fp32", 1e-5), ("bf16", 0.03), ("int8", 0.03), ("int4", 0.03)])
def test_a_packed_model_is_near_the_one_that_it_was_made_from(kind: Kind, tolerance: float) -> None:
    """Logits by the kernels against torch's, of the same float or rounded weights."""
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    pair = [model_of(dtype), model_of(dtype)]
    if kind in ("int8", "int4"):
        pair = [with_rounded_weights(model, rounded_state(model, kind)) for model in pair]
    plain, fast = pair[0], use_kernels(pair[1])
    rows = torch.randint(0, 40, (2, 9, CONFIG.num_codebooks + 1))
    mask = torch.ones_like(rows, dtype=torch.bool)
    x = torch.randn(3, CONFIG.depth.dim).to(dtype)
    with torch.inference_mode():
        outputs = [
            [model.codebook0_head(model.hidden(rows, mask)), *(model.code_logits(x, book) for book in (1, 2, 3))]
            for model in (plain, fast)
        ]
    for ours, theirs in zip(*outputs, strict=True):
        assert (ours - theirs).float().norm() < tolerance * ours.float().norm()
    assert not any(isinstance(module, torch.nn.Linear) for module in fast.modules())
    assert fast.audio_head.numel() == 0


def attention_of(q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """What `attend_slots` should give, in double precision."""
    shared, rows = q.shape[1] // keys.shape[1], q.shape[2]
    outs = []
    for mine, slot in zip(q.double(), slots.tolist(), strict=True):
        held = int(lengths[slot])
        k, v = (part[slot, :, : held + rows].double().repeat_interleave(shared, 0) for part in (keys, values))
        seen = torch.arange(held + rows) <= held + torch.arange(rows)[:, None]
        outs.append(F.scaled_dot_product_attention(mine, k, v, attn_mask=seen))
    return torch.stack(outs)


HEADS = [(4, 2, 8), (3, 3, 24), (6, 6, 32), (32, 8, 64), (8, 2, 128)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "groups", "head"), HEADS)
def test_attention_reads_what_the_slots_hold_and_nothing_else(
    heads: int, groups: int, head: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    lengths, slots = torch.tensor([0, 9, 33, 2, 64]), torch.tensor([4, 0, 2])
    for rows in (1, 6):
        keys, values = (torch.randn(5, groups, 70, head).to(dtype) for _ in range(2))
        for slot, held in enumerate(lengths.tolist()):
            keys[slot, :, held + rows :] = torch.nan
            values[slot, :, held + rows :] = torch.nan
        q = (3 * torch.randn(3, rows, heads, head)).to(dtype).transpose(1, 2)
        out = attend_slots(q, keys, values, slots, lengths)
        assert out.shape == q.shape
        assert out.dtype == dtype
        assert out.transpose(1, 2).is_contiguous()
        exact = attention_of(q, keys, values, slots, lengths)
        error = (out.double() - exact).norm() / exact.norm()
        assert error < (1e-6 if dtype == torch.float32 else 2**-8)
        for place, slot in enumerate(slots.tolist()):  # alone, in a cache of its own
            alone = attend_slots(
                q[place : place + 1].contiguous(), keys[slot : slot + 1].clone(), values[slot : slot + 1].clone(),
                torch.tensor([0]), lengths[slot : slot + 1].clone(),
            )  # fmt: skip
            assert torch.equal(alone[0], out[place])
        for row in range(rows):  # row by row
            one = attend_slots(q[:, :, row : row + 1], keys, values, slots, lengths + row)
            assert torch.equal(one[:, :, 0], out[:, :, row])


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_of_no_machine(kind: Kind) -> None:
    """What an ARM is given compiles for it."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = Machine(name="neoverse-n1", features="", wide=False, dot_bfloat16=False, dot_int8=False)
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu=machine.name)
    for text in (product_ir(kind, "fp32", machine), prepare_ir("bf16", 8), attention_ir(64, 4, "bf16", "fp32")):
        assert target.emit_object(binding.parse_assembly(text))


def test_attention_of_very_unlike_scores() -> None:
    """Scores of hundreds: the softmax neither overflows nor loses the row that wins."""
    keys = torch.zeros(1, 1, 40, 16)
    keys[0, 0, 17] = 100.0
    values = torch.arange(40.0)[:, None].expand(40, 16)[None, None].contiguous()
    for sign in (1.0, -1.0):
        q = torch.full((1, 1, 1, 16), sign)
        out = attend_slots(q, keys, values, torch.tensor([0]), torch.tensor([39]))
        torch.testing.assert_close(out, attention_of(q, keys, values, torch.tensor([0]), torch.tensor([39])).float())
