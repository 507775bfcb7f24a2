"""The trainer learns, resumes, and refuses what does not belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from csm_model.bundle import load_bundle
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.files import digest_of, read_json, write_json
from csm_model.training.config import TrainingConfig
from csm_model.training.optimizer import learning_rate
from csm_model.training.parallel import World
from csm_model.training.shards import load_tokens, read_shard
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)


def settings(token_folder: Path, out: Path) -> TrainingConfig:
    return TrainingConfig(
        tokens=str(token_folder), out=str(out), model="debug", steps=30, row_length=256, batch_packs=2, warmup_steps=5,
        learning_rate=1e-2, log_every=5, validate_every=15, checkpoint_every=10, depth_share=0.5, history_dropout=0.3,
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(token_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    Trainer(settings(token_folder, out), ALONE).run()
    return out


def test_loss_falls_and_bundle_speaks(trained: Path) -> None:
    validations = [row["validation_first"] for row in lines(trained) if "validation_first" in row]
    assert validations[-1] < 0.8 * 3.5, "log(35) = 3.56 nats is what a model knows that has learnt nothing"
    assert validations[-1] < validations[0]
    bundle = load_bundle(trained / "final")
    assert bundle.speakers == {0: "ann", 1: "bob"}
    assert bundle.manifest["codec_digest"] == bundle.codec.digest


def test_damaged_checkpoint_gives_way_to_the_one_before(token_folder: Path, tmp_path: Path, trained: Path) -> None:
    config = settings(token_folder, tmp_path)
    Trainer(replace(config, steps=20), ALONE).run()
    newest = tmp_path / "checkpoints" / "step-00000020" / "__0_0.distcp"
    newest.write_bytes(newest.read_bytes()[:-100])
    trainer = Trainer(config, ALONE)
    assert trainer.step == 10


def test_learning_rate_warms_up_and_falls_to_a_twentieth(token_folder: Path, tmp_path: Path) -> None:
    config = settings(token_folder, tmp_path)
    rates = [learning_rate(config, step) for step in range(config.steps + 1)]
    assert max(rates) == pytest.approx(config.learning_rate)
    assert rates[0] == pytest.approx(config.learning_rate / 5)
    assert rates[-1] == pytest.approx(config.learning_rate / 20)


def test_base_of_another_codec_is_refused(trained: Path, token_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    manifest = read_json(trained / "final" / "manifest.json")
    for path in (trained / "final").iterdir():
        if path.is_file():
            (base / path.name).write_bytes(path.read_bytes())
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if "/" not in name}
    manifest |= {"digest": digest_of(manifest["files"]), "codec_digest": "f" * 64}
    write_json(base / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match="codec_digest is ffffffffffff"):
        Trainer(replace(settings(token_folder, tmp_path), base=str(base)), ALONE)


def test_damaged_shard_is_refused(token_folder: Path, tmp_path: Path) -> None:
    for path in token_folder.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "train-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(DigestError, match="run tokenise again"):
        load_tokens(tmp_path, "train")
    with pytest.raises(ArtifactError, match="not a token shard"):
        read_shard(tmp_path / "manifest.json")


def test_unknown_setting_lists_the_known(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"tokens": "a", "out": "b", "stepz": 3})
    with pytest.raises(InputError, match=r"config.json: stepz: there is no such setting; did you mean steps\?"):
        TrainingConfig.load(tmp_path / "config.json")
