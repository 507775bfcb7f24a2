"""The components of a release as a pod runs them: no folder of the run, inputs of other pods, MLflow by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from kfp import dsl

from csm_components.deploy.component import deploy_component
from csm_components.finish.component import end_run_component
from csm_components.register.component import register_component
from csm_components.register.gate import Gate
from csm_components.storage import open_storage
from csm_components.tracking import Tracker
from csm_model.errors import InputError
from csm_model.files import digest_of, digest_of_file, write_json

RUN = {"run": "0f8c1c9a-run", "code_version": "1"}
FIGURES = dict.fromkeys(Gate.FIGURES, 0.0) | {"speaker_accuracy": 1.0, "mos": 4.0}


@pytest.fixture
def bundle(tmp_path: Path) -> dsl.Model:
    """What export wrote, as far as its manifest and files go."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    files = {"model.safetensors": digest_of_file(folder / "model.safetensors")}
    write_json(folder / "manifest.json", {"precision": "int8", "files": files, "digest": digest_of(files)})
    return dsl.Model(uri=str(folder))


def test_register_deploy_and_the_end_of_the_run(
    bundle: dsl.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("CSM_EXPERIMENT", "releases")
    release = dsl.Artifact(uri=str(tmp_path / "release"))

    def register(name: str, **changes: float) -> dsl.Artifact:
        version = dsl.Artifact(uri=str(tmp_path / name))
        promoted = register_component.python_func(
            bundle=bundle,
            evaluation=dsl.Metrics(metadata=FIGURES | changes),
            gate=json.dumps({"max_wer": 0.15}),
            model="csm-demo",
            version=version,
            **RUN,
        )
        assert promoted is (not changes)
        return version

    def deploy(version: dsl.Artifact) -> str:
        digest: str = deploy_component.python_func(
            version=version, bundle=bundle, model="csm-demo", release=release, **RUN
        )
        return digest

    with pytest.raises(InputError, match=r"version 1 of csm-demo is not released: wer 0\.500 misses"):
        deploy(register("missed", wer=0.5))
    digest = deploy(register("passed"))
    assert open_storage().trees() == [f"bundles/{digest}"]
    values = yaml.safe_load((tmp_path / "release/values.yaml").read_text())
    assert values["bundle"] == {"url": f"{tmp_path / 'storage'}/bundles/{digest}", "digest": digest}
    assert release.metadata["url"] == values["bundle"]["url"]

    tracker = Tracker(run=RUN["run"])
    champion = tracker.by_alias("csm-demo", "champion")
    assert champion is not None
    assert champion.source == bundle.uri
    assert champion.tags["published"] == values["bundle"]["url"]
    ended = dsl.PipelineTaskFinalStatus(
        state="FAILED",
        pipeline_job_resource_name="",
        pipeline_task_name="deploy",
        error_code=2,
        error_message="not synced",
    )
    end_run_component.python_func(status=ended, run=RUN["run"])
    parent = tracker.client.get_run(tracker.pipeline_run_id())
    assert (parent.info.status, parent.data.tags["csm.failure"]) == ("FAILED", "not synced")
    runs = tracker.client.search_runs([tracker.experiment_id])
    assert parent.info.artifact_uri.startswith(f"file://{tmp_path}/mlruns/"), (
        "beside the file, not where it was started"
    )
    assert {run.info.run_name: run.info.status for run in runs} == {
        "0f8c1c9a-run": "FAILED",
        "register": "FINISHED",
        "deploy": "FINISHED",
    }
