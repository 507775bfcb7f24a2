"""A checkpoint that cannot be loaded: because of the disk, of memory, what is in it, or another training's."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from random import Random
from typing import Any

import damage
import pytest
import torch

from csm_model.errors import CheckpointError, CsmError
from csm_model.files import digest_of_file, read_json, write_json
from csm_model.training.checkpoint import Checkpoints, not_loaded
from csm_model.training.parallel import World


@pytest.fixture
def stored(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path, World(rank=0, size=1), keep=2)
    checkpoints.save(1, {"weight": torch.ones(3, 4)}, {}, validation=None)
    checkpoints.wait()
    return checkpoints


def test_another_trainings_checkpoint_does_not_fit(stored: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match=r"step-00000001: does not fit this training .*another out folder"):
        stored.load(1, {"bias": torch.ones(3)})
    with pytest.raises(CheckpointError, match="does not fit this training"):
        stored.load(1, {"weight": torch.ones(5, 4)})


def test_a_file_that_cannot_be_read_is_no_misfit(stored: Checkpoints) -> None:
    (data,) = stored.root.glob("step-*/*.distcp")
    data.unlink()
    data.mkdir()  # reading it is an error of the file system, also for root
    with pytest.raises(CsmError, match=r"step-00000001: cannot be read \(.*see to the disk") as raised:
        stored.load(1, {"weight": torch.ones(3, 4)})
    assert not isinstance(raised.value, CheckpointError)


def test_memory_that_is_not_there_is_no_misfit(stored: Checkpoints) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    for error in (raised.value, torch.OutOfMemoryError("CUDA out of memory"), MemoryError()):
        found = not_loaded(stored.root, error)
        assert "there is no memory to load it into" in str(found)
        assert not isinstance(found, CheckpointError)


STATED = [("step",), ("validation",), ("files",), ("losses",), ("packs_read",), ("digest",)]


@pytest.mark.parametrize("seed", range(60))
def test_a_checkpoint_that_does_not_say_what_it_was_is_passed_over(
    stored: Checkpoints, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    facts = {"losses": [1.0, 2.0], "packs_read": 7}
    stored.save(2, {"weight": torch.ones(3, 4)}, facts, validation=0.5)
    stored.wait()
    newest = stored.root / "step-00000002"
    shutil.copyfile(newest / "state.json", newest / "config.json")
    if seed % 6:
        said = damage.json_changed(newest, Random(seed), "config.json", STATED)
    else:
        said = damage.json_broken(newest, Random(seed))
    (newest / "config.json").rename(newest / "state.json")
    step, found = stored.newest()
    assert (step, found["step"]) == (1, 1), said
    assert "step-00000002 is damaged" in caplog.text
    assert stored.best() is None, said


class _Runs:
    """Pickles as a command."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.flag}",)


def test_what_a_mirror_brings_runs_nothing(stored: Checkpoints, tmp_path: Path) -> None:
    """torch reads the metadata of a checkpoint with pickle; whoever may write to the mirror may write that."""
    folder = stored.root / "step-00000001"
    flag = tmp_path / "ran"
    for data in (
        pickle.dumps(_Runs(flag)),
        b"\x80\x04\x8c'torch.distributed.checkpoint.filesystem\x8c\tos.system\x93\x8c\x04true\x85R.",
        b"",
        b"x" * 100,
        (folder / ".metadata").read_bytes()[:-40],
    ):
        (folder / ".metadata").write_bytes(data)
        state = read_json(folder / "state.json")
        state.pop("digest", None)
        state["files"][".metadata"] = digest_of_file(folder / ".metadata")
        write_json(folder / "state.json", state)
        assert stored.newest()[0] == 1, "digests alone do not tell"
        with pytest.raises(CsmError) as raised:
            stored.load(1, {"weight": torch.ones(3, 4)})
        assert "\n" not in str(raised.value)
        assert not flag.exists()
