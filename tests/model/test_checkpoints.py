"""Checkpoints in three layouts: found out, converted to the bit and in little memory, verified, loaded, refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from csm_model.bundle import load_weights, read_config
from csm_model.checkpoints import convert, describe, load_model, open_checkpoint, read_sizes, verify, weights_digest
from csm_model.checkpoints.names import CODEC, LAYOUTS
from csm_model.config import CONFIGS, ModelConfig, RopeScaling, TransformerConfig
from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json, write_json
from csm_model.model import CsmModel, meta_model

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def copied(path: Path) -> dict[str, Tensor]:
    """The tensors of a file in memory of their own, so that the file may be written again."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def small_config() -> ModelConfig:
    """The released structure, with heads of 64 in both parts."""
    llama = {"rope_base": 500_000.0, "rope_scaling": RopeScaling()}
    return replace(
        CONFIGS["csm-1b"](text_vocab_size=50, num_codebooks=4, codebook_size=16),
        backbone=TransformerConfig(layers=2, dim=256, heads=4, kv_heads=2, ffn_dim=96, **llama),
        depth=TransformerConfig(layers=2, dim=128, heads=2, kv_heads=1, ffn_dim=80, **llama),
    )


def own_state(config: ModelConfig, dtype: torch.dtype = torch.float32, *, any_bits: bool = False) -> dict[str, Tensor]:
    """Random weights by this program's names; with `any_bits` any pattern of bits that is a number."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in meta_model(config).state_dict().items():
        if any_bits:
            size = tensor.numel() * dtype.itemsize
            bits = torch.randint(256, (size,), dtype=torch.uint8, generator=generator)
            numbers = bits.view(dtype).view(tensor.shape)
            state[name] = torch.where(numbers.isfinite(), numbers, 1.0)
        else:
            state[name] = torch.randn(tensor.shape, generator=generator).to(dtype)
    return state


def write_own(folder: Path, config: ModelConfig, state: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    write_json(folder / "config.json", asdict(config))
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_own(tmp_path / "own", small_config(), own_state(small_config()))


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", [("sesame", "hf"), ("hf", "sesame"), ("hf", "hf"), ("csm", "sesame")], ids=str)
def test_a_round_trip_keeps_every_bit(tmp_path: Path, dtype: torch.dtype, way: tuple[Any, Any]) -> None:
    config = small_config()
    state = own_state(config, dtype, any_bits=True)
    at = write_own(tmp_path / "start", config, state)
    for number, layout in enumerate((*way, "csm")):
        convert(at, tmp_path / str(number), to=layout, shard_bytes=None if layout == "sesame" else 200_000)
        at = tmp_path / str(number)
        assert read_sizes(at) == config
    back = {name: stored.read() for name, stored in open_checkpoint(at).weights.items()}
    assert back.keys() == state.keys()
    assert all(same_bits(back[name], state[name]) for name in state)


def test_a_written_file_is_what_the_safetensors_library_reads(own: Path, tmp_path: Path) -> None:
    convert(own, tmp_path / "csm", to="csm")
    with safe_open(tmp_path / "csm" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = copied(own / "model.safetensors")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_shards_are_no_larger_than_asked_and_the_index_is_right(own: Path, tmp_path: Path) -> None:
    limit = 150_000
    done = convert(own, tmp_path / "hf", to="hf", shard_bytes=limit)
    index = read_json(tmp_path / "hf" / "model.safetensors.index.json")
    assert len(done.files) > 3
    assert set(index["weight_map"].values()) == set(done.files)
    total = 0
    for name in done.files:
        tensors = load_file(tmp_path / "hf" / name)
        assert {index["weight_map"][tensor] for tensor in tensors} == {name}
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= limit or len(tensors) == 1
        total += size
    assert index["metadata"]["total_size"] == total == done.nbytes
    assert verify(own, tmp_path / "hf" / "model.safetensors.index.json").identical


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_dtype_is_converted_on_the_way(own: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    convert(own, tmp_path / "hf", to="hf", dtype=dtype)
    loaded = load_model(tmp_path / "hf").state_dict()
    assert all(torch.equal(loaded[name], tensor.to(dtype)) for name, tensor in own_state(small_config()).items())
    verdict = verify(own, tmp_path / "hf")
    assert verdict.identical is False
    assert 0 < verdict.difference < 0.02


def test_a_weight_beyond_fp16_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    state = own_state(small_config())
    state["projection.weight"][3, 3] = 70_000.0
    source = write_own(tmp_path / "own", small_config(), state)
    with pytest.raises(ArtifactError, match=r"projection\.weight reaches 7e\+04, fp16 ends at 65504; use bf16"):
        convert(source, tmp_path / "out", to="hf", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_progress_ends_at_the_bytes_that_there_are(own: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = convert(own, tmp_path / "hf", to="hf", progress=lambda *both: told.append(both))
    assert told[-1] == (done.nbytes, done.nbytes)
    assert [first for first, _ in told] == sorted(first for first, _ in told)


@pytest.mark.parametrize("wrap", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_a_ckpt_pt_is_unwrapped(tmp_path: Path, own: Path, wrap: str | None, prefix: str) -> None:
    """With a mask that Sesame's program stores, a transposed and a shared storage, and things that are no tensors."""
    convert(own, tmp_path / "sesame", to="sesame")
    state: dict[str, Any] = {
        prefix + name: tensor for name, tensor in load_file(tmp_path / "sesame" / "model.safetensors").items()
    }
    name = f"{prefix}projection.weight"
    state[name] = state[name].t().contiguous().t()
    both = torch.cat([state[f"{prefix}text_embeddings.weight"], torch.zeros(3, 256)])
    state[f"{prefix}text_embeddings.weight"] = both[:-3]
    state[f"{prefix}backbone_causal_mask"] = torch.ones(8, 8, dtype=torch.bool)
    torch.save({wrap: state, "step": 7} if wrap else state, tmp_path / "sesame" / "ckpt.pt")
    (tmp_path / "sesame" / "model.safetensors").unlink()
    found = open_checkpoint(tmp_path / "sesame")
    assert found.layout == "sesame"
    assert found.derived == ("backbone_causal_mask",)
    assert verify(tmp_path / "sesame", own).identical
    loaded = load_model(tmp_path / "sesame").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in own_state(small_config()).items())


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "config": small_config()}, tmp_path / "ckpt.pt")
    with pytest.raises(ArtifactError, match="cannot be read as weights only"):
        open_checkpoint(tmp_path / "ckpt.pt")


