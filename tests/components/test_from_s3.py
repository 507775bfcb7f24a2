"""The data's way over a real S3 service: ingested here, tokenised from what was fetched, trained on as it comes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from csm_components.ingest.step import ingest
from csm_components.settings import Settings
from csm_components.storage import local_folder, open_storage
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.step import tokenise
from csm_model.bundle import load_bundle
from csm_model.files import read_json
from csm_model.training.config import TrainingConfig
from csm_model.training.main import main

QUIET = Console(quiet=True)
tokenise_any = functools.partial(tokenise, workers=1, check=CheckSettings(min_energy_correlation=-1.0), console=QUIET)


def test_ingest_to_train(
    s3: Settings, tmp_path: Path, write_corpus: dict[str, Callable[..., Path]], debug_codec: Path
) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus")
    made = ingest(corpus, tmp_path / "here/ingest", workers=1, console=QUIET)
    store = open_storage("s3://foundry/runs", s3)
    store.put_tree(tmp_path / "here/ingest", f"ingest/{made.digest}")
    store.put_tree(debug_codec, "codec")

    there = tmp_path / "there"
    store.get_tree(f"ingest/{made.digest}", there / "ingest")
    with local_folder("s3://foundry/runs/codec", s3) as codec:
        tokens = tokenise_any(there / "ingest", codec, None, there / "tokens")
    assert not codec.exists()
    assert tokens.dataset_digest == made.digest
    again = tokenise_any(tmp_path / "here/ingest", debug_codec, None, tmp_path / "here/tokens")
    assert again.digest == tokens.digest
    assert json.dumps(asdict(tokens))
    store.put_tree(there / "tokens", f"tokens/{tokens.digest}")

    bundles = {}
    for name, folder in (("s3", f"s3://foundry/runs/tokens/{tokens.digest}"), ("here", str(tmp_path / "here/tokens"))):
        config = TrainingConfig(
            tokens=folder, out=str(tmp_path / name), model="debug", steps=3, row_length=256, batch_packs=2, log_every=1,
            checkpoint_every=3, shuffle_shards=2, cache_dir=str(tmp_path / "cache"), cache_gb=0.1,
        )  # fmt: skip
        config.save(tmp_path / "config.json")
        open_here = functools.partial(open_storage, settings=s3)
        assert main(["--config", str(tmp_path / "config.json")], open_storage=open_here) == 0
        bundles[name] = load_bundle(tmp_path / name / "final").manifest
    assert bundles["s3"]["dataset_digest"] == made.digest
    assert bundles["s3"]["codec_digest"] == tokens.codec_digest
    assert bundles["s3"]["digest"] == bundles["here"]["digest"], "the same order, the same weights"
    held = {path.name for path in (tmp_path / "cache/files").iterdir()}
    shards = read_json(there / "tokens/manifest.json")["splits"]
    assert held >= {row["sha256"] for split in ("train", "validation") for row in shards.get(split, [])}


def test_tokens_without_the_bucket_or_the_tree_are_said(
    s3: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainingConfig(
        tokens="s3://foundry/nothing", out=str(tmp_path / "out"), model="debug", cache_dir=str(tmp_path / "cache")
    )
    config.save(tmp_path / "config.json")
    open_here = functools.partial(open_storage, settings=s3)
    assert main(["--config", str(tmp_path / "config.json")], open_storage=open_here) == 2
    assert "s3://foundry/nothing/manifest.json: no such object" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "config.json")]) == 2
    assert "start csm_components.train.worker" in capsys.readouterr().err
