"""Products of overlapping rows against torch's; a row comes out the same in any company, by either instructions."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from csm_model.kernels.affine import Affine, Gelu
from csm_model.kernels.machine import AVX2, Machine, this_machine

MACHINES = sorted({this_machine(), AVX2}, key=lambda machine: machine.wide)


@pytest.fixture(params=MACHINES, ids=lambda machine: "avx512" if machine.wide else "avx2")
def machine(request: pytest.FixtureRequest) -> Machine:
    return request.param


@pytest.mark.parametrize(("width", "outputs"), [(1, 1), (24, 40), (65, 96), (256, 129), (512, 1536)])
def test_a_row_of_a_product_is_the_same_in_any_company(width: int, outputs: int, machine: Machine) -> None:
    weight, bias, x = torch.randn(outputs, width) / width**0.5, torch.randn(outputs), torch.randn(107, width)
    product = Affine(weight, bias, machine=machine)
    together = product(x)
    torch.testing.assert_close(together, F.linear(x, weight, bias), rtol=1e-4, atol=1e-5)
    for begin, end in itertools.combinations([*range(20), 66, 95, 96, 97, 106, 107], 2):
        assert torch.equal(product(x[begin:end]), together[begin:end]), (begin, end)
    plus = torch.randn(107, outputs)
    assert torch.equal(product(x, plus), together + plus)
    assert product(x[:0]).shape == (0, outputs)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads: int, machine: Machine) -> None:
    torch.manual_seed(0)
    product, x = Affine(torch.randn(320, 512), torch.randn(320), machine=machine), torch.randn(200, 512)
    before, expected = torch.get_num_threads(), torch.cat([product(row) for row in x.split(1)])
    torch.set_num_threads(threads)
    try:
        assert torch.equal(product(x), expected)
    finally:
        torch.set_num_threads(before)


def test_processors_agree_to_the_bit() -> None:
    weight, bias, x = torch.randn(64, 256), torch.randn(64), torch.randn(33, 256)
    one, *others = (Affine(weight, bias, machine=machine)(x) for machine in MACHINES)
    assert all(torch.equal(other, one) for other in others)


@pytest.mark.parametrize("form", ["tanh", "erf"])
def test_gelu_has_its_form(form: Gelu, machine: Machine) -> None:
    weight, x = torch.randn(48, 32), torch.randn(500, 32)
    product = Affine(weight, gelu=form, machine=machine)
    expected = F.gelu(F.linear(x.double(), weight.double()), approximate="tanh" if form == "tanh" else "none")
    torch.testing.assert_close(product(x), expected.float(), rtol=1e-5, atol=1e-5)
    assert product(torch.full((1, 32), torch.nan)).isnan().all()


@pytest.mark.parametrize("channels", [5, 64])
def test_a_convolution_reads_overlapping_rows(channels: int, machine: Machine) -> None:
    convolution = torch.nn.Conv1d(channels, 32, 3).requires_grad_(False)
    x = torch.randn(5, 2 + 130, channels)
    product = Affine(convolution.weight.transpose(1, 2).flatten(1), convolution.bias, machine=machine)
    together = product.windows(x)
    expected = convolution(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(product.windows(x[2:3]), together[2:3])
    assert torch.equal(product.windows(x[:, :34]), together[:, :32])
    assert torch.equal(product.windows(x[1:4, 96:]), together[1:4, 96:])
    plus = torch.randn(5, 130, 32)
    assert torch.equal(product.windows(x, plus), together + plus)
