"""The record of a run whose steps are pods: a real MLflow server, its artefacts in a real S3, a client without keys."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow_server import mlflow_server
from waiting import HANG_S

from csm_components.finish.step import end_run
from csm_components.job import StepJob
from csm_components.register.gate import Gate
from csm_components.register.step import register
from csm_components.settings import Settings
from csm_components.spec import Kind, Output, StepSettings, StepSpec
from csm_components.steps import perform
from csm_components.storage import open_storage
from csm_components.tracking import Tracker, tracker_of
from csm_model.errors import InputError
from csm_model.files import write_json

BUCKET = "mlflow-artifacts"


@pytest.fixture(scope="module")
def server(s3: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server that keeps artefacts in S3; only it has the keys."""
    home = tmp_path_factory.mktemp("mlflow")
    (home / "probe").write_text("")
    open_storage(f"s3://{BUCKET}", s3).put_file(home / "probe", "probe")  # makes the bucket
    assert s3.s3_access_key is not None
    assert s3.s3_secret_key is not None
    environment = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://{s3.s3_endpoint}",
        "AWS_ACCESS_KEY_ID": s3.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": s3.s3_secret_key.get_secret_value(),
        "AWS_DEFAULT_REGION": s3.s3_region,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    with mlflow_server(home, artefacts=f"s3://{BUCKET}/kept", environment=environment) as started:
        yield started.address


