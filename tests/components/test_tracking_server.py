"""The record of a run whose steps are pods: a real MLflow server, its artefacts in a real S3, a client without keys."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_proxy import FAULTS, Fault, faulty_proxy
from mlflow_server import mlflow_server
from waiting import HANG_S, eventually

from csm_components import outbox, tracking
from csm_components.finish.step import end_run
from csm_components.job import StepJob
from csm_components.recorded_names import name_recorded, recorded_file, recorded_name
from csm_components.register.gate import Gate
from csm_components.register.step import register
from csm_components.settings import Settings
from csm_components.spec import Kind, Output, StepSettings, StepSpec
from csm_components.steps import perform
from csm_components.storage import open_storage
from csm_components.tracking import Tracker, tracker_of
from csm_components.train import progress
from csm_components.train.knobs import TrainSettings
from csm_components.train.progress import read_rows
from csm_components.train.step import train
from csm_model.errors import InputError, MissingDependencyError
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
    monkeypatch.setattr(tracking, "_LAST_PATIENCE_S", HANG_S)  # a machine may be slow
    monkeypatch.setattr(tracking, "PATIENCE_S", HANG_S)
    return server


@dataclass
class Trouble:
    """What is wrong with the way to the server."""

    fault: Fault | None = None
    rng: random.Random | None = None
    """Draws another fault for a third of all requests."""
    hangs: threading.Event | None = None
    """What is asked is held until it is set."""
    asked: int = 0

    def plan(self, method: str, path: str) -> Fault | None:
        self.asked += 1
        if self.hangs is not None:
            self.hangs.wait(HANG_S)
        if self.rng is not None:
            return self.rng.choice(FAULTS) if self.rng.random() < 0.33 else None
        return self.fault


@pytest.fixture
def trouble(cluster: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trouble]:
    """A way to the server on which things go wrong."""
    found = Trouble()
    with faulty_proxy(cluster.removeprefix("http://"), found.plan) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{proxy.address}")
        yield found
        if found.hangs is not None:
            found.hangs.set()


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


def test_steps_that_start_at_once_make_one_parent(cluster: str, tmp_path: Path) -> None:
    program = """if True:
        import sys
        from csm_components import tracking
        from csm_components.tracking import Tracker

        tracking._LAST_PATIENCE_S = 300.0
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
    pods = []
    for number in range(5):
        (tmp_path / f"pod-{number}").mkdir()  # as pods have it: what waits for MLflow is each one's own
        pods.append(
            subprocess.Popen(
                [sys.executable, "-c", program, f"step-{number}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "TMPDIR": str(tmp_path / f"pod-{number}")},
            )
        )  # fmt: skip
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


def say_all(tracker: Tracker, step: str, folder: Path) -> tracking.RunLog:
    """A step that says something of every kind."""
    (folder / f"{step}.txt").write_text(step)
    with tracker.step(step) as log:
        log.params({"seed": 3, "loss_weights": {"tag:laughing (loud)": 0.5}})
        log.rows([(number, number / 10, {"loss": 1 / number}) for number in range(1, 6)])
        log.metrics({"turns": 9})
        log.tags({"colour": "blue"})
        log.dataset("demo", digest="d" * 64, source="corpus", profile={"turns": 9}, context="dataset")
        log.artifact(folder / f"{step}.txt")
    return log


def is_recorded(tracker: Tracker, log: tracking.RunLog) -> None:
    """All that such a step said is there, once."""
    run = tracker.client.get_run(log.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == tracker.pipeline_run_id()
    assert {name_recorded(key) for key in run.data.params} == {"seed", "loss_weights.tag:laughing (loud)"}
    assert (run.data.metrics["turns"], run.data.tags["colour"]) == (9, "blue")
    points = tracker.client.get_metric_history(log.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(number, 1 / number) for number in range(1, 6)]
    assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == ["d" * 36]
    assert [entry.path for entry in tracker.client.list_artifacts(log.run_id)] == [f"{run.info.run_name}.txt"]


@pytest.mark.parametrize("fault", ["busy", "no answer"])
def test_what_a_server_in_trouble_does_not_take_waits_and_is_sent_later(
    trouble: Trouble, tmp_path: Path, fault: Fault
) -> None:
    folder, said = tmp_path / "runs" / f"down-{fault.replace(' ', '-')}", []
    folder.mkdir(parents=True)
    trouble.fault = fault
    logs = []
    for step in ("ingest", "tokenise"):  # each a process of its own, which knows nothing of the other
        logs.append(say_all(Tracker(folder=folder, say=said.append), step, folder))
        assert logs[-1].run_id == ""
    assert len(said) == 2, "each step says it once"
    assert all("the work goes on" in line and str(folder / "unrecorded.jsonl") in line for line in said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "REGISTRY_PATIENCE_S", 0.0)
        with pytest.raises(MissingDependencyError, match=r"^MLflow at http://.*check MLFLOW_TRACKING_URI$"):
            Tracker(folder=folder).register("down", source="s", run_id=None, tags={}, description="")
    trouble.fault = None
    later = Tracker(folder=folder, say=said.append)
    third = say_all(later, "train", folder)
    assert len(said) == 2
    assert not (folder / "unrecorded.jsonl").exists()
    for log in (*logs, third):
        is_recorded(later, tracking.RunLog(later, log._target["step"]))
    asked = trouble.asked
    assert Tracker(folder=folder).flush(), "nothing waits: nobody is asked"
    assert trouble.asked == asked


def test_what_is_sent_on_a_bad_way_is_recorded_once(
    trouble: Trouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of the requests fails: before MLflow has them, after, or in the middle of the answer."""
    monkeypatch.setattr(outbox, "AGAIN_S", 0.0)
    trouble.rng = random.Random(0)
    tracker = Tracker(folder=tmp_path / "runs" / "bad-way", say=lambda line: None)
    tracker.outbox.path.parent.mkdir(parents=True)
    log = say_all(tracker, "ingest", tmp_path)
    eventually(tracker.flush)
    trouble.rng = None
    is_recorded(tracker, log)


def test_a_server_that_hangs_holds_a_step_up_for_its_patience_only(
    trouble: Trouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.2)
    trouble.hangs, said = threading.Event(), []
    folder = tmp_path / "runs" / "hangs"
    folder.mkdir(parents=True)
    tracker = Tracker(folder=folder, say=said.append)
    log = say_all(tracker, "ingest", folder)
    (line,) = said
    assert "takes no record now (no answer in 0 s)" in line
    assert (folder / "unrecorded.jsonl").exists()
    trouble.hangs.set()
    eventually(tracker.flush)
    is_recorded(tracker, log)


def test_a_run_that_is_deleted_while_it_is_written_to_is_restored(cluster: str, tmp_path: Path) -> None:
    tracker = Tracker(folder=tmp_path / "runs" / "deleted")
    with tracker.step("train") as log:
        log.metrics({"loss": 3.0}, step=1)
        run_id = log.run_id
        tracker.client.delete_run(run_id)
        log.metrics({"loss": 2.0}, step=2)
    run = tracker.client.get_run(run_id)
    assert (run.info.lifecycle_stage, run.info.status) == ("active", "FINISHED")
    assert [point.step for point in tracker.client.get_metric_history(run_id, "loss")] == [1, 2]
    tracker.client.delete_run(run_id)
    with Tracker(folder=tmp_path / "runs" / "deleted").step("train") as again:
        assert again.run_id != run_id, "deleted after its end it stays so"
    assert tracker.client.get_run(run_id).info.lifecycle_stage == "deleted"


def test_what_is_said_of_a_deleted_experiment_waits_until_it_is_restored(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSM_EXPERIMENT", "doomed")
    folder, said = tmp_path / "runs" / "doomed", []
    folder.mkdir(parents=True)
    tracker = Tracker(folder=folder, say=said.append)
    with tracker.step("train") as log:
        assert log.run_id
        tracker.client.delete_experiment(tracker.experiment_id)
        log.metrics({"loss": 2.0})
    say_all(Tracker(folder=folder, say=said.append), "ingest", folder)
    assert len(said) == 2
    assert all("experiment 'doomed' was deleted: restore it, or set another CSM_EXPERIMENT" in line for line in said)
    found = tracker.client.get_experiment_by_name("doomed")
    assert found is not None
    tracker.client.restore_experiment(found.experiment_id)
    later = Tracker(folder=folder)
    assert later.flush()
    is_recorded(later, tracking.RunLog(later, "ingest"))
    assert tracker.client.get_run(log.run_id).data.metrics["loss"] == 2.0


def test_a_training_goes_on_while_its_server_is_away_and_no_point_is_lost(
    trouble: Trouble, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes after the first line of progress, and comes back after the end."""
    monkeypatch.setattr(progress, "_LOOK_EVERY_SECONDS", 0.0)
    run, said = tmp_path / "runs" / "outage", []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("step "):
            trouble.fault = "no answer"

    recipe = {
        "model": "debug", "steps": 12, "row_length": 256, "batch_packs": 2, "warmup_steps": 1, "log_every": 1,
        "validate_every": 6, "checkpoint_every": 6,
    }  # fmt: skip
    tracker = Tracker(folder=run, say=said.append)
    settings = TrainSettings(recipe=recipe, nodes="1x1")
    assert train(tokens, run / "train", settings=settings, tracker=tracker, say=say).steps == 12
    assert len([line for line in said if "takes no record now" in line]) == 1
    assert tracker.outbox.path.exists()
    trouble.fault = None
    later = Tracker(folder=run)
    assert later.flush()
    log = tracking.RunLog(later, "train")
    rows = read_rows(run / "train" / "metrics.jsonl")
    for name in {name for row in rows for name in row} - {"step", "steps", "time"}:
        points = later.client.get_metric_history(log.run_id, name)
        first = {row["step"]: row[name] for row in reversed(rows) if name in row}  # of a step's rows, one is recorded
        assert [(point.step, point.value) for point in points] == sorted(first.items())
    assert later.client.get_run(log.run_id).info.status == "FINISHED"
    assert {entry.path for entry in later.client.list_artifacts(log.run_id)} == {"loss.png", "config.json"}


ALPHABET = "ab1_-. :/\\x0028F,()#?%&'\"`;=+@~ä日\t\n\0\U0001f600\ud800"


def names_of(rng: random.Random, count: int) -> list[str]:
    """Names as data may have them: any letters, any length."""
    odd = [
        "a" * 6000,
        "ä" * 6000,
        "x" * 251,
        "_x0028_",
        "it's",
        'a"b',
        "../../etc",
        "/",
        "a//b",
        "%2e%2e",
        "ends.",
        " ",
    ]
    return odd + ["".join(rng.choices(ALPHABET, k=rng.randint(1, 40))) for _ in range(count)]


def test_any_name_and_any_value_is_recorded_and_read_back(cluster: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    names = names_of(rng, 120)
    values = dict(zip(names, [*rng.sample(names, len(names) - 2), "", "NaN"], strict=True))
    numbers = {name: rng.choice([0.0, -1.5, 1e300, 5e-324, float(rng.random())]) for name in names}
    nothing = {f"{name}?": value for name, value in zip(names, [float("nan"), float("inf"), None] * 9, strict=False)}
    files = {name.replace("/", "|").replace("\0", "|").encode("utf-8", "replace").decode() for name in names}
    files = {name for name in files if len(os.fsencode(name)) < 250 and name not in (".", "..")}
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in files:
        (kept / name).write_text(name)
    said: list[str] = []
    tracker = Tracker(folder=tmp_path / "runs" / 'it\'s a "run"', say=said.append)
    with tracker.step("any (step) 'of' all") as log:
        log.params(values)
        log.metrics({**numbers, **nothing})
        log.tags(values)
        log.artifact(kept)
    run = tracker.client.get_run(log.run_id)
    assert said == []
    short = {name for name in names if len(recorded_name(name)) < 230}
    assert len(short) > 100
    assert len(run.data.params) == len(set(names)), "those that are cut stay apart"
    found = {name_recorded(key): name_recorded(value) for key, value in run.data.params.items()}
    told = {name_recorded(key): name_recorded(value) for key, value in run.data.tags.items()}
    for name in short:
        if len(values[name]) < 800:
            assert found[name] == values[name]
            assert told.get(name, "") == values[name]
        assert len(found[name]) <= 6000
    figures = {name_recorded(key): value for key, value in run.data.metrics.items()}
    assert {name: figures[name] for name in short} == {name: numbers[name] for name in short}
    assert len(figures) == len(set(names)), "what is no number is no figure"
    listed = {name_recorded(Path(entry.path).name): entry.path for entry in tracker.client.list_artifacts(log.run_id)}
    whole = {name for name in files if len(recorded_file(name)) < 230}
    assert len(listed) == len(files)
    assert len(whole) > 80
    assert whole <= set(listed)
    for name in rng.sample(sorted(whole), 5):
        got = tracker.client.download_artifacts(log.run_id, listed[name], str(tmp_path))
        assert Path(got).read_text() == name
    with Tracker(folder=tmp_path / "runs" / 'it\'s a "run"').step("any (step) 'of' all") as again:
        assert again.run_id == log.run_id, "it is found again"
