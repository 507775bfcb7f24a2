"""The record of a run in a real MLflow on sqlite."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_S

from csm_components import tracking
from csm_components.outbox import Outbox
from csm_components.tracking import REFUSED, UNRECORDED, Tracker, flat
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
    assert (folder.parent / "mlflow.db").is_file()


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
    assert list((folder.parent / "mlruns").rglob("table.txt"))


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


def test_an_outage_is_not_the_lack_of_a_champion(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a version would go out without a look at the one that serves."""
    monkeypatch.setattr(tracking, "REGISTRY_PATIENCE_S", 0.0)
    assert tracker.by_alias("csm-nobody", "champion") is None
    other = Tracker(folder=tmp_path / "run")
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


def test_the_whole_says_what_it_is_and_what_it_is_made_from(tracker: Tracker, folder: Path) -> None:
    told = tracker.announcement()
    told.begin()
    told.params({"preset": "debug"})
    told.describe("**A run**")
    assert (folder / UNRECORDED).exists(), "it goes with what is recorded next"
    with tracker.step("ingest") as log:
        log.dataset("demo", digest="e" * 64, source="corpus", profile={"turns": 6}, context="dataset")
    assert not (folder / UNRECORDED).exists()
    whole = tracker.client.get_run(tracker.pipeline_run_id())
    assert (whole.info.status, whole.data.params["preset"]) == ("RUNNING", "debug")
    assert whole.data.tags["mlflow.note.content"] == "**A run**"
    assert "e" * 36 in {entry.dataset.digest for entry in whole.inputs.dataset_inputs}
    experiment = tracker.client.get_experiment(tracker.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_mlflow_will_never_take_is_put_aside_and_holds_nothing_up(folder: Path) -> None:
    said: list[str] = []
    tracker = Tracker(folder=folder, say=said.append)
    with tracker.step("speak") as log:
        tracker.put({"do": "metrics"}, {"do": "params", "step": "speak", "run_id": "", "at": 1, "values": 3})
        log.metrics({"far": 1.0}, step=2**70)
        log.metrics({"near": 1.0})
    assert tracker.client.get_run(log.run_id).data.metrics == {"near": 1.0}
    refused, _ = Outbox(folder / REFUSED).read()
    assert [entry["do"] for entry in refused] == ["metrics", "params", "metrics"]
    assert [line for line in said if "refuses a record" in line] == said[:1] == said


IN_COMPANY = """if True:
    import sys
    from pathlib import Path
    from csm_components.tracking import Tracker

    tracker = Tracker(folder=Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(3):
        with tracker.step(f"step-{number}") as log:
            log.params({"number": number})
            log.rows([(step, step / 10, {"loss": 1 / step}) for step in range(1, 40)])
    tags = {"bundle_digest": sys.argv[1]}
    print(tracker.register("csm-both", source=sys.argv[1], run_id=log.run_id, tags=tags, description="").version)
    """


def test_two_runs_at_once_share_a_store(tmp_path: Path) -> None:
    folders = [tmp_path / "runs" / name for name in ("one", "two")]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", IN_COMPANY, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for folder in folders
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    versions = {run.communicate(timeout=HANG_S)[0].strip() for run in runs}
    assert not list((tmp_path / "runs").glob(".*.partial*")), "the store was made whole, by one of them"
    assert versions == {"1", "2"}, "one registry: champions compete"
    client = Tracker(folder=folders[0]).client
    for folder in folders:
        tracker = Tracker(folder=folder)
        assert not tracker.outbox.path.exists()
        steps = client.search_runs(
            [tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{tracker.pipeline_run_id()}'"
        )
        assert {run.info.run_name: run.info.status for run in steps} == {f"step-{n}": "FINISHED" for n in range(3)}
        for run in steps:
            points = client.get_metric_history(run.info.run_id, "loss")
            assert [point.step for point in points] == list(range(1, 40))
