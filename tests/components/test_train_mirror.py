"""Copies of checkpoints in a storage: a bare machine goes on from them, and no damage there is believed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from csm_components.settings import Settings
from csm_components.storage import LocalStorage, Storage, open_storage
from csm_components.tree_list import TREE
from csm_model.errors import MissingDependencyError
from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import World
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)


def settings(tokens: Path, out: Path, **changes: object) -> TrainingConfig:
    config = TrainingConfig(
        tokens=str(tokens), out=str(out), model="debug", steps=10, row_length=256, batch_packs=1, warmup_steps=2,
        learning_rate=1e-2, log_every=1, validate_every=2, checkpoint_every=2, keep_checkpoints=2, dropout=0.1,
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


class Stopped(Trainer):
    """A trainer whose machine is wanted back at a certain step."""

    last = 5

    def _advance(self, *arguments: object) -> bool:
        if self.step == self.last - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super()._advance(*arguments)  # type: ignore[arg-type]


def local(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("step-*"))


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return LocalStorage(tmp_path / "mirror")
    name = request.node.name.partition("[")[0].replace("_", "-")[-30:].strip("-")
    return open_storage(f"s3://mirror/{name}", request.getfixturevalue("s3"))


def test_a_bare_machine_goes_on_and_learns_the_same(tokens: Path, tmp_path: Path, storage: Storage) -> None:
    Trainer(settings(tokens, tmp_path / "whole"), ALONE).run()
    lent = settings(tokens, tmp_path / "lent")
    assert Stopped(lent, ALONE, mirror=storage).run() == {}
    assert storage.trees("step-") == local(tmp_path / "lent")
    assert "step-00000005" in storage.trees("step-")
    best = Trainer(lent, ALONE).checkpoints.best()
    shutil.rmtree(tmp_path / "lent")

    bare = Trainer(settings(tokens, tmp_path / "bare"), ALONE, mirror=storage)
    assert bare.step == 5
    assert bare.checkpoints.best() == best
    bare.run()
    assert storage.trees("step-") == local(tmp_path / "bare")
    after = weights(tmp_path / "bare")
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, after[name]), name


def test_damage_in_the_mirror_is_passed_over_and_mended(
    tokens: Path, tmp_path: Path, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tokens, tmp_path / "first", steps=8, validate_every=100)
    Trainer(config, ALONE, mirror=storage).run()
    assert storage.trees("step-") == ["step-00000006", "step-00000008"]
    (tmp_path / "noise").write_bytes(b"noise")
    storage.put_file(tmp_path / "noise", "step-00000008/__0_0.distcp")
    other = Trainer(replace(config, out=str(tmp_path / "second")), ALONE, mirror=storage)
    assert other.step == 6
    assert "step-00000008 is damaged in the mirror" in caplog.text
    other.run()
    storage.get_tree("step-00000008", tmp_path / "whole again")

    storage.delete(f"step-00000008/{TREE}")  # as a copy that was cut off leaves it
    assert Trainer(replace(config, out=str(tmp_path / "third")), ALONE, mirror=storage).step == 6


def test_a_newer_checkpoint_here_is_kept(tokens: Path, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "mirror")
    config = settings(tokens, tmp_path / "out", steps=4, validate_every=100)
    Trainer(config, ALONE, mirror=storage).run()
    longer = replace(config, steps=8)
    Trainer(longer, ALONE).run()
    assert Trainer(longer, ALONE, mirror=storage).step == 8
    newest = tmp_path / "out" / "checkpoints" / "step-00000008" / "__0_0.distcp"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert Trainer(longer, ALONE, mirror=storage).step == 6, "the one before it is here, and newer than the mirror's"


class Away(LocalStorage):
    """A storage that cannot be reached for the next so many writes."""

    away = 0

    def put_file(self, path: Path, key: str) -> None:
        if self.away:
            self.away -= 1
            raise MissingDependencyError("the service does not answer")
        super().put_file(path, key)


def test_a_mirror_that_is_away_does_not_stop_the_training_until_its_end(
    tokens: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Away(tmp_path / "mirror")
    storage.away = 1
    config = settings(tokens, tmp_path / "out", steps=6, validate_every=100)
    Trainer(config, ALONE, mirror=storage).run()
    assert "could not be copied to the mirror (the service does not answer)" in caplog.text
    assert storage.trees("step-") == ["step-00000004", "step-00000006"]
    storage.away = 1000
    with pytest.raises(MissingDependencyError, match="does not answer"):
        Trainer(replace(config, steps=8), ALONE, mirror=storage).run()
    assert local(tmp_path / "out") == ["step-00000006", "step-00000008"]


def test_nothing_begins_where_the_mirror_cannot_be_read(tokens: Path, tmp_path: Path, s3: Settings) -> None:
    nobody = Settings(s3_endpoint="http://127.0.0.1:9", s3_access_key="tester", s3_secret_key="x", s3_patience_s=0)
    with pytest.raises(MissingDependencyError, match="does not answer as it should"):
        Trainer(settings(tokens, tmp_path), ALONE, mirror=open_storage("s3://mirror/x", nobody))


def test_what_is_saved_is_the_moment_of_saving(tokens: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The weights change while the checkpoint is being written."""
    trainer = Trainer(settings(tokens, tmp_path), ALONE)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.step = 1
    trainer._taken, trainer._due = trainer._facts(), True
    trainer._save_due()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(1.0)
    trainer.checkpoints.close()
    with caplog.at_level(logging.WARNING):
        again = Trainer(settings(tokens, tmp_path), ALONE)
    assert again.step == 1
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
