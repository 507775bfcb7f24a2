"""bfloat16 computes, float32 remembers; torch.compile computes the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from waiting import HANG_S

from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import World
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)


def settings(token_folder: Path, out: Path, **changes: object) -> TrainingConfig:
    config = TrainingConfig(
        tokens=str(token_folder), out=str(out), model="debug", steps=6, row_length=256, batch_packs=2, warmup_steps=2,
        learning_rate=5e-3, log_every=1, validate_every=6, checkpoint_every=6, depth_share=0.5,
        loss_weights={"speaker:1": 0.3},
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def run(config: TrainingConfig, processes: int) -> list[float]:
    if processes == 1:
        Trainer(config, ALONE).run()
        return losses(Path(config.out))
    path = Path(config.out).with_suffix(".json")
    config.save(path)
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m",
         "csm_model.training.main", "--config", str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=HANG_S,
    )  # fmt: skip
    return losses(Path(config.out))


@pytest.mark.parametrize(("processes", "strategy"), [(1, "ddp"), (2, "fsdp")])
def test_bf16_trains_float32_weights(processes: int, strategy: str, token_folder: Path, tmp_path: Path) -> None:
    exact = run(settings(token_folder, tmp_path / "fp32"), 1)
    half = run(settings(token_folder, tmp_path / "bf16", bf16=True, strategy=strategy), processes)
    assert half != exact
    assert half == pytest.approx(exact, rel=2**-7), "bfloat16 keeps 8 bits"
    stored = FileSystemReader(tmp_path / "bf16" / "checkpoints" / "step-00000006").read_metadata().state_dict_metadata
    dtypes = {
        (name.partition(".")[0], entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    assert dtypes == {("model", torch.float32), ("optimizer", torch.float32)}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it, and hides the warning
def test_compiled_blocks_learn_the_same(token_folder: Path, tmp_path: Path) -> None:
    """And though every batch has documents of other lengths, there is nothing left to compile after a few."""
    changes = {"steps": 6, "validate_every": 100, "row_length": 64, "max_turns": 1}
    plain = run(settings(token_folder, tmp_path / "plain", **changes), 1)
    torch._dynamo.reset()
    counts = []

    class Counted(Trainer):
        def _advance(self, *arguments: object) -> bool:
            stopping = super()._advance(*arguments)  # type: ignore[arg-type]
            counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            return stopping

    Counted(settings(token_folder, tmp_path / "compiled", compile=True, **changes), ALONE).run()
    assert counts[0] > 0
    assert counts[-1] == counts[2], counts
    assert losses(tmp_path / "compiled") == pytest.approx(plain, rel=1e-5)
