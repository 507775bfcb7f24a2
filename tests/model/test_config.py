"""Sizes: every preset has the weights that it says, and the rotary frequencies are those of the released models."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch

from csm_model.config import CONFIGS, ModelConfig, RopeScaling, TransformerConfig, debug_config
from csm_model.errors import InputError
from csm_model.model import CsmModel
from csm_model.transformer import KVCache, PackedDocuments, Transformer, rotary_frequencies

SMALL = TransformerConfig(layers=2, dim=32, heads=4, kv_heads=2, ffn_dim=64, rope_scaling=RopeScaling())


@pytest.mark.parametrize(
    ("name", "weights", "backbone", "depth"),
    [
        ("csm-1b", 1_552_791_552, 973_146_112, 111_158_272),
        ("csm-3b", 3_770_797_056, 2_818_747_392, 247_746_048),
        ("csm-8b", 8_188_122_112, 6_979_588_096, 302_016_000),
    ],
)
def test_presets_have_the_published_number_of_weights(name: str, weights: int, backbone: int, depth: int) -> None:
    with torch.device("meta"):
        model = CsmModel(CONFIGS[name]())
    assert sum(p.numel() for p in model.parameters()) == weights
    assert sum(p.numel() for p in model.backbone.parameters()) == backbone
    assert sum(p.numel() for p in model.decoder.parameters()) == depth


def test_the_small_csm_has_about_thirty_million_weights() -> None:
    with torch.device("meta"):
        model = CsmModel(CONFIGS["csm-30m"]())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(30e6, rel=0.1)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_json(name: str) -> None:
    config = CONFIGS[name](text_vocab_size=100, num_codebooks=4, codebook_size=32)
    assert ModelConfig.from_json(asdict(config)) == config


def test_a_model_built_on_the_meta_device_fills_its_tables_later() -> None:
    config = debug_config(text_vocab_size=50, num_codebooks=4, codebook_size=32)
    built = CsmModel(config)
    with torch.device("meta"):
        later = CsmModel(config)
    later.to_empty(device="cpu")
    later.reset_tables()
    for (name, one), (_, other) in zip(built.named_buffers(), later.named_buffers(), strict=True):
        assert torch.equal(one, other), name


def test_scaled_frequencies_stay_fast_and_slow_down_where_slow() -> None:
    plain = rotary_frequencies(64, 500_000.0, None)
    scaled = rotary_frequencies(64, 500_000.0, RopeScaling())
    waves = 2 * math.pi / plain
    assert torch.equal(scaled[waves < 8192 / 4], plain[waves < 8192 / 4])
    assert torch.allclose(scaled[waves > 8192], plain[waves > 8192] / 32, rtol=1e-12)
    assert (scaled.diff() < 0).all(), "the blend must not change the order"


def test_a_pack_is_its_documents_one_by_one() -> None:
    torch.manual_seed(0)
    stack = Transformer(SMALL, max_rows=32)
    x = torch.randn(2, 12, 32)
    out = stack(x, PackedDocuments([[5, 4, 3], [12]]))
    for start, end in ((0, 5), (5, 9), (9, 12)):
        torch.testing.assert_close(out[:1, start:end], stack(x[:1, start:end]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out[1:], stack(x[1:]), rtol=1e-5, atol=1e-6)


def test_a_cache_of_different_lengths_is_each_alone() -> None:
    """Prompts padded on the right, trimmed, then stepped together, give what each gives alone."""
    torch.manual_seed(0)
    stack = Transformer(SMALL, max_rows=32).eval()
    lengths, total = (3, 6), 10
    x = torch.randn(2, total, 32)
    with torch.inference_mode():
        whole = stack(x)
        cache = KVCache(SMALL, batch_size=2, rows=total + 3)
        padded = torch.stack(
            [torch.cat([item[:n], torch.randn(6 - n, 32)]) for item, n in zip(x, lengths, strict=True)]
        )
        out = stack(padded, cache)
        for item, n in enumerate(lengths):
            torch.testing.assert_close(out[item, :n], whole[item, :n], rtol=1e-5, atol=1e-6)
        cache.trim(lengths)
        for step in range(4):
            rows = torch.stack([x[item, n + step] for item, n in enumerate(lengths)])[:, None]
            out = stack(rows, cache)
            for item, n in enumerate(lengths):
                torch.testing.assert_close(out[item, 0], whole[item, n + step], rtol=1e-5, atol=1e-6)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="dim 30 over heads 4"):
        TransformerConfig(layers=1, dim=30, heads=4, kv_heads=2, ffn_dim=8)
    with pytest.raises(InputError, match="kv_heads 3 must divide heads 4"):
        TransformerConfig(layers=1, dim=32, heads=4, kv_heads=3, ffn_dim=8)
