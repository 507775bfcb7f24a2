"""The steps of a release as a pod does them: no folder of the run, inputs of other pods, MLflow by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_container import executor_input

from csm_components.artefacts import Artefact
from csm_components.deploy.spec import DEPLOY
from csm_components.evaluate.outcome import EvaluateResult
from csm_components.finish.spec import END_RUN
from csm_components.kubeflow import KubeflowTask
from csm_components.register.spec import REGISTER
from csm_components.spec import StepSpec
from csm_components.steps import perform
from csm_components.storage import open_storage
from csm_components.tracking import Tracker
from csm_model.errors import InputError
from csm_model.files import digest_of, digest_of_file, read_json, write_json

RUN = "0f8c1c9a-run"
FIGURES: dict[str, Any] = dict.fromkeys(EvaluateResult.__dataclass_fields__, 0.0) | {
    "speaker_accuracy": 1.0,
    "mos": 4.0,
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The address of what export wrote, as far as its manifest and files go."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    files = {"model.safetensors": digest_of_file(folder / "model.safetensors")}
    write_json(folder / "manifest.json", {"precision": "int8", "files": files, "digest": digest_of(files)})
    Artefact(url=str(folder), digest=digest_of(files)).save(tmp_path / "bundle.json")
    return tmp_path / "bundle.json"


def test_register_deploy_and_the_end_of_the_run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("CSM_EXPERIMENT", "releases")

    def pod(spec: StepSpec, outputs: Path, **given: Any) -> dict[str, Any]:
        """Does a step; what it said to Kubeflow."""
        task = KubeflowTask(executor_input(spec, outputs, {"run": RUN, "release_model": "csm-demo", **given}))
        task.leave(spec, perform(task.job(spec, outputs / "scratch")))
        said: dict[str, Any] = read_json(outputs / "executor_output.json")
        return said

    def register(name: str, **changes: float) -> Path:
        write_json(tmp_path / name / "result.json", FIGURES | changes)
        Artefact(url=str(tmp_path / name)).save(tmp_path / f"{name}.json")
        said = pod(
            REGISTER,
            tmp_path / f"register-{name}",
            bundle=bundle,
            evaluation=tmp_path / f"{name}.json",
            gate_max_wer="0.15",
        )
        assert said["parameterValues"]["promoted"] is (not changes)
        return tmp_path / f"register-{name}" / "version"

    def deploy(version: Path) -> dict[str, Any]:
        return pod(DEPLOY, tmp_path / "deploy", version=version, bundle=bundle)

    with pytest.raises(InputError, match=r"version 1 of csm-demo is not released: wer 0\.500 misses"):
        deploy(register("missed", wer_generated=0.5))
    (told,) = deploy(register("passed"))["artifacts"]["release"]["artifacts"]
    digest = told["metadata"]["bundle_digest"] if "bundle_digest" in told["metadata"] else Artefact.load(bundle).digest
    assert open_storage().trees("bundles/") == [f"bundles/{digest}"]
    release = Artefact.load(tmp_path / "deploy" / "release").fetch(tmp_path / "values")
    values = yaml.safe_load((release / "values.yaml").read_text())
    assert values["bundle"] == {"url": f"{tmp_path / 'storage'}/bundles/{digest}", "digest": digest}

    tracker = Tracker(run=RUN)
    champion = tracker.by_alias("csm-demo", "champion")
    assert champion is not None
    assert champion.tags["published"] == values["bundle"]["url"]
    status = {"state": "FAILED", "pipelineTaskName": "deploy", "error": {"code": 2, "message": "not synced"}}
    pod(END_RUN, tmp_path / "end", status=status)
    parent = tracker.client.get_run(tracker.pipeline_run_id())
    assert (parent.info.status, parent.data.tags["csm.failure"]) == ("FAILED", "not synced")
    runs = tracker.client.search_runs([tracker.experiment_id])
    assert parent.info.artifact_uri.startswith(f"file://{tmp_path}/mlruns/"), (
        "beside the file, not where it was started"
    )
    assert {run.info.run_name: run.info.status for run in runs} == {
        RUN: "FAILED",
        "register": "FINISHED",
        "deploy": "FINISHED",
    }