def test_without_config_json_sizes_are_told_from_the_tensors(own: Path, tmp_path: Path) -> None:
    """As Miso's checkpoint comes."""
    convert(own, tmp_path / "miso", to="sesame")
    (tmp_path / "miso" / "config.json").unlink()
    assert read_sizes(tmp_path / "miso") == small_config()
    assert "no config.json" in describe(tmp_path / "miso").unusual[0]


def test_layouts_are_told_apart_by_their_tensors(own: Path, tmp_path: Path) -> None:
    """One folder may hold Sesame's file and Hugging Face's shards, with one config.json for both."""
    convert(own, tmp_path / "hf", to="hf", shard_bytes=400_000)
    convert(own, tmp_path / "both", to="sesame")
    for path in (tmp_path / "hf").iterdir():
        if path.name.startswith("model-"):
            path.rename(tmp_path / "both" / path.name)
    (tmp_path / "hf" / "model.safetensors.index.json").rename(tmp_path / "both" / "transformers.safetensors.index.json")
    config = read_json(tmp_path / "hf" / "config.json") | read_json(tmp_path / "both" / "config.json")
    write_json(tmp_path / "both" / "config.json", config)
    assert open_checkpoint(tmp_path / "both").layout == "sesame"
    shards = tmp_path / "both" / "transformers.safetensors.index.json"
    assert open_checkpoint(shards).layout == "hf"
    assert verify(tmp_path / "both", shards).identical


