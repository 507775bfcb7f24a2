"""Bundles, codecs and bases that are broken though their digests are right: refused in one line, never spoken with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import damage
import pytest
import torch
from damage import Way
from safetensors.torch import save_file

from csm_model.bundle import Bundle, load_bundle, load_weights, read_config, write_bundle
from csm_model.codec import RvqCodec, load_codec
from csm_model.errors import ArtifactError, CsmError
from csm_model.files import digest_of, digest_of_file, read_json, write_json
from csm_model.manifest import Precision
from csm_model.model import CsmModel
from csm_model.tensor_files import load_pickle

SEEDS = 12
SIZES = [
    ("backbone", "layers"), ("backbone", "heads"), ("depth", "rope_base"), ("depth", "norm_eps"), ("text_vocab_size",),
    ("num_codebooks",), ("codebook_size",), ("max_rows",), ("backbone",), ("end",),
]  # fmt: skip


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8", "int4"])
def good(request: pytest.FixtureRequest, bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle of each kind of weights."""
    bundle = load_bundle(bundle_folder, kernels=False)
    folder = tmp_path_factory.mktemp("good") / request.param
    info = {"sampling": {"temperature": 0.5}, "speakers": {"0": "ann"}}
    return _written(folder, bundle, bundle_folder, request.param, info)


def _written(folder: Path, bundle: Bundle, parent: Path, precision: Precision, info: dict[str, object]) -> Path:
    write_bundle(
        folder,
        model=bundle.model,
        tokenizer=bundle.tokenizer,
        codec_folder=parent / "codec",
        precision=precision,
        info=info,
    )
    return folder


