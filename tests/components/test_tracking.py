"""The record of a run in a real MLflow on sqlite."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from csm_components.tracking import Tracker, flat
from csm_model.errors import MissingDependencyError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: MLflow takes seconds to make one."""
    return tmp_path_factory.mktemp("runs") / "demo-1"


@pytest.fixture
def tracker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return Tracker(folder=folder)


def test_steps_are_nested_in_one_run_and_found_again(tracker: Tracker, folder: Path) -> None:
    with tracker.step("train") as first:
        first.params({"lr": 0.1})
    with Tracker(folder=folder).step("train") as again:
        assert again.run_id == first.run_id
    run = tracker.client.get_run(first.run_id)
    assert run.data.tags["mlflow.parentRunId"] == tracker.pipeline_run_id()
    assert run.info.status == "FINISHED"
    assert (folder / "mlflow.db").is_file()


def test_parameters_are_written_once_and_a_retry_is_safe(tracker: Tracker) -> None:
    with tracker.step("tokenise") as log:
        log.params({"codec": {"kind": "rvq"}, "workers": 1})
        log.params({"codec": {"kind": "rvq"}, "workers": 2})
    data = tracker.client.get_run(log.run_id).data
    assert data.params == {"codec.kind": "rvq", "workers": "1"}
    assert data.tags["retry.workers"] == "2"


def test_metrics_that_are_no_finite_numbers_are_left_out(tracker: Tracker) -> None:
    with tracker.step("evaluate") as log:
        log.metrics({"wer": 0.1, "mos": None, "nan": float("nan"), "ended": True, "by": {"heart": 0.2}})
        log.metrics({"wer": 0.05}, step=1)
    data = tracker.client.get_run(log.run_id).data
    assert data.metrics == {"wer": 0.05, "by.heart": 0.2}
    assert [point.value for point in tracker.client.get_metric_history(log.run_id, "wer")] == [0.1, 0.05]


def test_dataset_is_an_input_and_its_whole_digest_a_tag(tracker: Tracker) -> None:
    digest = "d" * 64
    with tracker.step("ingest") as log:
        log.dataset("demo", digest=digest, source="corpus", profile={"turns": 6}, context="dataset")
        log.dataset("demo", digest=digest, source="corpus", profile={"turns": 6}, context="dataset")
    run = tracker.client.get_run(log.run_id)
    assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == [digest[:36]]
    assert run.data.tags["dataset_digest"] == digest


def test_failure_marks_the_run_and_files_are_kept_beside_it(tracker: Tracker, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("a")
    ids: list[str] = []

    def work() -> None:
        with tracker.step("export", system_metrics=True) as log:
            ids.append(log.run_id)
            log.artifact(tmp_path / "table.txt", "tables")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        work()
    assert tracker.client.get_run(ids[0]).info.status == "FAILED"
    assert [entry.path for entry in tracker.client.list_artifacts(ids[0], "tables")] == ["tables/table.txt"]
    assert list((folder / "mlruns").rglob("table.txt"))


def test_an_injected_run_is_written_to_and_not_ended(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tracker.client.create_run(tracker.experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with tracker.step("train") as log:
        assert log.run_id == made.info.run_id
        log.metrics({"loss": 1.0})
    run = tracker.client.get_run(made.info.run_id)
    assert (run.data.metrics, run.info.status) == ({"loss": 1.0}, "RUNNING")


def test_a_bundle_is_registered_once_and_aliases_move(tracker: Tracker, tmp_path: Path) -> None:
    def register(digest: str) -> int:
        tags = {"bundle_digest": digest, "codec_digest": "c", "empty": ""}
        return tracker.register("csm-demo", source=str(tmp_path), run_id=None, tags=tags, description="x").version

    assert tracker.by_alias("csm-demo", "champion") is None
    assert [register("a"), register("a"), register("b")] == [1, 1, 2]
    tracker.set_alias("csm-demo", "champion", 1)
    tracker.set_alias("csm-demo", "champion", 2)
    champion = tracker.by_alias("csm-demo", "champion")
    assert champion is not None
    assert (champion.version, champion.source, champion.tags) == (
        2,
        str(tmp_path),
        {"bundle_digest": "b", "codec_digest": "c"},
    )


def test_nested_mappings_become_dotted_names() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_an_outage_is_not_the_lack_of_a_champion(tracker: Tracker, tmp_path: Path) -> None:
    """Else a version would go out without a look at the one that serves."""
    assert tracker.by_alias("csm-nobody", "champion") is None
    other = Tracker(folder=tmp_path)
    shutil.copy(Path(tracker.uri.removeprefix("sqlite:///")), tmp_path)
    assert other.by_alias("csm-nobody", "champion") is None
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("ALTER TABLE registered_models RENAME TO gone")
    store.close()
    with pytest.raises(MissingDependencyError, match=r"MLflow at sqlite:.*check MLFLOW_TRACKING_URI"):
        other.by_alias("csm-nobody", "champion")


def test_any_number_of_parameters_is_logged(tracker: Tracker) -> None:
    with tracker.step("export") as log:
        log.params({f"p{n}": n for n in range(250)})
    assert len(tracker.client.get_run(log.run_id).data.params) == 250
