"""Profiles of clusters: what they refuse, what a step gets of them, and what really reaches the compiled pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from csm_components.targets import TrainTarget
from csm_model.errors import InputError
from csm_pipelines.compiling import compile_pipeline
from csm_pipelines.places import Place
from csm_pipelines.profile import PROFILES, ClusterProfile, load_profile

DIGEST = "ghcr.io/csm-foundry/data@sha256:" + "d" * 64
TRAIN = "ghcr.io/csm-foundry/train@sha256:" + "e" * 64
FULL: dict[str, Any] = {
    "namespace": "csm-training",
    "images": {"data": DIGEST, "train": TRAIN, "pull_secrets": ["registry"], "pull_policy": "Always"},
    "storage": {"url": "s3://bucket/csm", "endpoint": "https://s3.example:9000", "secret": "s3", "region": "eu-1"},
    "tracking": {
        "url": "https://mlflow.example",
        "experiment": "calls",
        "secret": "mlflow",
        "keys": {"MLFLOW_TRACKING_TOKEN": "token"},
    },
    "pushgateway": "http://push.example:9091",
    "labels": {"team": "speech"},
    "run": {"parallelism": 3, "timeout_s": 7200, "keep_s": 60},
    "steps": {
        "default": {
            "cpu": "500m",
            "memory": "1Gi",
            "retries": {"count": 3, "wait_s": 10, "factor": 3, "longest_s": 90},
        },
        "train": {
            "cpu": "2",
            "cpu_limit": "3500m",
            "memory": "4Gi",
            "memory_limit": "8Gi",
            "gpus": 2,
            "gpu_resource": "amd.com/gpu",
            "shared_memory": "1Gi",
            "scratch": {"size": "20Gi"},
            "volumes": [{"claim": "datasets", "path": "/data", "sub_path": "calls"}],
            "node_selector": {"disk": "fast"},
            "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "seconds": 60}],
            "env": {"NCCL_DEBUG": "WARN"},
            "timeout_s": 3600,
        },
    },
    "train": {"backend": "volcano", "queue": "speech"},
    "deploy": {"kind": "argocd", "application": "csm"},
}


def profile(folder: Path, **changes: Any) -> ClusterProfile:
    """`FULL` with changes, from its file."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**FULL, **changes}))
    return load_profile(str(path))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Executors of the IR, and those of its Kubernetes part, without the prefix of their names."""
    found = profile(tmp_path_factory.mktemp("profile"))
    ir, platform = yaml.load_all(
        compile_pipeline("nightly", found, keys={"train": "k" * 64}, model="calls"), yaml.CSafeLoader
    )
    kubernetes = platform["platforms"]["kubernetes"]

    def plain(rows: dict[str, Any]) -> dict[str, Any]:
        return {name.removeprefix("exec-"): row for name, row in rows.items()}

    executors = {name: row["container"] for name, row in plain(ir["deploymentSpec"]["executors"]).items()}
    executors["pipeline"], executors["tasks"] = kubernetes["pipelineConfig"], ir
    return executors, plain(kubernetes["deploymentSpec"]["executors"])


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["value"] for row in container["env"]}


def test_images_reach_the_ir_one_a_role(compiled: Any) -> None:
    executors, _ = compiled
    assert executors["train"]["image"] == TRAIN
    assert {executors[step]["image"] for step in ("ingest-shard", "register", "end-run", "deploy")} == {DIGEST}


def test_resources_reach_the_ir(compiled: Any) -> None:
    resources = compiled[0]["train"]["resources"]
    assert (resources["resourceCpuRequest"], resources["resourceCpuLimit"]) == ("2", "3500m")
    assert (resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]) == ("4Gi", "8Gi")
    assert resources["accelerator"] == {
        "count": "2",
        "resourceCount": "2",
        "resourceType": "amd.com/gpu",
        "type": "amd.com/gpu",
    }
    assert compiled[0]["register"]["resources"]["resourceCpuLimit"] == "500m", "a limit that is left out is the request"


def test_the_environment_reaches_the_ir(compiled: Any) -> None:
    train, deploy = variables(compiled[0]["train"]), variables(compiled[0]["deploy"])
    assert train["CSM_STORAGE"] == "s3://bucket/csm"
    assert (train["CSM_S3_ENDPOINT"], train["CSM_S3_REGION"]) == ("https://s3.example:9000", "eu-1")
    assert (train["MLFLOW_TRACKING_URI"], train["CSM_EXPERIMENT"]) == ("https://mlflow.example", "calls")
    assert (train["CSM_PUSHGATEWAY"], train["CSM_PIPELINE"], train["CSM_MODEL"]) == (
        "http://push.example:9091",
        "nightly",
        "calls",
    )
    assert train["CSM_WORKERS"] == "3", "whole cores of the limit: a pod sees all cores of its node"
    assert variables(compiled[0]["register"])["CSM_WORKERS"] == "1"
    assert (train["NCCL_DEBUG"], train["TMPDIR"]) == ("WARN", "/scratch")
    assert train["CSM_CACHE_KEY"] == "k" * 64
    assert "CSM_CACHE_KEY" not in deploy
    assert json.loads(deploy["CSM_DEPLOY_TARGET"])["application"] == "csm"
    target = TrainTarget(**json.loads(train["CSM_TRAIN_TARGET"]))
    assert (target.backend, target.queue, target.namespace, target.image) == (
        "volcano",
        "speech",
        "csm-training",
        TRAIN,
    )
    assert (target.env_from_secrets, target.image_pull_secrets) == (["s3", "mlflow"], ["registry"])


def test_secrets_are_named_and_no_value_of_them_is_in_the_ir(compiled: Any) -> None:
    rows = {
        row["secretName"]: {each["envVar"]: each["secretKey"] for each in row["keyToEnv"]}
        for row in compiled[1]["train"]["secretAsEnv"]
    }
    assert rows == {
        "s3": {"CSM_S3_ACCESS_KEY": "CSM_S3_ACCESS_KEY", "CSM_S3_SECRET_KEY": "CSM_S3_SECRET_KEY"},
        "mlflow": {"MLFLOW_TRACKING_TOKEN": "token"},
    }
    assert not {"CSM_S3_SECRET_KEY", "MLFLOW_TRACKING_TOKEN"} & set(variables(compiled[0]["train"]))


def test_the_pod_reaches_the_kubernetes_part(compiled: Any) -> None:
    train = compiled[1]["train"]
    assert train["emptyDirMounts"] == [
        {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "1Gi"},
        {"volumeName": "scratch", "mountPath": "/scratch", "sizeLimit": "20Gi"},
    ]
    (claim,) = train["pvcMount"]
    assert (claim["constant"], claim["mountPath"], claim["subPath"]) == ("datasets", "/data", "calls")
    assert train["nodeSelector"] == {"labels": {"disk": "fast"}}
    assert train["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": "60"}
    ]
    assert train["activeDeadlineSeconds"] == "3600"
    assert train["imagePullPolicy"] == "Always"
    assert [row["secretName"] for row in train["imagePullSecret"]] == ["registry"]
    labels = train["podMetadata"]["labels"]
    assert labels["team"] == "speech"
    assert (labels["app.kubernetes.io/component"], labels["csm.foundry/profile"]) == ("train", "mine")


def test_every_step_runs_as_a_user_that_is_not_root(compiled: Any) -> None:
    executors = set(compiled[0]) - {"pipeline", "tasks"}
    assert set(compiled[1]) == executors
    for step, row in compiled[1].items():
        assert row["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}, step


def test_retries_with_their_waits_and_the_limits_of_a_run_reach_the_ir(compiled: Any) -> None:
    components = compiled[0]["tasks"]["components"].values()
    tasks = {name: row for part in components if "dag" in part for name, row in part["dag"]["tasks"].items()}
    assert tasks["ingest-shard"]["retryPolicy"] == {
        "maxRetryCount": 3,
        "backoffDuration": "10s",
        "backoffFactor": 3.0,
        "backoffMaxDuration": "90s",
    }
    assert compiled[0]["pipeline"] == {"activeDeadlineSeconds": 7200, "resourceTtlOnCompletion": 60}


def test_a_step_has_the_default_s_fields_but_for_its_own(tmp_path: Path) -> None:
    found = profile(tmp_path)
    assert found.place("train").retries.count == 3
    assert found.place("train").timeout_s == 3600
    assert found.place("export").cpu == "500m"
    assert found.place("export").timeout_s == 86_400


def test_what_the_training_target_says_itself_stays(tmp_path: Path) -> None:
    found = profile(tmp_path, train={"backend": "trainjob", "namespace": "jobs", "env_from_secrets": ["own"]})
    target = found.train_target()
    assert (target.namespace, target.env_from_secrets, target.image) == ("jobs", ["own"], TRAIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1}, "mine.yaml: speed: there is no such key"),
        ({"steps": {"train": {"gpuz": 1}}}, "steps.train.gpuz: there is no such key"),
        ({"steps": {"default": {"retries": {"tries": 1}}}}, "steps.default.retries.tries: there is no such key"),
        ({"train": {"backend": "slurm"}}, "train.backend 'slurm': Input should be"),
        ({"steps": {"trane": {}}}, "there is no step 'trane'; there are default, plan-ingest"),
        ({"steps": {"train": {"memory": "lots"}}}, "steps.train.memory 'lots'"),
        ({"steps": {"train": {"memory": "1.5Gi"}}}, "steps.train.memory '1.5Gi'"),
        ({"steps": {"train": {"cpu": "0"}}}, "steps.train.cpu '0'"),
        ({"steps": {"train": {"timeout_s": 1}}}, "steps.train.timeout_s 1"),
        ({"steps": {"train": {"tolerations": [{"effect": "NoSchedule"}]}}}, "needs operator: Exists"),
        ({"steps": {"train": {"volumes": [{"claim": "A B", "path": "/d"}]}}}, "steps.train.volumes.0.claim 'A B'"),
        ({"steps": {"train": 3}}, "steps"),
        ({"storage": {"url": "bucket", "endpoint": "http://x:1"}}, "storage.url 'bucket'"),
        ({"storage": {"url": "s3://bucket"}}, "storage.endpoint: is missing"),
        ({"tracking": {"url": "mlflow:5000"}}, "tracking.url 'mlflow:5000'"),
        ({"images": {"data": "ghcr.io/x/data:1", "train": TRAIN}}, "is not named by its digest: give name@sha256:"),
        ({"images": {"data": "ghcr.io/x/data@sha256:1", "train": TRAIN}}, "images.data 'ghcr.io/x/data@sha256:1'"),
        ({"train": {"image": "ghcr.io/x/train:1"}}, "leave it out for that of images.train"),
        ({"train": {"gpu": "h1000"}}, "train.gpu: gpu 'h1000' is unknown; there are b200"),
        ({"deploy": {"kind": "argocd"}}, "deploy.application is missing"),
        ({"run": {"parallelism": 0}}, "run.parallelism 0"),
        ({"user": 0}, "user 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named_by_its_path(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        profile(tmp_path, **changes)
    assert message in str(caught.value)


def test_a_profile_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="profile 'moon': no such file; there are cpu, gpu, kind"):
        load_profile("moon")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(InputError, match=r"broken\.yaml: is no YAML"):
        load_profile(str(tmp_path / "broken.yaml"))
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(InputError, match="must be a mapping"):
        load_profile(str(tmp_path / "list.yaml"))


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES.glob("*.yaml")))
def test_every_profile_that_is_kept_compiles_once_its_images_are_given(name: str) -> None:
    found = load_profile(name, {"data": DIGEST, "train": TRAIN})
    assert found.name == name
    assert DIGEST in compile_pipeline("training", found)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_profiles_for_more_than_this_machine_ask_for_digests(name: str) -> None:
    with pytest.raises(InputError, match="is not named by its digest"):
        load_profile(name)


def fields_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """The dotted names of all fields that hold a value."""
    for name, field in model.model_fields.items():
        either = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
        inner = next((kind for kind in either if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        own = name in ("train", "deploy") or inner is None  # targets have a page of their own
        yield from [f"{before}{name}"] if own else fields_of(inner, f"{before}{name}.")


@pytest.mark.parametrize("name", [*fields_of(ClusterProfile), *fields_of(Place)])
def test_every_field_stands_on_the_page(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert any(f"`{shown}" in row.split("|")[1] for row in rows for shown in (name, f".{name.rpartition('.')[2]}`")), (
        f"docs/pipelines.md has no row for {name}"
    )