def sealed(folder: Path) -> None:
    """The manifest names the digests of the files as they are: someone made this bundle so, and no copy damaged it."""
    manifest = read_json(folder / "manifest.json")
    files = {name: digest_of_file(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", {**manifest, "files": files, "digest": digest_of(files)})


def broken(good: Path, tmp_path: Path, way: Way, *, seeds: int = SEEDS) -> Iterator[tuple[Path, str]]:
    for seed in range(seeds):
        folder = tmp_path / str(seed)
        shutil.copytree(good, folder)
        yield folder, f"seed {seed}: {way(folder, Random(seed))}"
        shutil.rmtree(folder)


def refusal(error: BaseException, said: str) -> None:
    assert isinstance(error, CsmError), (said, error)
    assert "\n" not in str(error), said
    assert len(str(error)) < 1500, said


def scale_changed(folder: Path, random: Random) -> str:
    """Of rounded weights: a scale is no number, away, another's, or too many; of others, a weight has one."""
    state = damage.content(folder / "model.safetensors")
    assert state is not None
    scales = [name for name in sorted(state) if name.endswith(".scale")]
    if not scales:
        state["projection.weight.scale"] = torch.ones(len(state["projection.weight"]))
        said = "a scale of a weight that is not rounded"
    else:
        name = random.choice(scales)
        how = random.choice(["nan", "inf", "gone", "longer", "float64", "of a norm"])
        said = f"{name}: {how}"
        if how in ("nan", "inf"):
            state[name].view(-1)[random.randrange(state[name].numel())] = float(how)
        elif how == "gone":
            del state[name]
        elif how == "longer":
            state[name] = torch.cat([state[name], state[name]])
        elif how == "float64":
            state[name] = state[name].double()
        else:
            state["backbone.norm.weight.scale"] = torch.ones(1)
    save_file(state, folder / "model.safetensors")
    return said


def values_too_large(folder: Path, random: Random) -> str:
    """All are numbers, and no speech can come of them."""
    state = damage.content(folder / "model.safetensors")
    assert state is not None
    for name, tensor in state.items():
        if tensor.dtype in (torch.float32, torch.bfloat16) and "embeddings" not in name:
            state[name] = torch.full_like(tensor, random.choice([1e38, -1e38]))
    save_file(state, folder / "model.safetensors")
    return "numbers beyond all sums"


def manifest_changed(folder: Path, random: Random) -> str:
    return damage.json_changed(
        folder,
        random,
        "manifest.json",
        [("files",), ("precision",), ("codec_digest",), ("sampling", "temperature"), ("sampling", "top_k")],
    )


WAYS: dict[str, Way] = {
    "entry": damage.entry_changed,
    "twice": damage.twice,
    "encoding": damage.another_encoding,
    "another file": damage.another_file,
    "values": damage.value_changed,
    "tensors": damage.tensors_changed,
    "scales": scale_changed,
    "too large": values_too_large,
    "sizes": lambda folder, random: damage.json_changed(folder, random, "config.json", SIZES),
    "no sizes": damage.json_broken,
    "codec": lambda folder, random: damage.json_broken(folder, random, "codec/codec.json"),
    "codec's weights": lambda folder, random: damage.cut_short(folder, random, "codec/codec.safetensors"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_bundle_that_was_made_broken_is_refused(good: Path, tmp_path: Path, way: str) -> None:
    for folder, said in broken(good, tmp_path, WAYS[way], seeds=2 if way == "too large" else SEEDS):
        sealed(folder)
        with pytest.raises(Exception) as raised:  # noqa: PT011 - of what type is the question
            load_bundle(folder, kernels=False)
        refusal(raised.value, said)


def test_a_broken_manifest_is_refused(good: Path, tmp_path: Path) -> None:
    for folder, said in broken(good, tmp_path, manifest_changed, seeds=30):
        with pytest.raises(Exception) as raised:  # noqa: PT011
            load_bundle(folder, kernels=False)
        refusal(raised.value, said)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "config.json/../../x", "a\nb"])
def test_a_manifest_names_files_of_its_folder_only(good: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(good, tmp_path / "bundle")
    manifest = read_json(tmp_path / "bundle/manifest.json")
    write_json(tmp_path / "bundle/manifest.json", {**manifest, "files": {**manifest["files"], name: "0" * 64}})
    with pytest.raises(ArtifactError, match="is no file of the bundle with its digest"):
        load_bundle(tmp_path / "bundle", kernels=False)


def test_a_base_is_looked_at_as_a_bundle_is(bundle_folder: Path, tmp_path: Path) -> None:
    for way in (damage.entry_changed, damage.value_changed, damage.tensors_changed):
        for folder, said in broken(bundle_folder, tmp_path, way):
            with pytest.raises(Exception) as raised:  # noqa: PT011
                load_weights(CsmModel(read_config(folder)), folder, "fp32")
            refusal(raised.value, said)


CODEC_SIZES = ("num_codebooks", "codebook_size", "latent_dim", "mel_bins", "encoder_channels", "decoder_depth")


@pytest.mark.parametrize("seed", range(40))
def test_a_broken_codec_is_refused(codec_folder: Path, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    folder = tmp_path / "codec"
    shutil.copytree(codec_folder, folder)
    (folder / "codec.safetensors").rename(folder / damage.WEIGHTS)
    ways: list[Way] = [
        damage.entry_changed, damage.value_changed, damage.tensors_changed, damage.another_file, damage.cut_short,
        lambda folder, random: damage.json_changed(
            folder, random, "codec.json",
            [("kind",), ("digest",), ("config",), *(("config", each) for each in CODEC_SIZES)],
        ),
    ]  # fmt: skip
    said = ways[seed % len(ways)](folder, random)
    (folder / damage.WEIGHTS).rename(folder / "codec.safetensors")
    with pytest.raises(Exception) as raised:  # noqa: PT011
        load_codec(folder)
    refusal(raised.value, said)


def test_a_codec_whose_sizes_no_weight_has_is_given_no_memory(codec_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(codec_folder, tmp_path / "codec")
    stored = json.loads((tmp_path / "codec/codec.json").read_text())
    stored["config"] |= {"decoder_channels": 4096, "encoder_channels": 4096, "frame_channels": 4096}
    write_json(tmp_path / "codec/codec.json", stored)
    with pytest.raises(ArtifactError, match="not those of this version's RvqCodec"):
        RvqCodec.load(tmp_path / "codec")


def test_what_torch_saved_is_read_whole_or_refused(tmp_path: Path) -> None:
    """The door of a codec's training, of a watermark's network and of whoever else reads such a file."""
    good = tmp_path / "good"
    good.mkdir()
    torch.save({"step": 7, "w": torch.arange(300.0)}, good / "ckpt.pt")
    assert load_pickle(good / "ckpt.pt")["step"] == 7
    turned: Way = lambda folder, random: damage.bits_turned(folder, random, "ckpt.pt")  # noqa: E731
    for folder, said in broken(good, tmp_path, turned, seeds=60):
        try:
            found = load_pickle(folder / "ckpt.pt")
        except CsmError as error:
            refusal(error, said)
        else:
            assert found["step"] == 7, said
            assert torch.equal(found["w"], torch.arange(300.0)), said
