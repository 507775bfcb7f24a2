"""The settings for Kubeflow Pipelines, over a stand-in for its manifests: same names, and nothing else of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rendering import ci_file, of_kind, read_yaml, render
from kubectl import find_kubectl

FOLDER = Path(__file__).resolve().parent.parent.parent / "deploy" / "kfp"
BASE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: ml-pipeline, namespace: kubeflow, labels: {app: ml-pipeline}}
spec:
  selector: {matchLabels: {app: ml-pipeline}}
  template:
    metadata: {labels: {app: ml-pipeline}}
    spec:
      containers:
        - name: ml-pipeline-api-server
          image: ghcr.io/kubeflow/kfp-api-server:dummy
          args: [--pipelinesStoreKubernetes=true]
          env: [{name: OBJECTSTORECONFIG_HOST, value: seaweedfs.kubeflow}]
          volumeMounts: [{name: webhook-certs, mountPath: /etc/webhook/certs, readOnly: true}]
      volumes:
        - name: webhook-certs
          secret: {secretName: kfp-api-webhook-cert}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kfp-launcher, namespace: kubeflow}
data: {defaultPipelineRoot: ""}
---
apiVersion: v1
kind: Service
metadata: {name: ml-pipeline, namespace: kubeflow}
spec: {selector: {app: ml-pipeline}, ports: [{name: http, port: 8888}]}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What kustomize makes of the folder when the stand-in takes upstream's place."""
    folder = tmp_path_factory.mktemp("kfp")
    shutil.copytree(FOLDER, folder / "kfp")
    (folder / "base").mkdir()
    (folder / "base" / "all.yaml").write_text(BASE, encoding="utf-8")
    (folder / "base" / "kustomization.yaml").write_text("resources: [all.yaml]\n", encoding="utf-8")
    file = folder / "kfp" / "kustomization.yaml"
    text = file.read_text(encoding="utf-8")
    (remote,) = yaml.safe_load(text)["resources"]
    file.write_text(text.replace(f"  - {remote}", "  - ../base"), encoding="utf-8")
    done = subprocess.run([find_kubectl(), "kustomize", folder / "kfp"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def one(things: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [thing for thing in of_kind(things, kind) if thing["metadata"]["name"].startswith(name)]
    return found


def test_upstream_is_pinned_to_one_release() -> None:
    text = (FOLDER / "kustomization.yaml").read_text(encoding="utf-8")
    pins = re.findall(r"github\.com/kubeflow/pipelines/\S+\?ref=([^\s\"]+)", text)
    up = (FOLDER.parent / "kind" / "up.sh").read_text(encoding="utf-8")
    pins += re.findall(r"github\.com/kubeflow/pipelines/\S+\?ref=([^\s\"]+)", up)
    assert len(pins) == 3
    assert set(pins) == {"2.17.0"}


def test_the_api_server_reads_the_settings_and_keeps_what_it_had(built: list[dict[str, Any]]) -> None:
    pod = one(built, "Deployment", "ml-pipeline")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"]}
    assert mounts == {"/config/config.json": "csm-kfp-config", "/etc/webhook/certs": "webhook-certs"}
    assert server["args"] == ["--pipelinesStoreKubernetes=true"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "csm-kfp-config"]
    made = one(built, "ConfigMap", "csm-kfp-config")
    assert volume["configMap"]["name"] == made["metadata"]["name"], (
        "the name follows the content, so that a change rolls out"
    )
    assert made["metadata"]["name"] != "csm-kfp-config"


def test_kubeflow_calls_mlflow_by_a_name_that_it_answers_to(built: list[dict[str, Any]]) -> None:
    settings = json.loads(one(built, "ConfigMap", "csm-kfp-config")["data"]["config.json"])["plugins"]["mlflow"]
    things = render(
        "csm-platform", ci_file("csm-platform", "everything-here"), release="csm-platform", namespace="csm-platform"
    )
    (server,) = [
        thing["spec"]["template"]["spec"]["containers"][0]
        for thing in of_kind(things, "Deployment")
        if thing["metadata"]["name"] == "csm-platform-mlflow"
    ]
    (hosts,) = [word for word in server["command"] if word.startswith("--allowed-hosts=")]
    assert settings["endpoint"].removeprefix("http://") in hosts.partition("=")[2].split(",")
    assert settings["settings"]["authType"] == "basic-auth"
    assert settings["settings"]["workspacesEnabled"] is False


def test_steps_store_where_the_first_tenant_may(built: list[dict[str, Any]]) -> None:
    data = one(built, "ConfigMap", "kfp-launcher")["data"]
    tenants = read_yaml(FOLDER.parent / "tenants" / "tenants.yaml")["tenants"]
    assert data["defaultPipelineRoot"] == f"{tenants[0]['storage']}/pipelines"
    training = render(
        "csm-training",
        FOLDER.parent / "environments" / "kind" / "csm-training.yaml",
        FOLDER.parent / "tenants" / "tenants.yaml",
    )
    (own,) = [
        thing["data"]
        for thing in of_kind(training, "ConfigMap")
        if thing["metadata"].get("namespace") == f"csm-{tenants[0]['name']}"
    ]
    assert yaml.safe_load(data["providers"]) == yaml.safe_load(own["providers"])
    assert data["defaultPipelineRoot"] == own["defaultPipelineRoot"]


@pytest.mark.parametrize("environment", ["kind", "staging", "production"])
def test_the_platform_lets_kubeflow_in(environment: str) -> None:
    values = read_yaml(FOLDER.parent / "environments" / environment / "csm-platform.yaml")
    assert "kubeflow" in values["networkPolicy"]["clientNamespaces"]
