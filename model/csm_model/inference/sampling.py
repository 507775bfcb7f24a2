"""Drawing codes from logits: pure functions of logits, settings and a random generator.

Shapes: B batch, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from csm_model.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How codes are drawn."""

    temperature: float = 0.7
    """Of codebook 0; 0 takes the most likely code."""
    depth_temperature: float = 0.7
    """Of the other codebooks."""
    top_k: int = 50
    """Only so many of the most likely codes are drawn from; 0 for all."""
    guidance: float = 1.0
    """Classifier-free guidance of codebook 0 towards the text; 1 is none ([Ho and Salimans 2022](https://arxiv.org/abs/2207.12598))."""
    seed: int = 0
    """The same seed gives the same speech."""

    def __post_init__(self) -> None:
        for name in ("temperature", "depth_temperature"):
            value = getattr(self, name)
            if not 0.0 <= value <= 5.0:
                raise InputError(f"{name} {value}: must be from 0 (most likely) to 5")
        if self.top_k < 0:
            raise InputError(f"top_k {self.top_k}: must be 0 (all) or more")
        if not 0.0 <= self.guidance <= 10.0:
            raise InputError(f"guidance {self.guidance}: must be from 0 to 10; 1 is none")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed}: must be from 0 to 2**63 - 1")


def sample(logits: Tensor, *, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    """Draws one id from each row of `[B, V]`: `[B]` int64.

    Ids tied with the k-th most likely are kept, as in Sesame's sampler.
    """
    if temperature == 0.0:
        return logits.argmax(-1)
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = (logits / temperature).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
