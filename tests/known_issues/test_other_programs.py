"""Defects seen in other programs for this kind of model; each must stay out of this one.

The letters are those of the list that they were collected in.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from csm_components.evaluate.wer import corpus_wer, word_errors
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.inference.prompt import audio_rows
from csm_model.model import CsmModel
from csm_model.training.data import Batch, DropoutSettings, PackedTokens, Totals, TurnsInMemory
from csm_model.training.loss import LossModule
from csm_model.training.packing import Packing
from csm_model.training.shards import TokenTurn


def tiny_model() -> CsmModel:
    torch.manual_seed(0)
    return CsmModel(debug_config(text_vocab_size=50, num_codebooks=4, codebook_size=32)).eval()


def batch_of(model: CsmModel, codes: np.ndarray, *, depth_share: float = 1.0, turns: int = 1, epoch: int = 0) -> Batch:
    """Turns of the same codes `[K, T]`, one after another in one pack, as training reads them."""
    turn = TokenTurn(
        id="0", conversation="0", split="train", speaker=0, text="-", text_ids=np.arange(3, dtype=np.int32), codes=codes
    )
    source = TurnsInMemory([turn] * turns)
    packing, reading = Packing(row_length=128), DropoutSettings(depth_share=depth_share)
    return PackedTokens(source, model.config, packing=packing, reading=reading).batch([epoch])


def test_a_the_depth_decoder_is_trained_and_code_zero_counts() -> None:
    """One trainer never ran the depth decoder and dropped every code 0 from its loss."""
    model = tiny_model()
    batch = batch_of(model, np.zeros((4, 3), np.int16))
    losses = LossModule(model)(batch)
    losses.total.backward()
    assert batch.totals.first == 4, "three frames of zeros, and the end"
    assert batch.totals.depth == 3
    assert torch.all(losses.codebooks > 0)
    for weight in (*model.decoder.parameters(), *model.backbone.parameters(), model.projection.weight):
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0
    assert model.audio_head.grad is not None
    assert model.audio_head.grad[:, :, 0].abs().sum() > 0
    assert model.codebook0_head.weight.grad is not None
    assert model.codebook0_head.weight.grad[0].abs().sum() > 0


def test_b_the_depth_loss_is_a_mean_over_codebooks_however_batches_add_up() -> None:
    """Given the number of items of a step, another trainer sums over the codebooks: 31 times the weight for CSM."""
    model = tiny_model()
    torch.nn.init.zeros_(model.audio_head)
    torch.nn.init.zeros_(model.codebook0_head.weight)
    codes = np.random.default_rng(0).integers(0, 32, (4, 20)).astype(np.int16)
    batch = batch_of(model, codes, turns=2)
    flat = math.log(model.config.audio_vocab_size)
    module = LossModule(model)
    for batches in (1, 3):
        totals = Totals(*(batches * each for each in batch.totals))
        losses = [module(batch, totals) for _ in range(batches)]
        assert float(sum(each.first for each in losses).detach()) == pytest.approx(flat, rel=1e-5)
        assert float(sum(each.depth for each in losses).detach()) == pytest.approx(flat, rel=1e-5)


@pytest.mark.parametrize("frames", [1, 3, 15])
def test_d_few_audio_rows_give_no_nan(frames: int) -> None:
    """One trainer picked a sixteenth of the audio rows of a batch: none of fewer than 16, whose mean is NaN."""
    model = tiny_model()
    codes = np.ones((4, frames), np.int16)
    batches = (batch_of(model, codes, depth_share=1 / 16, epoch=epoch) for epoch in range(200))
    batch = next(batch for batch in batches if not len(batch.depth.places))
    for each in (batch, batch.without_targets()):
        model.zero_grad()
        losses = LossModule(model, text_weight=0.5)(each)
        losses.total.backward()
        assert all(torch.isfinite(part).all() for part in losses)
        assert losses.depth == 0
        grads = [weight.grad for weight in model.parameters()]
        assert all(grad is not None and torch.isfinite(grad).all() for grad in grads), "each has one, for DDP's sake"


def test_e_the_closing_row_is_no_sound() -> None:
    """Where all-zero codes end speech, a frame of code 0 is taken for the end, or the end is decoded as sound."""
    config = debug_config(text_vocab_size=50, num_codebooks=4, codebook_size=32)
    silence = torch.zeros(4, 2, dtype=torch.long)
    rows, _ = audio_rows(silence, config, close=True)
    assert rows[-1, :-1].tolist() == [config.end_code] * 4
    assert config.end_code >= config.codebook_size
    assert not (rows[:-1, :-1] == config.end_code).any()


def test_g_contractions_survive_normalisation() -> None:
    """One normaliser turned "we're" into "were" and "we'll" into "well"."""
    assert corpus_wer([word_errors("we're late", "were late")]) > 0
    assert corpus_wer([word_errors("we'll see", "well see")]) > 0
    assert corpus_wer([word_errors("we're late", "We\u2019re late.")]) == 0


def test_h_i_chunks_keep_the_codec_state() -> None:
    """Servers that reset the codec, or decode again with too little past, click at every chunk."""
    torch.manual_seed(0)
    codec = RvqCodec(RvqConfig.debug()).eval()
    codes = torch.randint(0, 32, (1, 4, 30))
    stream = codec.streaming_decoder()
    joined = torch.cat([stream.step(chunk) for chunk in codes.split(3, dim=-1)], dim=-1)
    assert torch.equal(joined, codec.decode(codes))
    fresh = torch.cat([codec.streaming_decoder().step(chunk) for chunk in codes.split(3, dim=-1)], dim=-1)
    assert not torch.equal(joined, fresh), "the check would not see a reset"
