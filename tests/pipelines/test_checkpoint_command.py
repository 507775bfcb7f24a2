"""`csm checkpoint`: both ways, in words, and what is wrong in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import CONFIGS
from csm_model.files import read_json, write_json
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer

Csm = Callable[..., Any]


def copied(path: Path) -> dict[str, Tensor]:
    """The tensors of a file in memory of their own, so that the file may be written again."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CsmModel(CONFIGS["csm-30m"](text_vocab_size=50, num_codebooks=3, codebook_size=16))
    write_json(tmp_path / "own" / "config.json", asdict(model.config))
    save_file(model.state_dict(), tmp_path / "own" / "model.safetensors")
    return tmp_path / "own"


def test_there_and_back_and_the_same_bits(csm: Csm, own: Path) -> None:
    there = csm("checkpoint", "convert", own, "hf", "--to", "hf", "--shard-gb", "0.005")
    assert there.status == 0, there
    assert "convert again with --codec" in there.out
    assert "\r" not in there.err
    back = csm("checkpoint", "convert", "hf", "back", "--to", "csm")
    assert back.status == 0, back
    assert "codec" not in back.out
    alike = csm("checkpoint", "verify", own, "back")
    assert (alike.status, "the same bits" in alike.out) == (0, True), alike
    rounded = csm("checkpoint", "convert", own, "half", "--to", "sesame", "--dtype", "bf16")
    assert rounded.status == 0, rounded
    assert "the same but for rounding" in csm("checkpoint", "verify", own, "half").out


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_checkpoint_becomes_a_bundle_and_speaks(csm: Csm, own: Path, precision: str) -> None:
    torch.manual_seed(0)
    codec = RvqCodec(RvqConfig.debug()).eval()
    codec.save(Path("codec"))
    PhonemeTokenizer().save(Path("tokenizer.json"))
    sizes = CONFIGS["csm-30m"](
        text_vocab_size=PhonemeTokenizer().vocab_size, num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
    )  # fmt: skip
    write_json(Path("fits/config.json"), asdict(sizes))
    save_file(CsmModel(sizes).bfloat16().state_dict(), "fits/model.safetensors")
    parts = ("--tokenizer", "tokenizer.json", "--codec", "codec", "--precision", precision)
    made = csm("checkpoint", "bundle", "fits", "bundle", *parts)
    assert made.status == 0, made
    assert f", {precision}" in made.out
    spoken = csm("say", "Hi.", "--bundle", "bundle", "--out", "hi.wav")
    assert spoken.status == 0, spoken
    assert soundfile.info("hi.wav").frames % 1920 == 0
    assert soundfile.info("hi.wav").frames > 0
    refused = csm("checkpoint", "bundle", own, "other", *parts)
    assert refused.status == 2
    assert "codebooks, the model needs 3; give the codec of its codes" in refused.err
    assert not Path("other").exists()


def test_inspect_shows_what_it_is(csm: Csm, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    csm("checkpoint", "convert", own, "hf", "--to", "hf")
    shown = csm("checkpoint", "inspect", "hf")
    assert shown.status == 0, shown
    for words in ("Hugging Face's", "csm-30m", "Llama 3's scaling by 32", "float32", "model.safetensors", "no codec"):
        assert words in shown.out
    digest = next(line.split()[-1] for line in shown.out.splitlines() if line.startswith("digest"))
    assert digest in csm("checkpoint", "inspect", own).out
    assert "digest" not in csm("checkpoint", "inspect", own, "--no-digest").out


def test_a_changed_weight_ends_verify_with_2_and_one_line(csm: Csm, own: Path) -> None:
    csm("checkpoint", "convert", own, "other", "--to", "csm")
    state = copied(Path("other/model.safetensors"))
    state["projection.weight"][0, 0] += 1.0
    save_file(state, "other/model.safetensors")
    outcome = csm("checkpoint", "verify", own, "other")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "projection.weight differs, by up to 1" in outcome.err


def test_a_null_rope_scaling_is_refused_until_it_is_said(csm: Csm, own: Path) -> None:
    csm("checkpoint", "convert", own, "hf", "--to", "hf")
    stored = read_json(Path("hf/config.json"))
    write_json(Path("hf/config.json"), {**stored, "rope_scaling": None})
    refused = csm("checkpoint", "convert", "hf", "out", "--to", "csm")
    assert refused.status == 2
    assert "--assume-llama3-rope" in refused.err
    assert csm("checkpoint", "convert", "hf", "out", "--to", "csm", "--assume-llama3-rope").status == 0
    assert read_json(Path("out/config.json")) == read_json(own / "config.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nowhere"], "no such file or folder"),
        (["convert", "nowhere", "out", "--to", "onnx"], "to 'onnx': there are csm, sesame, hf"),
        (["convert", "nowhere", "out", "--to", "hf", "--dtype", "int4"], "dtype 'int4': there are fp32, bf16, fp16"),
        (["verify", "x", "--assume-llama3-rope", "--assume-plain-rope"], "exclude each other"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_2(csm: Csm, arguments: list[str], words: str) -> None:
    outcome = csm("checkpoint", *arguments)
    assert outcome.status == 2, outcome
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
