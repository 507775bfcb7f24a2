"""A bundle of random weights, its sound nonsense and its arithmetic true, and a real Triton that serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from csm_model.bundle import write_bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer, Tokenizer, train_bpe
from csm_serving.client import SpeechClient
from csm_serving.settings import load_settings
from csm_serving.triton import LocalTriton

SLOTS = 3


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    return random_bundle


@pytest.fixture
def slow_bundle(tmp_path: Path) -> Path:
    """Many times the layers: a long stream outlasts a grace of seconds on any machine."""
    return random_bundle(tmp_path, layers=100)


@pytest.fixture(params=["sesame", "miso"])
def bpe_bundle(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Text is cut by a BPE that was trained on a sentence."""
    tokenizer = train_bpe(["Good morning, how are you?"] * 9, vocab_size=290, num_speakers=2, prompt=request.param)
    return random_bundle(tmp_path, tokenizer=tokenizer)


def random_bundle(folder: Path, *, layers: int = 2, tokenizer: Tokenizer | None = None, seed: int = 7) -> Path:
    """Two speakers, 4 codebooks of 32; guided, so that both rows of a guided batch are served."""
    torch.manual_seed(seed)
    config = RvqConfig.debug()
    codec = RvqCodec(config)
    codec.save(folder / "codec")
    tokenizer = tokenizer or PhonemeTokenizer(num_speakers=2)
    sizes = debug_config(
        text_vocab_size=tokenizer.vocab_size,
        num_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
    )
    sizes = replace(sizes, text_prefix=tokenizer.text_prefix)
    model = CsmModel(replace(sizes, backbone=replace(sizes.backbone, layers=layers)))
    for parameter in model.parameters():
        parameter.data *= 8  # random weights of the usual size give one distribution whatever is asked
    model.codebook0_head.weight.data[model.config.end_code] = 0.0  # never the likeliest: a greedy stream does not end
    write_bundle(
        folder / "bundle",
        model=model,
        tokenizer=tokenizer,
        codec_folder=folder / "codec",
        precision="fp32",
        info={"speakers": {"0": "heart", "1": "kumo"}, "sampling": {"temperature": 0.9, "guidance": 1.5, "top_k": 10}},
    )
    return folder / "bundle"


@pytest.fixture(scope="session")
def triton(bundle: Path) -> Iterator[LocalTriton]:
    settings = load_settings(
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        slots=SLOTS,
        frame_budget=0,  # a test refuses nobody because the machine is busy
        ready_timeout_s=300,
        exit_timeout_s=20,
    )
    with LocalTriton(bundle, settings=settings) as running:
        yield running


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[SpeechClient]:
    with SpeechClient(triton.url) as connected:
        yield connected
