"""Converted checkpoints against transformers: the same logits, names, constants and greedy codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from csm_model.checkpoints import convert, load_model, open_checkpoint, read_sizes
from csm_model.checkpoints.mimi import codec_of
from csm_model.checkpoints.names import CODEC, TIED, entries_of
from csm_model.checkpoints.sizes import to_hf
from csm_model.config import CONFIGS, RopeScaling
from csm_model.files import read_json, write_json
from csm_model.inference.prompt import audio_rows, text_rows
from csm_model.model import CsmModel
from csm_model.transformer import rotary_frequencies

BACKBONE_NAME = "backbone_model.embed_tokens.embed_audio_tokens.weight"


def copied(path: Path) -> dict[str, Tensor]:
    """The tensors of a file in memory of their own, so that the file may be written again."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def context(model: CsmModel, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A turn of text and sound and the text of the next one: rows `[1, T, K + 1]` and mask."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(config.codebook_size, (config.num_codebooks, 21), generator=generator)
    text = [torch.randint(190, (n,), generator=generator).tolist() for n in (9, 13)]
    parts = [text_rows(text[0], config), audio_rows(codes, config, close=True), text_rows(text[1], config)]
    rows, mask = (torch.cat(columns)[None] for columns in zip(*parts, strict=True))
    return rows, mask


def hf_embeds(hf: Any, rows: Tensor, mask: Tensor) -> Tensor:
    """The same rows as transformers embeds them: text by its table, frames by the sum over the codebooks."""
    text = hf.embed_text_tokens(rows[..., -1])
    return torch.where(mask[..., -1:], text, hf.backbone_model.embed_tokens(rows[..., :-1]))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
def assert_same_logits(model: CsmModel, hf: Any) -> None:
    """Codebook 0 at every row, and all others given the true codes, within 1e-5 of the largest logit."""
    rows, mask = context(model)
    theirs = hf.backbone_model(inputs_embeds=hf_embeds(hf, rows, mask)).last_hidden_state
    ours = model.hidden(rows, mask)
    assert relative(model.codebook0_head(ours), hf.lm_head(theirs)) < 1e-5
    states = theirs[0, -6:]
    codes = torch.randint(model.config.codebook_size, (6, model.config.num_codebooks))
    placeholder = torch.nn.functional.pad(codes[:, :-1], (1, 0))
    expected = hf.depth_decoder(input_ids=placeholder, backbone_last_hidden_state=states.clone()).logits
    assert relative(model.depth_logits(states, codes), expected) < 1e-5


def hf_codes(hf: Any, text: list[int], frames: int) -> Tensor:
    """Greedy codes `[F, K]` after a text."""
    return hf.generate(
        input_ids=torch.tensor([text]), attention_mask=torch.ones(1, len(text)), max_new_tokens=frames,
        do_sample=False, depth_decoder_do_sample=False, temperature=None, top_k=None,
        depth_decoder_temperature=None, depth_decoder_top_k=None,
    )[0]  # fmt: skip


def from_pretrained(folder: Path, **options: Any) -> Any:
    from transformers import CsmForConditionalGeneration

    return CsmForConditionalGeneration.from_pretrained(folder, **options)


def test_logits_are_those_of_transformers(twins: Any) -> None:
    assert_same_logits(twins.model, twins.hf)


def test_logits_are_those_of_transformers_by_way_of_sesames_layout(twins: Any, tmp_path: Path) -> None:
    """A state of Sesame's names, saved by torch as ckpt.pt, without config.json."""
    convert(twins.hf_folder, tmp_path / "sesame", to="sesame")
    state = copied(tmp_path / "sesame" / "model.safetensors")
    assert "backbone.layers.0.sa_norm.scale" in state
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "ckpt.pt")
    (tmp_path / "config.json").write_bytes((tmp_path / "sesame" / "config.json").read_bytes())
    assert_same_logits(load_model(tmp_path / "ckpt.pt"), twins.hf)


