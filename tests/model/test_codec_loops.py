"""The codec's compiled loops against torch's own operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from csm_model.codec.loops import loops
from csm_model.codec.slots import Past, elu_, rows_of
from csm_model.codec.source import exponential, harmonics, shaped

CPU = torch.device("cpu")


def test_elu_is_torchs() -> None:
    x = torch.cat([torch.linspace(-120, 20, 10_007), torch.tensor([0.0, -0.0, 1e-9, -1e-9, 3e38, -3e38])])
    expected = F.elu(x)
    assert elu_(x) is x
    torch.testing.assert_close(x, expected, rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("elu", [False, True])
def test_a_past_keeps_the_last_steps_of_its_own_slot(steps: int, elu: bool) -> None:
    past = Past(4, 3, 5, CPU)
    rows = rows_of([3, 1], 2, 4, CPU)
    pieces = [torch.randn(2, steps, 5) for _ in range(3)]
    heard = torch.cat([torch.zeros(2, 3, 5), *(F.elu(piece) if elu else piece for piece in pieces)], dim=1)
    for index, piece in enumerate(pieces):
        window = past.before(piece, rows, elu=elu)
        torch.testing.assert_close(window, heard[:, index * steps : (index + 1) * steps + 3])
    past.reset(3)
    window = past.before(pieces[0][:1], rows_of([3], 1, 4, CPU))
    assert torch.equal(window[:, :3], torch.zeros(1, 3, 5))
    # Slot 1 still knows, slot 0 never heard anything.
    window = past.before(pieces[0], rows_of([1, 0], 2, 4, CPU))
    torch.testing.assert_close(window[0, :3], heard[1, -3:])
    assert not window[1, :3].any()


@pytest.mark.parametrize("channels", [1, 17, 64])
def test_taps_are_a_depthwise_convolution_and_a_norm(channels: int) -> None:
    convolution = torch.nn.Conv1d(channels, channels, 7, groups=channels)
    norm = torch.nn.LayerNorm(channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    window, out = torch.randn(3, 6 + 4, channels), torch.empty(3, 4, channels)
    taps = convolution.weight[:, 0].T.contiguous()
    constants = (taps, convolution.bias, norm.weight, norm.bias)
    loops().taps(window.numpy(), *(constant.detach().numpy() for constant in constants), out.numpy())
    expected = norm(convolution(window.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(out, expected.detach(), rtol=1e-5, atol=1e-5)


def test_pulses_are_the_harmonics() -> None:
    hertz = torch.empty(20_000).uniform_(50, 500, generator=torch.Generator().manual_seed(0)).sort().values
    cycles = (hertz.double() / 24_000).cumsum(0)
    cycles[:4] = torch.tensor([0.0, 0.5, -0.5, 1e-7])
    out = torch.empty(20_000)
    loops().pulses(cycles.numpy(), hertz.numpy(), np.float32(12_000), out.numpy())
    # 240 half turns in float32 are known to 3e-5 of one.
    torch.testing.assert_close(out, harmonics(cycles, hertz), rtol=1e-3, atol=1e-3)


def test_dot_is_a_convolution_to_one_channel() -> None:
    convolution = torch.nn.Conv1d(6, 1, 3)
    window, out = torch.randn(2, 2 + 9, 6), torch.empty(2, 9)
    weight = convolution.weight.detach().transpose(1, 2).reshape(-1).clone()
    loops().dot(window.view(2, -1).numpy(), 6, weight.numpy(), convolution.bias.detach().numpy(), out.numpy())
    torch.testing.assert_close(out, convolution(window.transpose(1, 2))[:, 0].detach(), rtol=1e-5, atol=1e-6)


def test_spectra_are_shaped_as_torch_would() -> None:
    spectra = torch.randn(3, 2, 8, 481, dtype=torch.complex64)
    pulses, noise = 3 * torch.randn(3, 8, 962), 3 * torch.randn(3, 8, 481)
    gain, phase = pulses.chunk(2, -1)
    expected = spectra[:, 0] * torch.polar(gain.exp(), phase) + spectra[:, 1] * noise.exp()
    torch.testing.assert_close(shaped(spectra, pulses, noise), expected, rtol=1e-5, atol=1e-5)
    pulses.requires_grad_()
    with torch.enable_grad():
        assert shaped(spectra, pulses, noise).requires_grad


def test_exponentials_are_torchs() -> None:
    x = torch.linspace(-80, 80, 40_000).view(2, -1)
    torch.testing.assert_close(exponential(x), x.exp(), rtol=3e-7, atol=0)


def test_queries_and_keys_turn_and_values_stay() -> None:
    asked, angles = torch.randn(3, 2, 3, 4, 16), torch.randn(3, 2, 8)
    turned = asked.clone()
    loops().turn(turned.numpy(), torch.stack([angles.cos(), angles.sin()], dim=-1).numpy())
    pairs = torch.view_as_complex(asked[:, :, :2].reshape(3, 2, 2, 4, 8, 2))
    expected = pairs * torch.polar(torch.ones_like(angles), angles)[:, :, None, None]
    torch.testing.assert_close(turned[:, :, :2], torch.view_as_real(expected).flatten(4))
    assert torch.equal(turned[:, :, 2], asked[:, :, 2])


@pytest.mark.parametrize("newest", [1, 3, 9, 11, 13, 101])
def test_attention_sees_its_context_and_no_more(newest: int) -> None:
    """A context of 9 rows in a ring of 10, against torch's attention over all rows of the stream."""
    heads, width, rows, context = 3, 16, 10, 9
    keys, values = (torch.randn(newest + 1, heads, width) for _ in range(2))
    queries = torch.randn(1, 2, heads, width)
    ring = torch.full((2, 2, heads, rows, width), 7.0)
    for position in range(newest + 1):
        ring[1, 0, :, position % rows] = keys[position]
        ring[1, 1, :, position % rows] = values[position]
    out = torch.empty(1, 2, heads, width)
    where = np.array([1]), np.array([newest])
    loops().attend(queries.numpy(), ring.numpy(), *where, context, out.numpy())
    for row, position in enumerate((newest - 1, newest)):
        seen = slice(max(0, position - context + 1), position + 1)
        scores = torch.einsum("hd,jhd->hj", queries[0, row], keys[seen]) / width**0.5
        expected = torch.einsum("hj,jhd->hd", scores.softmax(-1), values[seen])
        torch.testing.assert_close(out[0, row], expected, rtol=1e-5, atol=1e-6)
