"""Traps of CSM's checkpoints that other programs fall into; each stays out of this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from csm_model.checkpoints import convert, describe, load_model, open_checkpoint, read_sizes
from csm_model.checkpoints.names import TIED, entries_of
from csm_model.checkpoints.sizes import to_hf
from csm_model.checkpoints.writer import Outgoing, write_shards
from csm_model.config import CONFIGS, ModelConfig, RopeScaling
from csm_model.errors import ArtifactError
from csm_model.files import read_json, write_json

BACKBONE_NAME = "backbone_model.embed_tokens.embed_audio_tokens.weight"


def copied(path: Path) -> dict[str, Tensor]:
    """The tensors of a file in memory of their own, so that the file may be written again."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def config() -> ModelConfig:
    return CONFIGS["csm-30m"](text_vocab_size=50, num_codebooks=3, codebook_size=16)


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    """A Hugging Face checkpoint with random weights."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        Outgoing(
            name=entry.name,
            dtype=torch.float32,
            shape=entry.shape,
            blocks=lambda shape=entry.shape: iter([torch.randn(shape, generator=generator)]),
        )
        for entry in entries_of("hf", config())
    ]
    (tmp_path / "hf").mkdir()
    write_shards(tmp_path / "hf", tensors)
    write_json(tmp_path / "hf" / "config.json", to_hf(config()))
    return tmp_path / "hf"


def edit(folder: Path, *, depth: bool = False, **values: object) -> None:
    stored = read_json(folder / "config.json")
    (stored["depth_decoder_config"] if depth else stored).update(values)
    write_json(folder / "config.json", stored)


@pytest.mark.parametrize("depth", [False, True], ids=["backbone", "depth"])
def test_a_configuration_without_rope_scaling_is_not_guessed(hf: Path, tmp_path: Path, depth: bool) -> None:
    """transformers' own default is none; only the released config.json has it. Both readings must be asked for."""
    edit(hf, depth=depth, rope_scaling=None)
    with pytest.raises(ArtifactError, match=r"rope_scaling of the .* is null.* give --assume-llama3-rope"):
        open_checkpoint(hf)
    assert read_sizes(hf, rope="llama3") == config()
    sizes = read_sizes(hf, rope="plain")
    assert (sizes.depth if depth else sizes.backbone).rope_scaling is None
    assert (sizes.backbone if depth else sizes.depth).rope_scaling == RopeScaling()
    assert "rope_scaling is null" in " ".join(describe(hf, rope="llama3").unusual)
    convert(hf, tmp_path / "mended", to="hf", rope="llama3")
    assert read_sizes(tmp_path / "mended") == config()


def test_a_rope_of_another_kind_is_refused(hf: Path) -> None:
    edit(hf, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    with pytest.raises(ArtifactError, match="rope_scaling of type 'yarn'"):
        open_checkpoint(hf)


def test_the_key_of_transformers_5_is_read(hf: Path) -> None:
    stored = read_json(hf / "config.json")
    for part in (stored, stored["depth_decoder_config"]):
        part["rope_parameters"] = {**part.pop("rope_scaling"), "rope_theta": part.pop("rope_theta")}
        part["dtype"] = part.pop("torch_dtype")
    write_json(hf / "config.json", stored)
    assert read_sizes(hf) == config()


def test_padding_and_audio_are_one_id_in_the_released_configuration(hf: Path) -> None:
    """128002 is both there, and the tokenizer pads with 128001; whoever pads by the config makes places for audio."""
    stored = read_json(hf / "config.json")
    assert stored["pad_token_id"] == stored["audio_token_id"] == 128_002
    assert any("pad_token_id is audio_token_id" in line for line in describe(hf).unusual)
    edit(hf, pad_token_id=128_001)
    assert not any("pad_token_id" in line for line in describe(hf).unusual)


def test_an_edited_id_survives_between_hugging_face_checkpoints(hf: Path, tmp_path: Path) -> None:
    edit(hf, pad_token_id=128_001, some_future_key=[1, 2])
    convert(hf, tmp_path / "again", to="hf", dtype=torch.bfloat16)
    stored = read_json(tmp_path / "again" / "config.json")
    assert stored["pad_token_id"] == 128_001
    assert stored["some_future_key"] == [1, 2]
    assert stored["torch_dtype"] == stored["depth_decoder_config"]["torch_dtype"] == "bfloat16"


def test_code_zero_everywhere_ends_speech_and_another_end_is_not_taken_for_it(hf: Path) -> None:
    assert read_sizes(hf).end == "zeros"
    assert read_json(hf / "config.json")["codebook_eos_token_id"] == 0
    assert read_json(hf / "config.json")["codebook_pad_token_id"] == 18  # 2050 for 2048 codes
    edit(hf, codebook_eos_token_id=16)
    assert read_sizes(hf).end == "reserved"
    edit(hf, codebook_eos_token_id=7)
    with pytest.raises(ArtifactError, match="codebook_eos_token_id is 7"):
        open_checkpoint(hf)


@pytest.mark.parametrize("name", [BACKBONE_NAME, TIED])
def test_the_audio_embeddings_are_found_under_either_name(hf: Path, tmp_path: Path, name: str) -> None:
    """transformers writes the depth decoder's name alone, converters the backbone's alone; an export has both."""
    state = copied(hf / "model.safetensors")
    table = state.pop(BACKBONE_NAME)
    save_file({**state, name: table}, hf / "model.safetensors")
    assert torch.equal(load_model(hf).audio_embeddings.weight, table)
    convert(hf, tmp_path / "out", to="hf")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written[BACKBONE_NAME], table)
    assert torch.equal(written[TIED], table)


def test_two_different_tables_of_audio_embeddings_are_not_one(hf: Path) -> None:
    state = copied(hf / "model.safetensors")
    save_file({**state, TIED: state[BACKBONE_NAME] + 1.0}, hf / "model.safetensors")
    with pytest.raises(ArtifactError, match="is not a copy of the backbone's audio embeddings"):
        load_model(hf)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"attention_bias": True}, "attention_bias of the depth decoder is True"),
        ({"mlp_bias": True}, "mlp_bias of the depth decoder is True"),
        ({"hidden_act": "gelu"}, "hidden_act of the depth decoder is 'gelu'"),
        ({"head_dim": 64}, "head_dim 64 times 4 heads of the depth decoder is not its hidden_size 128"),
    ],
)
def test_what_this_model_has_not_is_refused(hf: Path, values: dict[str, object], words: str) -> None:
    edit(hf, depth=True, **values)
    with pytest.raises(ArtifactError, match=words):
        open_checkpoint(hf)


def test_the_depth_decoders_heads_are_128_wide_at_1b() -> None:
    """Half as many, twice as wide as a rule of 64 would make them; the permutation of its rows depends on it."""
    heads = {entry.own: entry.head for entry in entries_of("hf", CONFIGS["csm-1b"]())}
    assert heads["decoder.layers.0.attn.q_proj.weight"] == heads["decoder.layers.3.attn.k_proj.weight"] == 128
    assert heads["backbone.layers.0.attn.q_proj.weight"] == 64
    assert heads["decoder.layers.0.attn.v_proj.weight"] == 0