def test_a_model_is_laid_over_the_files_pages(own: Path) -> None:
    before = (own / "model.safetensors").read_bytes()
    model = load_model(own)
    assert not model.training
    state = own_state(small_config())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    fresh = CsmModel(small_config())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), fresh.buffers(), strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (own / "model.safetensors").read_bytes() == before
    assert all(p.dtype == torch.bfloat16 for p in load_model(own, dtype=torch.bfloat16).parameters())


def test_a_bundle_is_a_checkpoint_and_a_converted_folder_is_read_like_one(bundle_folder: Path, tmp_path: Path) -> None:
    convert(bundle_folder, tmp_path / "hf", to="hf")
    convert(tmp_path / "hf", tmp_path / "csm", to="csm")
    assert read_config(tmp_path / "csm") == read_config(bundle_folder)
    theirs = load_weights(CsmModel(read_config(bundle_folder)), bundle_folder, "fp32").state_dict()
    ours = load_weights(CsmModel(read_config(tmp_path / "csm")), tmp_path / "csm", "fp32").state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_the_digest_is_the_same_in_every_layout_and_another_for_other_weights(own: Path, tmp_path: Path) -> None:
    digests = {weights_digest(open_checkpoint(own))}
    for layout in LAYOUTS:
        convert(own, tmp_path / layout, to=layout)
        digests.add(weights_digest(open_checkpoint(tmp_path / layout)))
    assert len(digests) == 1
    state = own_state(small_config())
    state["audio_head"][0, 0, 0] += 1.0
    assert weights_digest(open_checkpoint(write_own(tmp_path / "other", small_config(), state))) not in digests


def spoil(state: dict[str, Tensor], how: str) -> None:
    if how == "missing":
        del state["backbone.layers.1.mlp.w2.weight"]
    elif how == "extra":
        state["backbone.layers.2.mlp.w2.weight"] = torch.ones(2)
    elif how == "shape":
        state["projection.weight"] = torch.ones(3, 3)
    elif how == "nan":
        state["decoder.norm.weight"][5] = float("nan")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"backbone\.layers\.1\.mlp\.w2\.weight is missing"),
        ("extra", r"backbone\.layers\.2\.mlp\.w2\.weight belongs to no model"),
        ("shape", r"projection\.weight has the shape \[3, 3\], not \[128, 256\]"),
        ("nan", r"decoder\.norm\.weight is not finite everywhere"),
    ],
)
def test_verify_says_what_is_wrong(tmp_path: Path, how: str, words: str) -> None:
    state = own_state(small_config())
    spoil(state, how)
    with pytest.raises(ArtifactError, match=words):
        verify(write_own(tmp_path / "own", small_config(), state))


def test_verify_finds_one_changed_bit_in_another_layout(own: Path, tmp_path: Path) -> None:
    convert(own, tmp_path / "hf", to="hf")
    state = copied(tmp_path / "hf" / "model.safetensors")
    name = "depth_decoder.model.layers.1.self_attn.k_proj.weight"
    state[name][7, 7] = torch.nextafter(state[name][7, 7], torch.tensor(9.0))
    save_file(state, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"decoder\.layers\.1\.attn\.k_proj\.weight differs, by up to"):
        verify(own, tmp_path / "hf")


def test_verify_tells_rounding_from_a_change_between_two_dtypes(own: Path, tmp_path: Path) -> None:
    convert(own, tmp_path / "half", to="csm", dtype=torch.bfloat16)
    assert verify(tmp_path / "half", own).identical is False
    state = copied(tmp_path / "half" / "model.safetensors")
    state["audio_head"][1, 2, 3] += 0.25
    save_file(state, tmp_path / "half" / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"audio_head differs, by up to 0\.2"):
        verify(own, tmp_path / "half")
    assert verify(own, tmp_path / "half", tolerance=0.3).difference > 0.2


