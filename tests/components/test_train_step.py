"""The step train over the real trainer: two agents, MLflow, Prometheus, a curve, and nothing done twice."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from pushgateway import Pushgateway

from csm_components import outbox
from csm_components.artefacts import Artefact
from csm_components.job import StepJob
from csm_components.made import Record
from csm_components.metrics import TrainingMetrics
from csm_components.steps import perform
from csm_components.storage import LocalStorage, open_storage
from csm_components.tracking import Tracker
from csm_components.train import progress
from csm_components.train.knobs import TrainSettings
from csm_components.train.progress import MetricsFollower, _seconds_left, loss_figure, read_rows, training_seconds
from csm_components.train.remote import Remote
from csm_components.train.spec import TRAIN
from csm_components.train.step import StoppedError, TrainResult, train
from csm_model.errors import InputError
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
    "peak_tflops": 1.0,
}
SEEN = {
    "loss", "loss_first", "loss_depth", "loss_text", "accuracy_first", "gradient_norm", "learning_rate", "step_seconds",
    "rows_per_second", "frames_per_second", "padding", "flops_per_second", "mfu", "memory_bytes", "skipped_steps",
}  # fmt: skip
VALIDATED = {"validation_first", "validation_depth", "validation_accuracy"}


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
    assert any("rows/s" in line for line in said)
    books = {f"loss_codebook_{book:02}" for book in range(read_json(tokens / "manifest.json")["num_codebooks"])}
    rows = read_rows(tmp_path / "train" / "metrics.jsonl")
    assert {key for row in rows for key in row} == SEEN | VALIDATED | books | {"step", "steps", "time"}
    exported = (tmp_path / "train" / "training.prom").read_text()
    assert "csm_training_step 4.0" in exported
    with TrainingMetrics() as metrics:
        assert all(metrics._gauge(key) is not None for row in rows for key in row)

    (run_info,) = tracker.client.search_runs([tracker.experiment_id], filter_string="tags.`csm.step` = 'train'")
    client, run_id = tracker.client, run_info.info.run_id
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == [1, 2, 3, 4]
    assert [point.step for point in client.get_metric_history(run_id, "validation_first")] == [4]
    assert set(run_info.data.metrics) >= SEEN | VALIDATED | books
    assert run_info.data.params["model"] == "debug"
    assert run_info.data.tags["dataset_digest"] == read_json(tokens / "manifest.json")["dataset_digest"]
    assert any(key.startswith("system/") for key in run_info.data.metrics)
    assert {entry.path for entry in client.list_artifacts(run_id)} == {"loss.png", "config.json"}

    assert run(RECIPE).reused
    with pytest.raises(InputError, match=r"train\.recipe\.speed: there is no such setting"):
        run({**RECIPE, "speed": 3})
    with pytest.raises(InputError, match="row_length 4096: the model holds 2048 rows"):
        run({**RECIPE, "row_length": 4096})
    assert not (tmp_path / "train" / "final").exists(), "what other settings made is not resumed from"


def test_stored_tokens_come_through_a_cache_and_are_the_same_training(tmp_path: Path, tokens: Path) -> None:
    settings = TrainSettings(recipe=RECIPE, nodes="1x1")
    address = f"file://{tokens}"
    stored = train(address, tmp_path / "stored", replay=address, settings=settings, say=lambda line: None)
    assert list((tmp_path / "stored" / "cache" / "files").iterdir())
    again = train(tokens, tmp_path / "stored", replay=tokens, settings=settings)
    assert (again.reused, again.digest) == (True, stored.digest), "where tokens lie is no part of what is learnt"
    here = train(tokens, tmp_path / "here", replay=tokens, settings=settings, say=lambda line: None)
    assert here.digest == stored.digest
    digest = read_json(tokens / "manifest.json")["digest"]
    assert here.replay_digest == digest == read_json(tmp_path / "here" / "final" / "manifest.json")["replay_digest"]
    without = train(tokens, tmp_path / "here", settings=settings, say=lambda line: None)
    assert (without.reused, without.replay_digest) == (False, ""), "what is replayed is part of what is learnt"


def test_a_job_finds_its_replay_in_the_storage(tmp_path: Path, tokens: Path) -> None:
    remote = Remote(storage=LocalStorage(tmp_path / "storage"), url=str(tmp_path / "storage"), job="job-1")
    digest = read_json(tokens / "manifest.json")["digest"]
    for replay, found in (
        (tokens, f"{tmp_path}/storage/tokens/{digest}"),
        ("s3://bucket/replay", "s3://bucket/replay"),
        (None, None),
    ):
        remote.put_inputs({"steps": 3}, tokens=tokens, base=None, replay=replay)
        config = remote.fetch_config()
        assert (config["replay"], config["base"], config["steps"]) == (found, None, 3)
        assert config["tokens"] == f"{tmp_path}/storage/tokens/{digest}"
    assert remote.storage.trees("tokens/") == [f"tokens/{digest}"]


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
        assert log.run_id, "all is sent"
        history = tracker.client.get_metric_history(log.run_id, "loss")
        validation = tracker.client.get_metric_history(log.run_id, "validation_first")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [point.step for point in validation] == [2]
    assert said[0].startswith("step 2/9  loss 2.000  validation first 2.500")


@pytest.mark.parametrize("seed", range(4))
def test_an_mlflow_in_trouble_neither_stops_a_training_nor_loses_figures(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at random: before it has stored what it is sent, and after."""
    monkeypatch.setattr(outbox, "AGAIN_S", 0.0)
    monkeypatch.setattr(progress, "_LOOK_EVERY_SECONDS", 0.0)
    rng, said = random.Random(seed), []
    path = tmp_path / "metrics.jsonl"
    tracker = Tracker(folder=tmp_path / "runs" / "debug-1", say=said.append)
    take = tracker.client.log_batch
    share = 0.5

    def log_batch(*words: Any, **more: Any) -> None:
        if rng.random() < share:
            raise MlflowException("the server is away\nand has more to say", TEMPORARILY_UNAVAILABLE)
        take(*words, **more)
        if rng.random() < share:
            raise MlflowException("the answer is lost", TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(tracker.client, "log_batch", log_batch)
    with tracker.step("train") as log, TrainingMetrics() as metrics:
        follower = MetricsFollower(path, log=log, metrics=metrics, say=said.append)
        for step in range(1, 31):
            with path.open("a") as file:
                file.write(json.dumps({"step": step, "steps": 30, "time": step / 10, "loss": 1 / step}) + "\n")
            follower.tick(last=step == 30)
        share = 1.0
        log.metrics({"last": 1.0})
    assert tracker.outbox.path.exists()
    assert len([line for line in said if line.startswith("warning: ")]) == 1, "it is said once"
    again = MetricsFollower(path, log=log, metrics=metrics, say=said.append)  # as the next attempt does
    again.tick(last=True)
    share = 0.0
    assert tracker.flush()
    assert not tracker.outbox.path.exists()
    history = tracker.client.get_metric_history(log.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 31)]
    assert tracker.client.get_run(log.run_id).info.status == "FINISHED"


