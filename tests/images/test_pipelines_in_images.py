"""The pipelines training and release as they are submitted, every step of them in its image: Kubeflow's own runner for
Docker starts the containers, through the API that podman has for it, as restricted pods; results go to a real S3
store. MLflow is a file here: its server takes no version of a model whose bundle lies on a disk, as that runner leaves
it. Then the step speak, which only `csm run` has.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml
from containers import LIMITS, USER, run_as_pod, writable
from kfp_container import step_here
from object_store import seaweedfs
from waiting import HANG_S, eventually

from csm_components.artefacts import Artefact
from csm_components.settings import Settings
from csm_components.storage import open_storage, open_tree
from csm_components.tracking import Tracker
from csm_pipelines.pipelines import CLUSTER_STEPS, step_of_task

pytestmark = pytest.mark.timeout(2400)  # the first test of an image waits for its build
SETTINGS = ("judge.mos=false", "gate.max_wer=100", "gate.min_speaker_accuracy=0", "gate.max_wer_int8_delta=100")
"""The debug model says nothing; what is tried is the way of a bundle that passes."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the two runs left."""

    artifacts: dict[str, Path]
    """Folder of what each pipeline's steps wrote."""
    settings: Settings
    mlflow: str
    data_image: str


@contextlib.contextmanager
def docker_api(folder: Path) -> Iterator[str]:
    """podman's service, which answers as Docker's does; yields its address."""
    address = f"unix://{folder / 'podman.sock'}"
    service = subprocess.Popen(["podman", "--runtime", "runc", "system", "service", "--time", "0", address])
    try:
        eventually(lambda: service.poll() is not None or (folder / "podman.sock").exists())
        assert service.poll() is None, "podman's service has ended"
        yield address
    finally:
        service.terminate()
        service.wait(HANG_S)


def as_restricted_pod() -> dict[str, Any]:
    """What `containers.as_pod` says, for Docker's API."""
    from docker.types import Ulimit

    limits = [limit.replace("=", ":").split(":") for limit in LIMITS[1::2]]
    return {
        "user": f"{USER}:{USER}",
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["all"],
        "security_opt": ["no-new-privileges"],
        "network_mode": "host",
        "shm_size": "512m",
        "ulimits": [Ulimit(name=name, soft=int(soft), hard=int(hard)) for name, soft, hard in limits],
    }


def run_in_images(ir: str, arguments: dict[str, Any], root: Path) -> None:
    """Runs a compiled pipeline, each task in a container of its own image.

    Kubeflow's runner takes a container that fails for one that ended well; what it did not return is looked for here.
    """
    from kfp import components, local

    own_print = builtins.print
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")  # of kfp: limits of resources have no effect here
            local.init(local.DockerRunner(**as_restricted_pod()), pipeline_root=str(root), raise_on_error=True)
            components.load_component_from_text(ir)(**arguments)
    except (RuntimeError, ValueError) as error:
        pytest.fail(f"{error}; the containers said: {printed.getvalue()[-4000:]}")
    finally:
        builtins.print = own_print  # kfp's threads put one of theirs in its place and may leave it there
        (root / "printed.log").write_text(printed.getvalue())
    for folder in root.glob("csm-*/*"):
        if folder.is_dir() and step_of_task(folder.name) and not (folder / "executor_output.json").exists():
            lines = [line for line in printed.getvalue().splitlines() if "Error" in line]
            pytest.fail(f"{folder.name} failed: {'; '.join(lines[-5:])}; all is in {root / 'printed.log'}")


def profile_of(images: dict[str, str], settings: Settings, mlflow: str) -> dict[str, Any]:
    """This machine as a cluster; what a cluster keeps in secrets stands in the steps' environment."""
    env = {
        "MLFLOW_TRACKING_URI": mlflow,
        "CSM_S3_ACCESS_KEY": settings.s3_access_key,
        "CSM_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
    }
    return {
        "namespace": "here",
        "images": images,
        "storage": {"url": settings.storage, "endpoint": f"http://{settings.s3_endpoint}"},
        "tracking": {"url": "http://unused", "secret": ""},
        "run": {"shards": 2, "parallelism": 2},
        "steps": {"default": {"env": env}},
    }


