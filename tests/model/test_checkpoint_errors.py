"""A checkpoint that cannot be loaded: because of the disk, of memory, or because it is another training's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from csm_model.errors import CheckpointError, CsmError
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
