"""The kernels of one row are the products they stand for, and a model with them speaks as it did."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F

from csm_model.config import debug_config
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.kernels import RowLinear, with_row_kernels
from csm_model.inference.prompt import text_rows
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel

CONFIG = debug_config(text_vocab_size=40, num_codebooks=4, codebook_size=61)
GREEDY = Sampling(temperature=0.0, depth_temperature=0.0)


def model_of(dtype: torch.dtype) -> CsmModel:
    torch.manual_seed(3)
    model = CsmModel(CONFIG).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.mul_(6.0 if weight.dim() > 1 else 1.0)
    return model.to(dtype)


def frames(model: CsmModel, count: int, **options: bool) -> torch.Tensor:
    prompt = Prompt(*text_rows([5, 6, 7, 8], CONFIG))
    decoder = FrameDecoder(model, [GREEDY], rows=count + 4, **options)
    decoder.read([prompt])
    codes = []
    for _ in range(count):
        frame = decoder.step([False])
        codes.append(frame.codes)
        decoder.feed(frame.codes)
    return torch.cat(codes)


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (7, 64), (33, 1026)])
def test_a_row_is_multiplied_exactly_but_for_the_order_of_sums(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(rows, columns).bfloat16()
    x = torch.randn(1, 1, columns).bfloat16()
    out = RowLinear(weight)(x)
    assert out.shape == (1, 1, rows)
    assert out.dtype == torch.bfloat16
    exact = F.linear(x.double(), weight.double())
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-3)  # bfloat16 keeps 8 bits


def test_the_first_and_the_last_column_count() -> None:
    """Pairs are told apart: each column alone gives its own weight."""
    weight = torch.arange(1.0, 9.0).view(2, 4).bfloat16()
    layer = RowLinear(weight)
    for column in range(4):
        x = torch.zeros(1, 4, dtype=torch.bfloat16)
        x[0, column] = 1.0
        assert torch.equal(layer(x)[0], weight[:, column])


def test_several_rows_go_the_usual_way() -> None:
    weight, x = torch.randn(5, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    assert torch.equal(RowLinear(weight)(x), F.linear(x, weight))


def test_a_model_with_kernels_stays_near_the_float_model_and_keeps_its_memory() -> None:
    plain, fast = model_of(torch.bfloat16), with_row_kernels(model_of(torch.bfloat16))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, fast.state_dict()[name]), name
    heads = fast.code_heads
    assert heads is not None
    x = torch.randn(1, CONFIG.depth.dim).bfloat16()
    for book in range(1, CONFIG.num_codebooks):
        torch.testing.assert_close(fast.code_logits(x, book), plain.code_logits(x, book), rtol=2**-7, atol=2e-2)
    assert heads[0].weight.data_ptr() == fast.audio_head.data_ptr()
    assert torch.equal(frames(fast, 1)[:, 0], frames(plain, 1)[:, 0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_give_the_same_codes() -> None:
    model = model_of(torch.float32)
    assert torch.equal(frames(model, 6, compiled=True), frames(model, 6))
