"""A small random bundle that really speaks, and the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights and two speakers."""
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
    write_bundle(
        folder / "bundle",
        model=model,
        tokenizer=tokenizer,
        codec_folder=folder / "codec",
        precision="int8",
        info={"dataset_digest": "d" * 64, "parent_digest": "p" * 64, "speakers": {"0": "heart", "1": "kumo"}},
    )
    return folder / "bundle"


@pytest.fixture
def csm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """Runs `csm ARGUMENTS` in an empty folder."""
    from csm_cli.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["csm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Outcome(status=int(ended.value.code or 0), out=printed.out, err=printed.err)

    return run
