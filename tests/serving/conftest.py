"""A bundle of random weights, its sound nonsense and its arithmetic true, and a real Triton that serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from random_bundles import random_bundle

from csm_model.text import train_bpe
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
