"""Sizes of a model in the words of each layout, and told from the shapes of its tensors."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from csm_model.checkpoints.names import entries_of
from csm_model.checkpoints.sizes import from_hf, from_sesame, from_shapes, preset_of, to_hf, to_sesame
from csm_model.config import CONFIGS, RopeScaling, debug_config
from csm_model.errors import ArtifactError


@pytest.mark.parametrize("preset", ["csm-1b", "csm-3b", "csm-8b"])
def test_the_released_sizes_are_told_from_shapes_alone(preset: str) -> None:
    config = CONFIGS[preset]()
    shapes = {entry.own: entry.shape for entry in entries_of("sesame", config)}
    assert from_shapes(shapes, "here") == config
    assert preset_of(config) == preset


def test_shapes_that_tell_nothing_are_refused() -> None:
    shapes = {entry.own: entry.shape for entry in entries_of("csm", CONFIGS["csm-30m"]())}
    with pytest.raises(ArtifactError, match=r"put its config\.json beside it"):
        from_shapes(shapes | {"backbone.layers.0.attn.k_proj.weight": (192, 256)}, "here")
    with pytest.raises(ArtifactError, match="no tensor 'audio_head'"):
        from_shapes({"text_embeddings.weight": (5, 8)}, "here")


def test_configurations_come_back_as_they_were() -> None:
    sizes = {"text_vocab_size": 50, "num_codebooks": 4, "codebook_size": 16}
    for config in (*(make(**sizes) for make in CONFIGS.values()), CONFIGS["csm-8b"]()):
        dropped = replace(config, max_rows=77, depth=replace(config.depth, dropout=0.1), text_prefix=9)
        for each in (config, dropped):
            assert from_sesame(to_sesame(each), "here") == each
            assert from_hf(json.loads(json.dumps(to_hf(each))), "here") == each


def test_sesames_released_config_json_is_read_and_written() -> None:
    stored = {
        "audio_num_codebooks": 32, "audio_vocab_size": 2051, "backbone_flavor": "llama-1B",
        "decoder_flavor": "llama-100M", "text_vocab_size": 128_256,
    }  # fmt: skip
    assert from_sesame(stored, "here") == CONFIGS["csm-1b"]()
    assert to_sesame(CONFIGS["csm-1b"]()) == stored
    with pytest.raises(ArtifactError, match="backbone_flavor 'llama-2B' is unknown; there are llama-1B"):
        from_sesame(stored | {"backbone_flavor": "llama-2B"}, "here")


def test_an_edited_size_counts_more_than_what_is_remembered_beside_it() -> None:
    """`csm` in a foreign config.json says what the layout cannot; it must not hide a change of what it can."""
    config = debug_config(text_vocab_size=50, num_codebooks=4, codebook_size=16)
    stored = to_hf(replace(config, backbone=replace(config.backbone, rope_scaling=RopeScaling()), max_rows=100))
    assert from_hf(stored | {"max_position_embeddings": 200}, "here", rope="plain").max_rows == 200
