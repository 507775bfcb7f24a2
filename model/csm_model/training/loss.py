"""The training loss: codebook 0 on every frame, the other codebooks on a random share of the frames.

The amortisation is CSM's (Sesame 2025): the depth decoder costs most of the memory and sees enough in a share of them.

Shapes: B batch, T rows, K codebooks, V vocabulary, F frames picked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.model import CsmModel
from csm_model.training.data import Batch


class Losses(NamedTuple):
    """Means over what they count, in nats."""

    total: Tensor
    first: Tensor  # codebook 0
    depth: Tensor  # codebooks 1 to K - 1
    accuracy: Tensor  # share of frames whose codebook 0 was the most likely


class LossModule(nn.Module):
    """The model with its loss, in one `forward`, so that DDP sees every parameter used."""

    def __init__(self, model: CsmModel, *, depth_share: float, depth_weight: float) -> None:
        super().__init__()
        self.model = model
        self.depth_share = depth_share
        self.depth_weight = depth_weight

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        """The losses of a batch; `generator` draws the frames for the depth decoder."""
        state = self.model.hidden(batch.rows, batch.mask)[:, :-1]  # the state at t - 1 ...
        rows = batch.rows[:, 1:]  # ... predicts the row at t
        targets, frames = batch.targets[:, 1:], batch.frames[:, 1:]
        logits = self.model.codebook0_head(state[targets]).float()
        labels = rows[..., 0][targets]
        first = F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        picked = self._pick(frames, generator)
        codes = rows[picked][:, :-1]
        depth_logits = self.model.depth_logits(state[picked], codes).float()
        depth = F.cross_entropy(depth_logits.flatten(0, 1), codes[:, 1:].flatten())
        return Losses(first + self.depth_weight * depth, first, depth, accuracy)

    def _pick(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """A random `depth_share` of the frames, at least one: `[B, T]` bool."""
        places = frames.flatten().nonzero()[:, 0]
        count = max(1, round(self.depth_share * len(places)))
        chosen = places[torch.randperm(len(places), generator=generator)[:count]]
        return torch.zeros(frames.numel(), dtype=torch.bool).index_fill_(0, chosen, True).view(frames.shape)
