"""Defects seen in other programs for this kind of model; each must stay out of this one.

The letters are those of the list that they were collected in.
"""

from __future__ import annotations

import torch

from csm_components.evaluate.wer import corpus_wer, word_errors
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.inference.prompt import audio_rows
from csm_model.model import CsmModel


def tiny_model() -> CsmModel:
    torch.manual_seed(0)
    return CsmModel(debug_config(text_vocab_size=50, num_codebooks=4, codebook_size=32)).eval()


def test_a_the_depth_decoder_is_trained_and_code_zero_counts() -> None:
    """One trainer never ran the depth decoder and dropped every code 0 from its loss."""
    model = tiny_model()
    codes = torch.zeros(3, 4, dtype=torch.long)
    logits = model.depth_logits(torch.randn(3, 32), codes)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), codes[:, 1:].flatten()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoder.parameters())
    assert model.audio_head.grad is not None
    assert model.audio_head.grad[:, :, 0].abs().sum() > 0


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
