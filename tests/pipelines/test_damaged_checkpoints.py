"""500 broken checkpoints: `csm checkpoint` says in one line what is wrong, and ends with 2; none is called whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import damage
import pytest
import torch
from damage import Way
from safetensors import SafetensorError, safe_open

from csm_model.checkpoints import convert
from csm_model.files import read_json

Csm = Callable[..., Any]

PARTS = ("backbone", "depth")
OWN_SIZES = [
    *((part, name) for part in PARTS for name in ("layers", "dim", "heads", "kv_heads", "ffn_dim", "rope_base")),
    *((part, "rope_scaling", name) for part in PARTS for name in ("factor", "low", "high", "original_rows")),
    *((name,) for name in (*PARTS, "text_vocab_size", "num_codebooks", "codebook_size", "max_rows", "end")),
    ("backbone", "norm_eps"), ("backbone", "dropout"), ("text_prefix",), ("unknown",), ("depth", "unknown"),
]  # fmt: skip
OF_PART = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "rms_norm_eps", "rope_theta", "rope_scaling", "hidden_act",
)  # fmt: skip
OF_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "rope_type")
DEPTH = "depth_decoder_config"
INDEX = "model.safetensors.index.json"
HF_SIZES = [
    *((*part, name) for part in ((), (DEPTH,)) for name in OF_PART),
    *((*part, "rope_scaling", name) for part in ((), (DEPTH,)) for name in OF_SCALING),
    *((name,) for name in ("num_codebooks", "vocab_size", "text_vocab_size", "max_position_embeddings", DEPTH)),
    *((DEPTH, name) for name in ("num_codebooks", "vocab_size", "backbone_hidden_size")), ("codebook_eos_token_id",),
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model: this program's, Hugging Face's in one file and in shards, and Sesame's as `torch.save` writes it."""
    root = tmp_path_factory.mktemp("good")
    damage.write_small(root / "own")
    convert(root / "own", root / "hf", to="hf")
    convert(root / "own", root / "shards", to="hf", shard_bytes=10_000)
    convert(root / "own", root / "pt", to="sesame")
    (root / "pt" / "model.safetensors").unlink()
    convert(root / "own", root / "sesame", to="sesame")
    tensors = damage.content(root / "sesame" / "model.safetensors")
    torch.save(tensors, root / "pt" / "ckpt.pt")
    return root


def index_changed(folder: Path, random: Random) -> str:
    """A shard of any type or name, a tensor in another shard or in none, no map."""
    path = folder / INDEX
    stored = read_json(path)
    places = stored["weight_map"]
    name = random.choice(sorted(places))
    others = sorted(set(places.values()) - {places[name]})
    value = random.choice([
        *damage.JUNK, random.choice(others), "../hf/model.safetensors", str(folder.parent / "x.safetensors"), ".",
        "a\0b",
    ])  # fmt: skip
    if random.random() < 0.2:
        stored["weight_map"] = value = random.choice([*damage.JUNK, [places]])
    elif random.random() < 0.1:
        places["a tensor that is nowhere"] = places[name]
    else:
        places[name] = value
    path.write_text(json.dumps(stored))
    return f"{name} in {value!r}"


def shard_changed(folder: Path, random: Random) -> str:
    """One shard is away, or another's bytes."""
    shards = sorted(folder.glob("model-*.safetensors"))
    one, other = random.sample(shards, 2)
    if random.random() < 0.5:
        one.unlink()
        return f"{one.name} is away"
    shutil.copyfile(other, one)
    return f"{one.name} is {other.name}"


