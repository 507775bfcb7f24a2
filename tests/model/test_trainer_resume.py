"""A training that is killed, stopped, or spread over processes learns what it would have learnt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from waiting import HANG_S, eventually

from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import World
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def settings(token_folder: Path, out: Path, **changes: object) -> TrainingConfig:
    config = TrainingConfig(
        tokens=str(token_folder), out=str(out), model="debug", steps=40, row_length=256, batch_packs=2, warmup_steps=5,
        learning_rate=1e-2, log_every=1, validate_every=20, checkpoint_every=4, depth_share=0.5, history_dropout=0.3,
        dropout=0.1,
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("processes", "kills", "steps"),
    [(1, 6, 60), (2, 3, 40), pytest.param(1, 20, 200, marks=pytest.mark.kills)],
)
def test_kills_change_no_bit(processes: int, kills: int, steps: int, token_folder: Path, tmp_path: Path) -> None:
    replay = str(token_folder) if processes > 1 else None  # tokens like any others
    config = settings(token_folder, tmp_path / "whole", steps=steps, checkpoint_every=3, replay=replay)
    config.save(tmp_path / "config.json")
    command = [sys.executable, str(Path(__file__).with_name("kill_and_go_on.py"))]
    command += [str(tmp_path / name) for name in ("config.json", "whole", "killed")] + [str(processes), str(kills)]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    attempts = told["attempts"]
    assert [each["ends"] for each in attempts] == [[-signal.SIGKILL] * processes] * kills
    assert all(each["began"] < each["step"] < steps for each in attempts), "each kill interrupted work"
    assert sum(each["writing"] for each in attempts) >= kills // 3, "some hit a checkpoint that is being written"
    begins = [each["began"] for each in attempts] + [told["began"]]
    assert begins == sorted(begins)
    assert 0 < begins[-1] < steps, "it went on, and did not begin anew"
    assert len(set(begins)) > kills // 5
    after = weights(tmp_path / "killed")
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, after[name]), name
    losses = [[(row["step"], row.get("loss")) for row in lines(tmp_path / run)] for run in ("whole", "killed")]
    assert losses[0] == losses[1]
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*")), "halves are cleaned up"


@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        (1, {"micro_packs": 2}),
        (1, {"micro_packs": 4, "recompute": True}),
        (2, {"strategy": "ddp"}),
        (2, {"strategy": "fsdp", "micro_packs": 2, "recompute": True}),
    ],
)
def test_how_the_work_is_spread_changes_nothing(
    processes: int, changes: dict[str, object], token_folder: Path, tmp_path: Path
) -> None:
    """One step, whose gradient is all of its own, then three more that build on it."""
    common = {"steps": 4, "batch_packs": 4, "dropout": 0.0, "checkpoint_every": 2}
    common |= {"replay": str(token_folder), "replay_share": 0.4} if processes > 1 else {}
    alone = settings(token_folder, tmp_path / "alone", **common)
    Trainer(alone, ALONE).run()
    spread = settings(token_folder, tmp_path / "spread", **common, **changes)
    if processes == 1:
        Trainer(spread, ALONE).run()
    else:
        spread.save(tmp_path / "config.json")
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m",
             "csm_model.training.main", "--config", str(tmp_path / "config.json")],
            env=ONE_THREAD, check=True, capture_output=True, timeout=HANG_S,
        )  # fmt: skip
    for one, other in zip(lines(tmp_path / "alone"), lines(tmp_path / "spread"), strict=True):
        for name in ("loss", "loss_depth", "gradient_norm", "validation_first"):
            assert one.get(name) == pytest.approx(other.get(name), rel=1e-4, abs=2e-5), (one["step"], name)
    after = weights(tmp_path / "spread")
    for name, tensor in weights(tmp_path / "alone").items():
        torch.testing.assert_close(tensor, after[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_another_number_of_processes_goes_on_with_the_same_packs(
    strategy: str, token_folder: Path, tmp_path: Path
) -> None:
    config = settings(token_folder, tmp_path / "out", steps=4, dropout=0.0, strategy=strategy)
    config.save(tmp_path / "config.json")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
         "csm_model.training.main", "--config", str(tmp_path / "config.json")],
        env=ONE_THREAD, check=True, capture_output=True, timeout=HANG_S,
    )  # fmt: skip
    trainer = Trainer(replace(config, steps=8), ALONE)
    assert (trainer.step, trainer.packs_read) == (4, 8)
    fresh = Trainer(replace(config, out=str(tmp_path / "fresh"), steps=8), ALONE)
    fresh.packs_read = 8
    for one, other in zip(trainer._batches(), fresh._batches(), strict=True):
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.depth.places, other.depth.places)
    trainer.run()
    alone = replace(config, out=str(tmp_path / "alone"), checkpoint_every=100)
    Trainer(alone, ALONE).run()
    shutil.copytree(tmp_path / "alone" / "checkpoints", tmp_path / "longer" / "checkpoints")
    Trainer(replace(config, out=str(tmp_path / "longer"), steps=8), ALONE).run()
    for one, other in zip(
        lines(tmp_path / "longer"), [row for row in lines(tmp_path / "out") if row["step"] > 4], strict=True
    ):
        assert one.get("loss") == pytest.approx(other.get("loss"), rel=1e-4), one["step"]


def test_sigterm_saves_and_ends_well(token_folder: Path, tmp_path: Path) -> None:
    config = settings(token_folder, tmp_path / "out", steps=100_000, checkpoint_every=100_000, validate_every=100_000)
    config.save(tmp_path / "config.json")
    child = subprocess.Popen(
        [sys.executable, "-m", "csm_model.training.main", "--config", str(tmp_path / "config.json")],
        env=ONE_THREAD, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    eventually(lambda: child.poll() is not None or (tmp_path / "out" / "metrics.jsonl").exists())
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=HANG_S)
    assert child.returncode == 0
    assert "asked to stop: saved at step" in said
    step = int(said.split("saved at step ")[1].split()[0])
    assert step > 0
    assert not (tmp_path / "out" / "final").exists()
    assert Trainer(config, ALONE).step == step


def test_the_best_checkpoint_outlives_newer_ones_and_can_become_the_bundle(token_folder: Path, tmp_path: Path) -> None:
    """With an absurd rate after the warm-up, the best validation is an early one."""
    config = settings(
        token_folder, tmp_path / "out", steps=24, validate_every=4, learning_rate=3.0, warmup_steps=24, clip_norm=1e9,
        spike_factor=0.0, final_from="best", keep_checkpoints=1,
    )  # fmt: skip
    Trainer(config, ALONE).run()
    validated = [row for row in lines(tmp_path / "out") if "validation_first" in row]
    measured = {row["step"]: row["validation_first"] + row["validation_depth"] for row in validated}
    best = min(measured, key=measured.__getitem__)
    assert best < 24, "nothing to tell apart"
    folders = {path.name for path in (tmp_path / "out" / "checkpoints").glob("step-*")}
    assert folders == {f"step-{best:08}", "step-00000024"}
    assert json.loads((tmp_path / "out" / "result.json").read_text())["steps"] == best
