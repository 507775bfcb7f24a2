"""The loss against that of transformers' `CsmForConditionalGeneration`, of the same weights, given the same labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle.hugging_face import documents_of
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from csm_model.training.data import Batch, DropoutSettings, PackedTokens, TurnsInMemory
from csm_model.training.loss import LossModule
from csm_model.training.packing import Packing
from csm_model.training.shards import TokenTurn


def packs_for(model: Any) -> PackedTokens:
    """Four conversations of one or two turns, packed in two rows; many codes are 0."""
    config = model.config
    rng = np.random.default_rng(0)
    turns = [
        TokenTurn(
            id=f"{conversation}-{number}",
            conversation=str(conversation),
            split="train",
            speaker=number,
            text="-",
            text_ids=rng.integers(0, 190, rng.integers(4, 9)).astype(np.int32),
            codes=(rng.integers(0, config.codebook_size, (config.num_codebooks, rng.integers(18, 40))) // 3).astype(
                np.int16
            ),
        )
        for conversation in range(4)
        for number in range(1 + conversation % 2)
    ]
    packing = Packing(row_length=160)
    return PackedTokens(TurnsInMemory(turns), config, packing=packing, reading=DropoutSettings(depth_share=1 / 4))


def as_transformers_takes_it(hf: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Each document an item, padded on the right: embeddings `[B, T, D]`, and labels `[B, T, K]`."""
    documents = documents_of(batch)
    embeds = pad_sequence([document.embedded(hf) for document in documents], batch_first=True)
    return embeds, pad_sequence([d.labels for d in documents], batch_first=True, padding_value=-100)


@torch.no_grad()
def test_both_losses_are_those_of_transformers(twins: Any) -> None:
    packs = packs_for(twins.model)
    batch = packs.batch(range(packs.packs.count(0)))
    assert max(len(lengths) for lengths in batch.lengths) > 2
    ours = LossModule(twins.model)(batch)
    embeds, labels = as_transformers_takes_it(twins.hf, batch)
    assert len(embeds) == 4
    theirs = twins.hf(inputs_embeds=embeds, labels=labels)
    assert float(ours.first) == pytest.approx(float(theirs.backbone_loss), abs=1e-4)
    assert float(ours.depth) == pytest.approx(float(theirs.depth_decoder_loss), abs=1e-4)
    assert float(ours.total) == pytest.approx(float(theirs.loss), abs=2e-4)


@torch.no_grad()
def test_over_several_batches_the_depth_loss_stays_a_mean(twins: Any) -> None:
    """Under transformers' Trainer, which gives the number of items, it is summed over codebooks: 31 times as much."""
    packs = packs_for(twins.model)
    batch = packs.batch(range(packs.packs.count(0)))
    singles = [packs.batch([number]) for number in range(packs.packs.count(0))]
    module = LossModule(twins.model)
    shares = [module(single, batch.totals) for single in singles]
    assert float(sum(share.depth for share in shares)) == pytest.approx(float(module(batch).depth), abs=1e-5)
    embeds, labels = as_transformers_takes_it(twins.hf, batch)
    frames = torch.tensor(len(batch.depth.places))
    theirs = twins.hf(inputs_embeds=embeds, labels=labels, num_items_in_batch=frames)
    books = twins.model.config.num_codebooks
    assert float(theirs.depth_decoder_loss) == pytest.approx((books - 1) * float(module(batch).depth), rel=1e-4)