def test_the_permutation_of_queries_and_keys_is_needed(twins: Any) -> None:
    """Without it the shapes fit and the logits do not: the check above would see it."""
    bare = CsmModel(twins.model.config).eval()
    stored = open_checkpoint(twins.hf_folder)
    bare.load_state_dict({entry.own: stored.weights[entry.own].read() for entry in stored.entries})
    with pytest.raises(AssertionError):
        assert_same_logits(bare, twins.hf)


def test_without_rope_scaling_the_logits_are_others(twins: Any) -> None:
    config = twins.model.config
    plain = CsmModel(
        replace(
            config,
            backbone=replace(config.backbone, rope_scaling=None),
            depth=replace(config.depth, rope_scaling=None),
        )
    ).eval()
    plain.load_state_dict(twins.model.state_dict())
    with pytest.raises(AssertionError):
        assert_same_logits(plain, twins.hf)


@pytest.mark.parametrize("shard_bytes", [None, 1_000_000])
def test_an_export_loads_in_transformers_and_speaks_the_same_codes(
    twins: Any, tmp_path: Path, shard_bytes: int | None
) -> None:
    """By way of Sesame's layout, whole or in shards; nothing is missing, nothing is left over."""
    convert(twins.folder, tmp_path / "sesame", to="sesame")
    convert(tmp_path / "sesame", tmp_path / "hf", to="hf", codec=twins.hf_folder, shard_bytes=shard_bytes)
    assert (tmp_path / "hf" / "model.safetensors.index.json").exists() == (shard_bytes is not None)
    exported, info = from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info.values()), info
    theirs, ours = twins.hf.state_dict(), exported.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    text = list(range(5, 17))
    assert torch.equal(hf_codes(exported.eval(), text, 6), hf_codes(twins.hf, text, 6))