def test_figures_are_pushed_with_the_time_of_the_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    before = time.time()
    with Pushgateway() as gateway, TrainingMetrics() as metrics:
        monkeypatch.setenv("CSM_PUSHGATEWAY", f"http://{gateway.netloc}")
        monkeypatch.setenv("CSM_PIPELINE", "nightly")
        follower = MetricsFollower(path, log=None, metrics=metrics, say=lambda line: None)
        follower.tick(last=True)
        assert gateway.groups == {}, "nothing has been learnt yet: no figure is pushed as 0"
        path.write_text(json.dumps({"step": 1, "steps": 9, "time": 5.0, "loss": 3.0}) + "\n")
        follower.tick(last=True)
        (group,) = gateway.groups
        assert group == (("job", "csm_training"), ("pipeline", "nightly"))
        began = gateway.groups[group]["csm_training_saved_timestamp_seconds"][()]
        assert before <= began <= time.time()
        checkpoint = tmp_path / "checkpoints" / "step-00000002"
        checkpoint.mkdir(parents=True)
        os.utime(checkpoint, (began + 60, began + 60))
        path.write_text(json.dumps({"step": 2, "steps": 9, "time": 9.0, "loss": 2.0}) + "\n")
        follower.tick(last=True)
    figures = gateway.groups[group]
    assert figures["csm_training_step"] == {(): 2.0}
    assert figures["csm_training_loss"] == {(("kind", "loss"),): 2.0}
    assert figures["csm_training_saved_timestamp_seconds"] == {(): pytest.approx(began + 60)}