WAYS: dict[str, tuple[int, str, Way]] = {
    "bits": (40, "own", damage.bits_turned),
    "header bits": (60, "own", damage.header_bits_turned),
    "cut": (20, "own", damage.cut_short),
    "grown": (5, "own", damage.grown),
    "entry": (60, "own", damage.entry_changed),
    "junk entry": (25, "own", damage.entry_is_junk),
    "twice": (10, "own", damage.twice),
    "encoding": (15, "own", damage.another_encoding),
    "length": (15, "own", damage.another_length),
    "another file": (15, "own", damage.another_file),
    "values": (25, "hf", damage.value_changed),
    "tensors": (30, "own", damage.tensors_changed),
    "sizes": (60, "own", lambda folder, random: damage.json_changed(folder, random, "config.json", OWN_SIZES)),
    "sizes of Hugging Face": (
        60, "hf", lambda folder, random: damage.json_changed(folder, random, "config.json", HF_SIZES),
    ),
    "no sizes": (10, "hf", damage.json_broken),
    "index": (25, "shards", index_changed),
    "no index": (10, "shards", lambda folder, random: damage.json_broken(folder, random, INDEX)),
    "shards": (10, "shards", shard_changed),
    "pickle": (45, "pt", damage.pickle_broken),
    "bits of a pickle": (40, "pt", lambda folder, random: damage.bits_turned(folder, random, "ckpt.pt")),
    "cut pickle": (20, "pt", lambda folder, random: damage.cut_short(folder, random, "ckpt.pt")),
}  # fmt: skip
"""How often, of what, and which way."""
MAY_BE_WHOLE = ("bits", "header bits", "bits of a pickle", "entry", "junk entry")
"""Ways that may leave a model: what their libraries make of the file decides."""


def broken(good: Path, tmp_path: Path, ways: str) -> Iterator[tuple[Path, str]]:
    """Copies of a whole checkpoint, each broken once in this way, and what was done."""
    count, source, way = WAYS[ways]
    for seed in range(count):
        folder = tmp_path / f"{ways}-{seed}"
        shutil.copytree(good / source, folder)
        said = way(folder, Random(f"{ways} {seed}"))
        yield folder, f"seed {seed}: {said}"
        assert not (folder / "ran").exists(), said
        shutil.rmtree(folder)


def still_whole(folder: Path, ways: str, good: Path) -> bool:
    if ways not in MAY_BE_WHOLE:
        return False
    name = "ckpt.pt" if (folder / "ckpt.pt").exists() else "model.safetensors"
    state = damage.content(good / WAYS[ways][1] / name)
    assert state is not None
    return damage.speaks(damage.content(folder / name), state, exact=name == "ckpt.pt")


def test_there_are_500_of_them() -> None:
    assert sum(count for count, _, _ in WAYS.values()) >= 500


@pytest.mark.parametrize("ways", WAYS)
def test_a_broken_checkpoint_is_one_line_and_never_whole(csm: Csm, good: Path, tmp_path: Path, ways: str) -> None:
    wrong = []
    for folder, said in broken(good, tmp_path, ways):
        outcome = csm("checkpoint", "verify", folder)
        if outcome.status == 0 and still_whole(folder, ways, good):
            continue
        if outcome.status != 2 or outcome.err.count("\n") != 1 or "whole" in outcome.out or len(outcome.err) > 1000:
            wrong.append((said, outcome))
    assert not wrong


@pytest.mark.parametrize("ways", ["header bits", "entry", "twice", "encoding", "grown", "cut"])
def test_what_safetensors_refuses_is_refused(good: Path, tmp_path: Path, csm: Csm, ways: str) -> None:
    """By every command that reads weights, not by verify alone."""
    refused = 0
    for number, (folder, said) in enumerate(broken(good, tmp_path, ways)):
        try:
            with safe_open(folder / "model.safetensors", "pt"):
                continue
        except (SafetensorError, OSError):
            refused += 1
        for arguments in (("inspect", folder), ("convert", folder, "out", "--to", "hf"))[: 1 + (number % 4 == 0)]:
            outcome = csm("checkpoint", *arguments)
            assert (outcome.status, outcome.err.count("\n")) == (2, 1), (said, outcome)
            assert not Path("out").exists()
    assert refused


@pytest.mark.parametrize("ways", ["values", "tensors", "sizes", "pickle"])
def test_inspect_and_convert_refuse_it_too(good: Path, tmp_path: Path, csm: Csm, ways: str) -> None:
    for number, (folder, said) in enumerate(broken(good, tmp_path, ways)):
        if number % 3:
            continue
        for arguments in (("inspect", folder), ("convert", folder, "out", "--to", "csm")):
            outcome = csm("checkpoint", *arguments)
            assert (outcome.status, outcome.err.count("\n")) == (2, 1), (said, outcome)
            assert not Path("out").exists()