def test_an_export_without_a_codec_lacks_nothing_else(twins: Any, tmp_path: Path) -> None:
    done = convert(twins.folder, tmp_path / "hf", to="hf")
    assert done.codec == "none"
    config = read_json(
        tmp_path / "hf" / "config.json"
    )  # transformers would make the released Mimi's 79 million weights
    write_json(tmp_path / "hf" / "config.json", {**config, "codec_config": twins.hf.config.codec_config.to_dict()})
    exported, info = from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert info["missing_keys"]
    assert all(name.startswith(CODEC) for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    text = list(range(5, 17))
    assert torch.equal(hf_codes(exported.eval(), text, 3), hf_codes(twins.hf, text, 3))


def test_a_checkpoint_of_transformers_own_writer_has_the_embeddings_under_their_second_name(twins: Any) -> None:
    state = copied(twins.hf_folder / "model.safetensors")
    assert TIED in state
    assert BACKBONE_NAME not in state
    assert torch.equal(twins.model.audio_embeddings.weight, state[TIED])


def test_transformers_loads_nothing_where_only_the_first_name_is_there(twins: Any, tmp_path: Path) -> None:
    """Why an export has both names: with the backbone's alone transformers leaves both tables empty and is silent."""
    convert(twins.hf_folder, tmp_path / "hf", to="hf")
    state = copied(tmp_path / "hf" / "model.safetensors")
    assert {TIED, BACKBONE_NAME} <= state.keys()
    del state[TIED]
    save_file(state, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    model, info = from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    assert model.backbone_model.embed_tokens.embed_audio_tokens.weight.is_meta
    assert torch.equal(load_model(tmp_path / "hf").audio_embeddings.weight, twins.model.audio_embeddings.weight)


def test_the_dtype_is_that_of_the_weights_under_either_key(twins: Any, tmp_path: Path) -> None:
    """transformers 4.56 renamed `torch_dtype` to `dtype`; the exported key is read by old and new."""
    convert(twins.hf_folder, tmp_path / "hf", to="hf", dtype=torch.bfloat16)
    assert from_pretrained(tmp_path / "hf", dtype="auto").lm_head.weight.dtype == torch.bfloat16
    from_pretrained(tmp_path / "hf", dtype="auto").save_pretrained(tmp_path / "again")
    assert '"dtype": "bfloat16"' in (tmp_path / "again" / "config.json").read_text()
    convert(tmp_path / "again", tmp_path / "third", to="hf", dtype=torch.float32)
    text = (tmp_path / "third" / "config.json").read_text()
    assert '"torch_dtype": "float32"' in text
    assert "bfloat16" not in text
    assert load_model(tmp_path / "hf").codebook0_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("part", ["backbone", "depth"])
def test_rope_constants_of_both_parts_are_torchtunes(head_dim: int, part: str) -> None:
    """Hugging Face writes the scaling with another original context; the frequencies are ours to the last digit."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = to_hf(CONFIGS["csm-1b"]())
    scaling = values["rope_scaling"] if part == "backbone" else values["depth_decoder_config"]["rope_scaling"]
    config = LlamaConfig(
        hidden_size=head_dim * 4, num_attention_heads=4, rope_theta=500_000.0, rope_scaling=dict(scaling)
    )
    theirs, factor = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    assert factor == 1.0
    torch.testing.assert_close(
        rotary_frequencies(head_dim, 500_000.0, RopeScaling()).float(), theirs, rtol=2e-6, atol=0.0
    )


def test_every_name_and_shape_of_the_1b_on_the_meta_device(tmp_path: Path) -> None:
    """The written config.json makes the released model in transformers; its state is what would be written."""
    from transformers import CsmConfig, CsmForConditionalGeneration

    config = CONFIGS["csm-1b"]()
    written = to_hf(config)
    with torch.device("meta"):
        hf = CsmForConditionalGeneration(CsmConfig(**written))
    theirs = {name: tuple(tensor.shape) for name, tensor in hf.state_dict().items() if not name.startswith(CODEC)}
    ours = {entry.name: entry.shape for entry in entries_of("hf", config)}
    assert ours | {TIED: ours[BACKBONE_NAME]} == theirs
    ids = {"pad_token_id": 128_002, "audio_token_id": 128_002, "audio_eos_token_id": 128_003, "bos_token_id": 128_000}
    ids |= {"codebook_pad_token_id": 2050, "codebook_eos_token_id": 0}
    defaults = CsmConfig()
    assert {name: written[name] for name in ids} == ids == {name: getattr(defaults, name) for name in ids}
    assert written["depth_decoder_config"]["head_dim"] == 128


def test_transformers_default_configuration_is_not_the_released_one() -> None:
    """The trap: it has no rope_scaling in either part, whatever its docstring says."""
    from transformers import CsmConfig

    assert CsmConfig().rope_scaling is None
    assert CsmConfig().depth_decoder_config.rope_scaling is None


def test_sizes_come_back_from_what_transformers_writes(twins: Any) -> None:
    assert read_sizes(twins.hf_folder) == twins.model.config
    assert twins.model.config.end == "zeros"


def test_moshis_mimi_becomes_hugging_faces(tmp_path: Path) -> None:
    """Random weights of the true size: every name of transformers' Mimi, and the same codes and sound."""
    from transformers import MimiConfig, MimiModel

    from csm_model.codec.mimi import MimiCodec

    codec = MimiCodec.random(0)
    codec.save(tmp_path)
    tensors, config = codec_of(tmp_path / "codec.safetensors")
    hf = MimiModel(MimiConfig(**config)).eval()
    hf.load_state_dict({tensor.name.removeprefix(CODEC): torch.cat(list(tensor.blocks())) for tensor in tensors})
    sound = torch.sin(torch.arange(4 * 1920) * 0.05)[None, None] * 0.3 + 0.01 * torch.randn(1, 1, 4 * 1920)
    with torch.no_grad():
        codes = codec.encode(sound)
        assert torch.equal(hf.encode(sound, num_quantizers=32).audio_codes, codes)
        theirs, ours = hf.decode(codes).audio_values, codec.decode(codes)
    assert (theirs - ours).abs().max() < 1e-4 * ours.abs().max()
