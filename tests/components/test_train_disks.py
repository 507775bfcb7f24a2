"""Machines with disks of their own: rank 0 keeps whole checkpoints, and hands out what they hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import own_disks
import pytest
import torch
from safetensors.torch import load_file
from waiting import HANG_S


@pytest.fixture(scope="module")
def trained(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes that share no folder left behind, for every way to train."""
    home = tmp_path_factory.mktemp("disks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, own_disks.__file__, str(tokens), str(home)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return home


@pytest.mark.parametrize("way", own_disks.WAYS)
def test_what_is_resumed_ends_in_the_same_bits(way: str, trained: Path) -> None:
    whole, again = (
        load_file(trained / way / "0" / name / "final" / "model.safetensors") for name in ("whole", "again")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("way", own_disks.WAYS)
def test_only_rank_0_has_checkpoints_and_they_are_whole(way: str, trained: Path) -> None:
    kept = trained / way / "0" / "whole" / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["step-00000002", "step-00000004"]
    assert not list((trained / way / "1").rglob("*.distcp"))