@pytest.fixture
def cluster(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of a pod: it knows the server, and no keys of S3."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return server


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a step made."""

    out: str
    digest: str = "d" * 64
    turns: int = 9
    reused: bool = False


class Judge(StepSettings):
    """A setting that is recorded."""

    section = "judge"

    seed: int = 3


REPORT = Output(name="report", kind=Kind(name="report", description="A page."), folder="report")


def work(job: StepJob) -> Made:
    out = job.out("report")
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text("<p>a report</p>")
    return Made(out=str(out))


def run_step(step: str, out: Path, *, run: str = "", shard: str = "", work: Callable[[StepJob], Made] = work) -> Made:
    """Does a step as a pod does."""
    spec = StepSpec(
        name=step, description="", work=work, settings=(Judge,), outputs=(REPORT,), dataset="digest",
        keep=("report.html",),
    )  # fmt: skip
    return Made(**perform(StepJob(spec=spec, scratch=out, settings={Judge: Judge()}, run=run, shard=shard)).result)


def test_a_step_is_a_run_nested_in_the_pipelines_and_its_files_go_through_the_server(
    cluster: str, s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSM_EXPERIMENT", "team-a")
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    with monkeypatch.context() as patch:
        patch.setattr("csm_components.steps.entered", lambda *_: None)  # as if each were the first to make it
        run_step("evaluate", tmp_path / "one", run="run-1")
        run_step("evaluate", tmp_path / "two", run="run-1")
    run_step("ingest-shard", tmp_path / "three", run="run-1", shard="00001-of-00004")
    tracker = Tracker(run="run-1")
    parent = tracker.pipeline_run_id()
    runs = {run.info.run_name: run for run in tracker.client.search_runs([tracker.experiment_id])}
    assert set(runs) == {"run-1", "evaluate", "ingest-shard-00001-of-00004"}, "a retry writes to the same run"
    assert tracker.client.get_experiment(tracker.experiment_id).name == "team-a"
    step = runs["evaluate"]
    assert step.data.tags["mlflow.parentRunId"] == parent == runs["run-1"].info.run_id
    assert (step.info.status, runs["run-1"].info.status) == ("FINISHED", "RUNNING")
    assert (step.data.params["judge.seed"], step.data.metrics["turns"], step.data.tags["dataset_digest"]) == (
        "3",
        9,
        "d" * 64,
    )
    assert f"{tmp_path}/storage/report/" in step.inputs.dataset_inputs[0].dataset.source

    assert step.info.artifact_uri.startswith("mlflow-artifacts:")
    got = tracker.client.download_artifacts(step.info.run_id, "report.html", str(tmp_path))
    assert Path(got).read_text() == "<p>a report</p>"
    stored = open_storage(f"s3://{BUCKET}/kept", s3).list()
    assert [key for key in stored if key.endswith(f"{step.info.run_id}/artifacts/report.html")]


def test_a_step_that_fails_is_a_failed_run_and_a_retry_mends_it(cluster: str, tmp_path: Path) -> None:
    def fail(job: StepJob) -> Made:
        raise InputError("no such corpus")

    with pytest.raises(InputError):
        run_step("ingest", tmp_path, run="run-2", work=fail)
    tracker = Tracker(run="run-2")
    (step,) = tracker.client.search_runs([tracker.experiment_id], "tags.`csm.run` = 'run-2' and run_name = 'ingest'")
    assert step.info.status == "FAILED"
    run_step("ingest", tmp_path, run="run-2")
    assert tracker.client.get_run(step.info.run_id).info.status == "FINISHED"


def test_steps_that_start_at_once_make_one_parent(cluster: str) -> None:
    program = """if True:
        import sys
        from csm_components.tracking import Tracker

        tracker = Tracker(run="race")
        make = tracker.client.create_run

        def make_with_the_others(*words, run_name, **more):
            if run_name == "race":  # it has looked, and seen no parent
                print("ready", flush=True)
                sys.stdin.readline()
            return make(*words, run_name=run_name, **more)

        tracker.client.create_run = make_with_the_others
        with tracker.step(sys.argv[1]) as log:
            run = log.run_id
        print(tracker.client.get_run(run).data.tags["mlflow.parentRunId"])
        """
    pods = [
        subprocess.Popen(
            [sys.executable, "-c", program, f"step-{number}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(5)
    ]  # fmt: skip
    for pod in pods:
        assert pod.stdout is not None
        assert pod.stdout.readline() == "ready\n"
    for pod in pods:
        assert pod.stdin is not None
        pod.stdin.write("go\n")
        pod.stdin.flush()
    parents = {pod.communicate(timeout=HANG_S)[0].strip() for pod in pods}
    assert all(pod.returncode == 0 for pod in pods)
    tracker = Tracker(run="race")
    assert parents == {tracker.pipeline_run_id()}
    runs = tracker.client.search_runs([tracker.experiment_id], "tags.`csm.run` = 'race'")
    assert sorted(run.info.run_name for run in runs) == ["race", *(f"step-{number}" for number in range(5))]
    from mlflow.entities import ViewType

    gone = tracker.client.search_runs(
        [tracker.experiment_id], "tags.`csm.step` = 'pipeline' and tags.`csm.run` = 'race'", ViewType.DELETED_ONLY
    )
    assert len(gone) == 4, "each made a parent, and one of the five is what they agreed on"


def test_the_run_that_kubeflow_made_is_written_to_and_no_other_is_made(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(run="by-kubeflow")
    injected = tracker.client.create_run(tracker.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    run_step("ingest", tmp_path, run="by-kubeflow")
    run_step("ingest", tmp_path)
    assert tracker.client.get_run(injected).data.metrics["turns"] == 9
    assert not tracker.client.search_runs([tracker.experiment_id], "tags.`csm.run` = 'by-kubeflow'")
    end_run("by-kubeflow", state="SUCCEEDED")
    assert tracker.client.get_run(injected).info.status == "RUNNING", "its maker ends it"


@pytest.mark.parametrize(
    ("state", "status"), [("SUCCEEDED", "FINISHED"), ("FAILED", "FAILED"), ("CANCELLED", "FAILED")]
)
def test_the_end_of_a_pipeline_closes_its_run(cluster: str, tmp_path: Path, state: str, status: str) -> None:
    run_step("ingest", tmp_path, run=f"ends-{state}")
    end_run(f"ends-{state}", state=state, failed_task="train", message="out of memory")
    tracker = Tracker(run=f"ends-{state}")
    run = tracker.client.get_run(tracker.pipeline_run_id())
    assert (run.info.status, run.data.tags["csm.state"]) == (status, state)
    assert run.data.tags.get("csm.failed_task") == (None if status == "FINISHED" else "train")


def test_a_bundle_is_registered_by_its_address_not_by_a_pods_path(cluster: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_json(bundle / "manifest.json", {"digest": "b" * 64, "precision": "int8"})
    tracker = tracker_of("", "run-3")
    assert tracker is not None
    figures = {"wer": 0.1, "speaker_accuracy": 1.0, "wer_int8_delta": 0.0}
    address = "s3://pipelines/csm-release/run-3/bundle"
    result = register(
        bundle, tmp_path / "out", figures=figures, gate=Gate(), tracker=tracker, model="on-cluster", source=address
    )
    assert (result.promoted, result.champion_bundle) == (True, address)
    champion = tracker.by_alias("on-cluster", "champion")
    assert champion is not None
    assert champion.source == address
    (run,) = tracker.client.search_runs([tracker.experiment_id], "tags.`csm.run` = 'run-3' and run_name = 'register'")
    assert run.data.tags["promoted"] == "True"


def test_without_a_server_or_a_name_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracker_of("", "run-4") is None
    assert run_step("ingest", tmp_path, run="run-4").turns == 9
    end_run("run-4", state="SUCCEEDED")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracker_of("") is None
    assert run_step("ingest", tmp_path).turns == 9
