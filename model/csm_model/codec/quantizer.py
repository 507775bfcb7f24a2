"""Residual vector quantisation with codebooks that follow their data.

Shapes: B batch, T frames, D latent dim, K codebooks, N entries of a codebook.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What training needs of a quantisation."""

    latent: Tensor  # [B, T, D], straight-through: the gradient reaches the encoder
    first: Tensor  # [B, T, D], the first codebook's part alone, straight-through
    first_two: (
        Tensor  # [B, T, D], the part of the first two codebooks (of the one, where there is one), straight-through
    )
    codes: Tensor  # [B, K, T] int64
    commitment: Tensor  # scalar


def added(parts: Sequence[Tensor]) -> Tensor:
    """The sum, first to last; how torch orders the sums over an axis depends on the other axes too."""
    return functools.reduce(torch.add, parts)


class ResidualQuantizer(nn.Module):
    """K codebooks, each quantising what the ones before it left over.

    Codebooks are exponential moving averages of the vectors assigned to them; entries that fall out of use are put
    back onto vectors of the batch ([SoundStream](https://arxiv.org/abs/2107.03312), section III-C).
    """

    codebooks: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, *, num_codebooks: int, codebook_size: int, dim: int, decay: float = 0.97) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codebooks", torch.randn(num_codebooks, codebook_size, dim) * 0.1)
        self.register_buffer("counts", torch.zeros(num_codebooks, codebook_size), persistent=False)
        self.register_buffer("sums", torch.zeros(num_codebooks, codebook_size, dim), persistent=False)

    def nearest(self, x: Tensor, index: int) -> Tensor:
        """Entries of codebook `index` nearest to `x` `[..., D]`: `[...]` int64."""
        book = self.codebooks[index]
        scores = x @ book.T - 0.5 * book.square().sum(-1)
        return scores.argmax(-1)

    def encode(self, latent: Tensor) -> Tensor:
        """`[B, T, D]` to codes `[B, K, T]`."""
        codes, residual = [], latent
        for index in range(len(self.codebooks)):
            code = self.nearest(residual, index)
            residual = residual - F.embedding(code, self.codebooks[index])
            codes.append(code)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, k, T]` (k at most K) to their sum `[B, T, D]`."""
        books, size, _ = self.codebooks.shape
        offsets = torch.arange(0, books * size, size, device=codes.device)[: codes.shape[1]]
        return added(F.embedding(codes.transpose(1, 2) + offsets, self.codebooks.flatten(0, 1)).unbind(2))

    def forward(self, latent: Tensor, mask: Tensor, keep: Tensor) -> Quantized:
        """Quantises for training and moves the codebooks.

        `mask` `[B, T]` says which frames are real; `keep` `[B]` how many codebooks an item uses (quantiser dropout).
        """
        residual, total = latent.detach(), torch.zeros_like(latent)
        first, first_two, codes = total, total, []
        for index in range(len(self.codebooks)):
            code = self.nearest(residual, index)
            entry = F.embedding(code, self.codebooks[index])
            if self.training:
                self._move(index, residual[mask], code[mask])
            used = (keep > index).to(latent.dtype)[:, None, None]
            total = total + used * entry
            residual = residual - entry
            first = entry if index == 0 else first
            first_two = first_two + entry if index < 2 else first_two
            codes.append(code)
        weight = mask[..., None].to(latent.dtype)
        distance = (latent - total).square() + (latent - first).square()
        commitment = (distance * weight).sum() / (weight.sum() * latent.shape[-1])
        return Quantized(
            latent=latent + (total - latent).detach(),
            first=latent + (first - latent).detach(),
            first_two=latent + (first_two - latent).detach(),
            codes=torch.stack(codes, dim=1),
            commitment=commitment,
        )

    @property
    def filled(self) -> int:
        """How many codebooks there are before the first empty one, which is all zeros."""
        empty = (self.codebooks == 0).flatten(1).all(1).tolist()
        return empty.index(True) if True in empty else len(empty)

    def adopt(self) -> None:
        """Takes the codebooks as they are for the averages so far, so that training can go on with loaded ones."""
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebooks)

    @torch.no_grad()
    def fit(self, latents: Tensor, *, first: int, rounds: int = 20) -> None:
        """Fits the codebooks from `first` on, each to what the ones before it leave of `latents` `[N, D]` (k-means).

        The ones before stay as they are, and so do their codes. Entries begin as vectors of the data; one that falls
        out of use begins again.
        """
        residual = latents
        for index in range(len(self.codebooks)):
            book = self.codebooks[index]
            if index >= first:
                book.copy_(residual[torch.randint(len(residual), (len(book),))])
                for _ in range(rounds):
                    codes = self.nearest(residual, index)
                    counts = torch.bincount(codes, minlength=len(book)).to(residual.dtype)
                    sums = torch.zeros_like(book).index_add_(0, codes, residual)
                    unused = counts == 0
                    sums[unused] = residual[torch.randint(len(residual), (int(unused.sum()),))]
                    book.copy_(sums / counts.clamp(min=1)[:, None])
            residual = residual - F.embedding(self.nearest(residual, index), book)

    @torch.no_grad()
    def _move(self, index: int, vectors: Tensor, codes: Tensor) -> None:
        size = self.codebooks.shape[1]
        count = torch.bincount(codes, minlength=size).to(vectors.dtype)
        total = torch.zeros_like(self.sums[index]).index_add_(0, codes, vectors)
        self.counts[index].mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.sums[index].mul_(self.decay).add_(total, alpha=1 - self.decay)
        dead = self.counts[index] < 0.02
        if dead.any():
            chosen = vectors[torch.randint(len(vectors), (int(dead.sum()),))]
            self.counts[index][dead] = 0.08
            self.sums[index][dead] = chosen * 0.08
        self.codebooks[index] = self.sums[index] / self.counts[index][:, None]