def test_verify_refuses_models_of_two_sizes(own: Path, bundle_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="not models of the same sizes"):
        verify(own, bundle_folder)


def test_a_file_that_is_cut_short_is_noticed(own: Path) -> None:
    data = (own / "model.safetensors").read_bytes()
    for cut, words in ((len(data) - 1, "cut short"), (20, "cut short"), (5, "cut short")):
        (own / "model.safetensors").write_bytes(data[:cut])
        with pytest.raises(ArtifactError, match=words):
            open_checkpoint(own)
    (own / "model.safetensors").write_bytes(data[:8] + b"x" + data[9:])
    with pytest.raises(ArtifactError, match="invalid JSON in header"):
        open_checkpoint(own)


def test_a_missing_shard_is_named(own: Path, tmp_path: Path) -> None:
    done = convert(own, tmp_path / "hf", to="hf", shard_bytes=400_000)
    (tmp_path / "hf" / done.files[1]).unlink()
    with pytest.raises(ArtifactError, match=f"{done.files[1]}: named by model.safetensors.index.json but missing"):
        open_checkpoint(tmp_path / "hf")


def test_what_cannot_be_is_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no weights there"):
        open_checkpoint(tmp_path / "empty")
    with pytest.raises(InputError, match="is there already"):
        convert(own, tmp_path / "empty", to="hf")
    with pytest.raises(InputError, match="only a Hugging Face checkpoint holds a codec"):
        convert(own, tmp_path / "out", to="sesame", codec=own)
    with pytest.raises(InputError, match=r"one model\.safetensors"):
        convert(own, tmp_path / "out", to="sesame", shard_bytes=1)
    with pytest.raises(ArtifactError, match="not Mimi's weights"):
        convert(own, tmp_path / "out", to="hf", codec=own)
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match="no model of the CSM family"):
        open_checkpoint(tmp_path / "a.safetensors")
    (own / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"no config\.json of it beside them"):
        open_checkpoint(own)
    assert not (tmp_path / "out").exists()


def test_int8_weights_are_shown_and_not_converted(bundle_folder: Path, tmp_path: Path) -> None:
    from csm_model.quantize import rounded_state

    model = load_model(bundle_folder)
    state = {name: tensor.contiguous() for name, tensor in rounded_state(model, "int8").items()}
    folder = write_own(tmp_path / "int8", model.config, state)
    assert "int8 weights" in describe(folder).unusual[0]
    with pytest.raises(ArtifactError, match="its weights are int8"):
        convert(folder, tmp_path / "out", to="hf")


def test_the_codec_goes_with_hugging_faces_layout_only(own: Path, tmp_path: Path) -> None:
    convert(own, tmp_path / "hf", to="hf")
    state = copied(tmp_path / "hf" / "model.safetensors")
    state[f"{CODEC}quantizer.x"] = torch.arange(5.0)
    save_file(state, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    config = read_json(tmp_path / "hf" / "config.json")
    write_json(tmp_path / "hf" / "config.json", config | {"codec_config": {"model_type": "mimi", "hidden_size": 7}})
    write_json(tmp_path / "hf" / "preprocessor_config.json", {"sampling_rate": 24_000})
    assert convert(tmp_path / "hf", tmp_path / "csm", to="csm").codec == "left out"
    assert convert(tmp_path / "hf", tmp_path / "hf2", to="hf", dtype=torch.bfloat16).codec == "kept"
    kept = load_file(tmp_path / "hf2" / "model.safetensors")[f"{CODEC}quantizer.x"]
    assert torch.equal(kept, torch.arange(5.0)), "a codec keeps its dtype"
    assert read_json(tmp_path / "hf2" / "config.json")["codec_config"]["hidden_size"] == 7
    assert (tmp_path / "hf2" / "preprocessor_config.json").exists()
    assert convert(tmp_path / "csm", tmp_path / "hf3", to="hf", codec=tmp_path / "hf").codec == "added"
    assert read_json(tmp_path / "hf3" / "config.json")["codec_config"]["hidden_size"] == 7