def test_pauses_between_attempts_are_no_training_time() -> None:
    assert training_seconds([{"time": float(t)} for t in (0, 5, 10, 4000, 4005)]) == 15.0
    assert training_seconds([]) == 0.0
    year = 31_536_000
    back = [{"step": n, "steps": 9, "time": float(t)} for n, t in enumerate((0, 30, 60, 90 - year, 120 - year))]
    assert training_seconds(back) == 90.0, "a clock that is set back gives no time back"
    assert _seconds_left(back) == 0.0


def test_a_training_that_was_stopped_is_no_result(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stopped_trainer.py").write_text("print('asked to stop')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = TrainSettings(recipe={"mirror": "s3://b/m/"}, nodes="1x1")
    with pytest.raises(StoppedError, match="asked to stop after step 0 and is saved: run it again to go on"):
        train(tokens, tmp_path / "train", settings=settings, trainer="stopped_trainer", say=lambda line: None)
    inputs = read_json(tmp_path / "train" / "inputs.json")["inputs"]
    assert read_json(tmp_path / "train" / "config.json")["mirror"] == f"s3://b/m/{inputs[:16]}"
    assert not (tmp_path / "train" / "result.json").exists()


def test_the_figure_has_a_curve_for_each_loss_and_a_bar_for_each_codebook() -> None:
    rows = [
        {"step": step, "loss": 3.0 / step, "loss_text": 0.0, "accuracy_first": 0.1}
        | {f"loss_codebook_{book:02}": 4.0 - book / 10 for book in range(32)}
        for step in (1, 2, 3)
    ]
    curves, bars = loss_figure([*rows, {"step": 3, "validation_first": 2.0}]).axes
    assert [line.get_label() for line in curves.lines] == ["loss", "validation first"]
    assert [bar.get_height() for bar in bars.patches] == [pytest.approx(4.0 - book / 10) for book in range(32)]


def trained(tokens: Path, scratch: Path, run: str, *, steps: int = 1) -> Record:
    """The step as a pod does it."""
    settings = TrainSettings(recipe=RECIPE | {"steps": steps, "validate_every": 1}, nodes="1x1")
    job = StepJob(
        spec=TRAIN,
        scratch=scratch / run,
        settings={TrainSettings: settings},
        inputs={"tokens": [Artefact(url=str(tokens))]},
        run=run,
    )
    return perform(job)


def test_without_a_folder_of_the_run_the_bundle_alone_is_the_output(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    record = trained(tokens, tmp_path, "run-1")
    digest = record.result["digest"]
    assert record.artefacts == {"bundle": {"url": f"{tmp_path}/storage/trained/{digest}", "digest": digest}}
    kept = tmp_path / "storage" / "trained" / digest
    assert read_json(kept / "manifest.json")["digest"] == digest
    assert read_rows(kept / "metrics.jsonl")[-1]["step"] == 1, "the curve travels with the bundle"
    assert not (kept / "checkpoints").exists()


def test_what_another_run_has_trained_and_kept_is_not_trained_again(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    first = trained(tokens, tmp_path, "monday")
    second = trained(tokens, tmp_path, "tuesday")
    assert second.result == {**first.result, "reused": True}
    assert second.artefacts == first.artefacts
    assert not (tmp_path / "tuesday" / "outputs").exists(), "nothing is trained, and nothing fetched"
    tracker = Tracker(run="tuesday")
    (run,) = tracker.client.search_runs([tracker.experiment_id], filter_string="tags.made_by = 'monday'")
    assert run.data.metrics["loss"] == first.result["loss"]
    assert not trained(tokens, tmp_path, "another recipe", steps=2).result["reused"]
    (key,) = open_storage().trees(f"trained/{first.result['digest']}")
    open_storage().delete(f"{key}/.tree.json")
    assert not trained(tokens, tmp_path, "after it was removed").result["reused"]
    with monkeypatch.context() as patch:
        patch.setattr("csm_components.steps.code_digest", lambda: "of another program")
        assert not trained(tokens, tmp_path, "another program").result["reused"]
