"""Images, built once a session where root and the programs allow."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import containers
import pytest
from containers import Running


@pytest.fixture(scope="session")
def base() -> None:
    if reason := containers.missing():
        pytest.skip(reason)
    if reason := containers.make_base():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the builds leave bills and values."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="session")
def image_of(base: None, out: Path) -> Callable[[str], str]:
    """Builds a target, once; returns the image by its digest."""
    built: dict[str, str] = {}

    def build(target: str) -> str:
        if target not in built:
            built[target] = containers.build_image(target, out)
        return built[target]

    return build


@pytest.fixture
def run_container() -> Iterator[Callable[..., Running]]:
    """Starts containers that are gone when the test is over."""

    @contextmanager
    def started(image: str, *command: str, **given: Any) -> Iterator[Running]:
        name = f"csm-test-{uuid.uuid4().hex[:8]}"
        options = ("--detach", "--name", name, *given.pop("options", ()))
        containers.output(*containers.as_pod(image, *command, options=options, **given))
        try:
            yield Running(name=name)
        finally:
            containers.output("podman", "rm", "--force", "--time", "5", name)

    with ExitStack() as stack:
        yield lambda image, *command, **given: stack.enter_context(started(image, *command, **given))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights and two speakers, which anybody may read."""
    import torch

    from csm_model.bundle import write_bundle
    from csm_model.codec import RvqCodec
    from csm_model.config import debug_config
    from csm_model.model import CsmModel
    from csm_model.text import PhonemeTokenizer
    from csm_pipelines.tiny import random_codec

    folder = tmp_path_factory.mktemp("bundle")
    codec = RvqCodec.load(random_codec(folder / "codec"))
    tokenizer = PhonemeTokenizer()
    config = debug_config(
        text_vocab_size=tokenizer.vocab_size, num_codebooks=codec.num_codebooks, codebook_size=codec.codebook_size
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CsmModel(config).eval()
    model.codebook0_head.weight.data[config.end_code] = 0.0  # never the likeliest: a stream is as long as it may be
    write_bundle(
        folder / "bundle",
        model=model,
        tokenizer=tokenizer,
        codec_folder=folder / "codec",
        precision="fp32",
        info={"speakers": {"0": "heart", "1": "kumo"}},
    )
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder / "bundle"
