"""The data's way over a real S3 service: ingested here; tokenised and trained on from what was fetched elsewhere."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from csm_components.ingest.step import ingest
from csm_components.settings import Settings
from csm_components.storage import local_folder, open_storage
from csm_components.tokenise.step import tokenise
from csm_model.bundle import load_bundle
from csm_model.training.config import TrainingConfig
from csm_model.training.main import main

QUIET = Console(quiet=True)
tokenise_any = functools.partial(tokenise, workers=1, min_energy_correlation=-1.0, console=QUIET)


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

    with local_folder(f"s3://foundry/runs/tokens/{tokens.digest}", s3) as folder:
        config = TrainingConfig(
            tokens=str(folder), out=str(tmp_path / "train"), model="debug", steps=3, rows_per_batch=256, log_every=1
        )
        config.save(tmp_path / "config.json")
        assert main(["--config", str(tmp_path / "config.json")]) == 0
    bundle = load_bundle(tmp_path / "train/final")
    assert bundle.manifest["dataset_digest"] == made.digest
    assert bundle.manifest["codec_digest"] == tokens.codec_digest
