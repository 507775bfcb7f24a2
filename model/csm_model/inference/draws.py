"""Drawing codes from logits: pure functions of logits, settings (`csm_model.inference.sampling`) and a seed.

Shapes: B batch, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STRIDE = 0x9E3779B97F4A7C15  # odd, so that no two (seed, frame) of a stream's length share a state


def noise(seed: int, frame: int, shape: tuple[int, ...]) -> Tensor:
    """Gumbel noise float32 of a frame of a stream: a pure function of its seed and the frame's number.

    So a stream may be gone on with from any frame, and does not feel what is drawn for its neighbours.
    """
    generator = torch.Generator().manual_seed((seed * _STRIDE + frame) % 2**63)
    # A draw of 0, one in 17 million, would be infinite, and no number at temperature 0.
    uniform = torch.rand(shape, generator=generator).clamp_(min=torch.finfo(torch.float32).tiny)
    return -(-uniform.log_()).log_()


def nearest_to_mean(logits: Tensor, entries: Tensor, *, temperature: Tensor) -> Tensor:
    """The code of each row of `[B, V]` whose entry is nearest to the mean of all entries by their odds: int64 `[B]`.

    Of many codes that are about as likely as one another the likeliest is hardly less a matter of chance than a draw;
    their mean is not, being the estimate with the least squared error.

    Args:
        logits: `[B, V]`, of any float type; those after the first N count nothing.
        entries: `[N, L]` float64: what the codes stand for. Single precision would let the neighbours in a batch decide
            between entries that are equally near.
        temperature: float32 `[B]`.
    """
    heat = temperature[:, None].clamp(min=1e-3)
    odds = (logits[:, : len(entries)].float() / heat).softmax(-1).double()
    return (odds @ entries @ entries.T - 0.5 * entries.square().sum(-1)).argmax(-1)


def sample(logits: Tensor, gumbel: Tensor, *, temperature: Tensor, top_k: Tensor, most: int | None) -> Tensor:
    """Draws one id from each row of `[B, V]`: int64 `[B]`.

    The largest of `logits + temperature * gumbel` is a draw from the softmax of `logits / temperature`
    ([Gumbel-max](https://arxiv.org/abs/1611.00712)), and the most likely id where the temperature is 0.
    Ids tied with the k-th most likely are kept, as in Sesame's sampler; logits of minus infinity are never drawn.

    Args:
        logits: `[B, V]`, of any float type.
        gumbel: Gumbel noise `[B, V]`.
        temperature: float32 `[B]`.
        top_k: int64 `[B]`; only so many of the most likely ids are drawn from.
        most: the largest `top_k`; None where every row draws from all.
    """
    logits = logits.float()
    if most is not None:
        least = logits.topk(most, dim=-1).values.gather(-1, top_k[:, None] - 1)
        logits = logits.masked_fill(logits < least, -torch.inf)
    return (logits + temperature[:, None] * gumbel).argmax(-1)
