"""A bundle of random weights, its sound nonsense and its arithmetic true; a real Triton that serves it; a stand-in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from random_bundles import random_bundle
from stand_in import SOON, Hear, Heard, StandIn
from waiting import HANG_S

from csm_model.text import train_bpe
from csm_serving.client import SpeechClient
from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.launcher.triton import LocalTriton
from csm_serving.settings import load_settings

SLOTS = 3


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    return random_bundle


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Shut until the test opens it: what `held_back` keeps of a stream's text keeps that stream alive."""
    event = threading.Event()
    yield event
    event.set()


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
        ready_timeout_s=HANG_S,
        text_timeout_s=HANG_S,
        max_wait_s=HANG_S,
        exit_timeout_s=20,
    )
    with LocalTriton(bundle, settings=settings) as running:
        yield running


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[SpeechClient]:
    with SpeechClient(triton.url) as connected:
        yield connected


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn().start()
    yield stand_in
    stand_in.stop()


@pytest.fixture(params=["threads", "asyncio"])
def hear(request: pytest.FixtureRequest) -> Hear:
    """Takes a stream to its end with one client or the other; what was heard before an error is in `into`."""

    def by_threads(url: Any, text: Any, into: Heard | None = None, asked: Any = None, **options: Any) -> Heard:
        heard = into or Heard()
        with SpeechClient(url, **{"retry": SOON} | options) as client:
            stream = client.stream(text, **asked or {})
            try:
                heard.chunks.extend(stream)
            finally:
                heard.retries, heard.end = stream.retries, stream.end
                stream.close()
        return heard

    async def by_asyncio(url: Any, text: Any, into: Heard | None = None, asked: Any = None, **options: Any) -> Heard:
        heard = into or Heard()
        async with (
            AsyncSpeechClient(url, **{"retry": SOON} | options) as client,
            client.stream(text, **asked or {}) as stream,
        ):
            try:
                async for chunk in stream:
                    heard.chunks.append(chunk)
            finally:
                heard.retries, heard.end = stream.retries, stream.end
        return heard

    if request.param == "threads":
        return by_threads
    return lambda *args, **kwargs: asyncio.run(by_asyncio(*args, **kwargs))
