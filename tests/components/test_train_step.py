"""The step train over the real trainer: two agents, MLflow, Prometheus, a curve, and nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from csm_components.metrics import TrainingMetrics
from csm_components.tracking import Tracker
from csm_components.train.launch import LaunchError
from csm_components.train.step import MetricsFollower, TrainResult, TrainSettings, train, training_seconds
from csm_model.files import read_json

RECIPE = {
    "model": "debug",
    "steps": 4,
    "row_length": 256,
    "batch_packs": 2,
    "warmup_steps": 1,
    "log_every": 1,
    "validate_every": 4,
    "checkpoint_every": 2,
}


def test_training_is_recorded_and_not_done_twice(tmp_path: Path, tokens: Path) -> None:
    tracker = Tracker(folder=tmp_path / "runs" / "debug-1")
    said: list[str] = []

    def run(recipe: dict[str, object]) -> TrainResult:
        settings = TrainSettings(recipe=recipe, nodes="2x1")
        return train(tokens, tmp_path / "train", settings=settings, tracker=tracker, say=said.append)

    first = run(RECIPE)
    assert (first.steps, first.reused, first.base_digest) == (4, False, "")
    assert first.validation_first is not None
    assert first.digest == read_json(tmp_path / "train" / "final" / "manifest.json")["digest"]
    assert any(line.startswith("step 4/4") for line in said)
    assert (tmp_path / "train" / "loss.png").stat().st_size > 1000
    assert "csm_training_step 4.0" in (tmp_path / "train" / "training.prom").read_text()

    (run_info,) = tracker.client.search_runs([tracker.experiment_id], filter_string="tags.`csm.step` = 'train'")
    client, run_id = tracker.client, run_info.info.run_id
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == [1, 2, 3, 4]
    assert [point.step for point in client.get_metric_history(run_id, "validation_first")] == [4]
    assert run_info.data.params["model"] == "debug"
    assert run_info.data.tags["dataset_digest"] == read_json(tokens / "manifest.json")["dataset_digest"]
    assert any(key.startswith("system/") for key in run_info.data.metrics)
    assert {entry.path for entry in client.list_artifacts(run_id)} == {"loss.png", "config.json"}

    assert run(RECIPE).reused
    with pytest.raises(LaunchError, match="unknown setting 'speed'"):
        run({**RECIPE, "speed": 3})
    assert not (tmp_path / "train" / "final").exists(), "what other settings made is not resumed from"


def test_rows_are_sent_once_though_the_file_is_cut_back(tmp_path: Path) -> None:
    path, said = tmp_path / "metrics.jsonl", []

    def write(*rows: dict[str, float]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    tracker = Tracker(folder=tmp_path / "runs" / "debug-1")
    row = {"steps": 9, "time": 0.0}
    with tracker.step("train") as log, TrainingMetrics() as metrics:
        follower = MetricsFollower(path, log=log, metrics=metrics, say=said.append)
        follower.tick(last=True)
        write(
            {**row, "step": 1, "loss": 3.0},
            {**row, "step": 2, "loss": 2.0},
            {**row, "step": 2, "validation_first": 2.5},
        )
        follower.tick(last=True)
        write({**row, "step": 1, "loss": 3.0})  # a resumed trainer forgets what came after its checkpoint
        follower.tick(last=True)
        write({**row, "step": 1, "loss": 3.0}, {**row, "step": 2, "loss": 2.0}, {**row, "step": 3, "loss": 1.0})
        again = MetricsFollower(path, log=log, metrics=metrics, say=said.append)
        again.tick(last=True)
        history = tracker.client.get_metric_history(log.run_id, "loss")
        validation = tracker.client.get_metric_history(log.run_id, "validation_first")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [point.step for point in validation] == [2]
    assert said[0].startswith("step 2/9  loss 2.000  validation first 2.500")


def test_pauses_between_attempts_are_no_training_time() -> None:
    assert training_seconds([{"time": float(t)} for t in (0, 5, 10, 4000, 4005)]) == 15.0
    assert training_seconds([]) == 0.0
