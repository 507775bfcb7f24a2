"""The training loss: codebook 0 on every frame, the other codebooks on a random share of the frames.

The amortisation is CSM's (Sesame 2025): the depth decoder costs most of the memory and sees enough in a share of them.
Each loss is a mean weighted by what its targets count, over all targets of an optimiser step, wherever they are: in
which pack, in which micro-batch, in which process. So every batch gives its share of that mean, and shares add up.

    total = first + depth_weight * depth + text_weight * text

`first` is the mean over frames of codebook 0's cross-entropy; `depth` the mean over picked frames of the mean over
codebooks 1 to K - 1; `text` the mean over text ids, predicted with the text embeddings as a tied head. CSM has no text
loss; `text_weight` is 0 unless asked for, and then costs a product with the whole text vocabulary.

Shapes: B packs, T rows, K codebooks, V vocabulary, N targets, F frames picked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.model import CsmModel
from csm_model.training.data import Batch, Totals
from csm_model.transformer import PackedDocuments


class Losses(NamedTuple):
    """A batch's shares of the means over the step's targets, in nats; the shares of all batches add up to the means."""

    total: Tensor
    first: Tensor  # codebook 0
    depth: Tensor  # codebooks 1 to K - 1
    text: Tensor  # 0 where it has no weight
    accuracy: Tensor  # share of frames whose codebook 0 was the most likely
    codebooks: Tensor  # [K]: each codebook's own


class LossModule(nn.Module):
    """The model with its loss, in one `forward`, so that what parallelises sees every parameter used."""

    def __init__(self, model: CsmModel, *, depth_weight: float = 1.0, text_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.depth_weight = depth_weight
        self.text_weight = text_weight

    def forward(self, batch: Batch, totals: Totals | None = None) -> Losses:
        """The losses of a batch; `totals` are what all targets of the step count, without them this batch's own."""
        totals = totals or batch.totals
        state = self.model.hidden(batch.rows, batch.mask, PackedDocuments(batch.lengths)).flatten(0, 1)
        rows = batch.rows.flatten(0, 1)
        first, accuracy = self._first(batch, state, rows)
        codebooks = self._depth(batch, state, rows)
        first, accuracy = first / max(totals.first, 1e-8), accuracy / max(totals.first, 1e-8)
        codebooks = codebooks / max(totals.depth, 1e-8)
        depth = codebooks.mean()
        text = torch.zeros((), device=state.device)
        if self.text_weight:
            text = self._text(batch, state, rows) / max(totals.text, 1e-8)
        total = first + self.depth_weight * depth + self.text_weight * text
        return Losses(total, first, depth, text, accuracy, torch.cat([first.detach()[None], codebooks.detach()]))

    def _first(self, batch: Batch, state: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of codebook 0's cross-entropy and of its hits."""
        places, weights = batch.first
        logits = self.model.codebook0_head(state[places - 1]).float()
        labels = rows[places, 0]
        hits = (logits.detach().argmax(-1) == labels).float()
        return (F.cross_entropy(logits, labels, reduction="none") * weights).sum(), (hits * weights).sum()

    def _depth(self, batch: Batch, state: Tensor, rows: Tensor) -> Tensor:
        """Weighted sums of the cross-entropies of codebooks 1 to K - 1: `[K - 1]`."""
        places, weights = batch.depth
        if not len(places):  # a row that counts nothing: every process must run the decoder, and on something
            places, weights = places.new_ones(1), weights.new_zeros(1)
        codes = rows[places, :-1]
        logits = self.model.depth_logits(state[places - 1], codes).float()
        each = F.cross_entropy(logits.flatten(0, 1), codes[:, 1:].flatten(), reduction="none")
        return (each.view(len(places), codes.shape[1] - 1) * weights[:, None]).sum(0)

    def _text(self, batch: Batch, state: Tensor, rows: Tensor) -> Tensor:
        """Weighted sum of the text ids' cross-entropy."""
        places, weights = batch.text
        logits = F.linear(state[places - 1], self.model.text_embeddings.weight).float()
        return (F.cross_entropy(logits, rows[places, -1], reduction="none") * weights).sum()