@pytest.fixture(scope="module")
def story(image_of: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    from csm_pipelines.progress import console_for
    from csm_pipelines.submission import Request, prepare

    images = {role: image_of(role) for role in ("data", "train")}
    home = tmp_path_factory.mktemp("pipelines")
    with (
        seaweedfs(tmp_path_factory.mktemp("store")) as store,
        docker_api(tmp_path_factory.mktemp("docker")) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        settings = store.model_copy(update={"storage": "s3://csm/images"})
        root = writable(home / "artifacts")
        mlflow = f"sqlite:///{root / 'mlflow.db'}"
        profile = profile_of(images, settings, mlflow)
        (home / "here.yaml").write_text(yaml.safe_dump(profile))
        patch.setenv("CSM_S3_ACCESS_KEY", settings.s3_access_key or "")
        patch.setenv("CSM_S3_SECRET_KEY", settings.s3_secret_key.get_secret_value())
        patch.setenv("DOCKER_HOST", address)
        bundle = None
        for pipeline in ("training", "release"):
            request = Request(
                pipeline=pipeline, preset="debug", profile=str(home / "here.yaml"), settings=SETTINGS, bundle=bundle
            )
            with prepare(request) as prepared:
                prepared.send(console_for(io.StringIO()))
                run_in_images(prepared.compile(), dict(prepared.arguments), root)
            (kept,) = open_storage(settings=settings).trees("trained/")
            bundle = f"{settings.storage}/{kept}"
        yield Story(
            artifacts={pipeline: next(root.glob(f"csm-{pipeline}-*")) for pipeline in ("training", "release")},
            settings=settings,
            mlflow=mlflow,
            data_image=images["data"],
        )


def written_by(root: Path) -> dict[str, list[Path]]:
    """What each step's containers returned, by the step."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("executor_output.json")):
        found.setdefault(step_of_task(path.parent.name), []).append(path)
    return found


def test_every_step_of_a_cluster_ran_in_a_container(story: Story) -> None:
    ran = {step: paths for root in story.artifacts.values() for step, paths in written_by(root).items()}
    assert ran.keys() == set(CLUSTER_STEPS)
    owners = {path.stat().st_uid for paths in ran.values() for path in paths}
    assert owners == {USER}, "the images' user wrote what came back"


def test_what_was_released_is_what_was_exported(story: Story) -> None:
    (said,) = written_by(story.artifacts["release"])["export"]
    exported = Artefact.load(said.parent / "bundle").digest
    storage = open_storage(settings=story.settings)
    release = storage.get_json("releases/csm-debug/release.json")
    assert (release["model"], release["digest"]) == ("csm-debug", exported)
    assert storage.has_tree(f"bundles/{exported}")


def test_mlflow_has_both_runs_with_their_steps(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", story.mlflow)
    tracker = Tracker(run="any")
    runs = tracker.client.search_runs([tracker.experiment_id], max_results=200)
    parents = {run.info.run_id: run for run in runs if run.data.tags.get("csm.step") == "pipeline"}
    assert len(parents) == 2
    steps = {run.info.run_name for run in runs if run.data.tags.get("mlflow.parentRunId") in parents}
    assert {"ingest", "train", "evaluate", "register", "deploy"} <= steps
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_the_released_bundle_speaks_in_its_container(story: Story, tmp_path: Path) -> None:
    root, there = story.artifacts["release"], writable(tmp_path / "there")
    folders = {there: "/step"}
    for name, task in (("bundle", "export"), ("version", "register")):
        (file,) = root.rglob(f"{task}/{name}")
        storage, key = open_tree(Artefact.load(file).url, story.settings)
        storage.get_tree(key, tmp_path / "given" / name)
    for path in [tmp_path, *(tmp_path / "given").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    folders[tmp_path / "given"] = "/given:ro"
    command = step_here(
        "speak",
        "/step",
        {"bundle": "/given/bundle", "version": "/given/version"},
        {"release.say": "Good evening.", "judge.max_frames": 25},
    )
    run_as_pod(story.data_image, *command, folders=folders, options=("--shm-size", "512m"))
    (sound,) = there.rglob("*.wav")
    assert 0.1 < soundfile.info(sound).duration < 2.1
