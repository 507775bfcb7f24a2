"""What a cluster is asked for: golden files of both backends, checked strictly; run this file to write them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_schemas import check

from csm_components.cluster import Cluster
from csm_components.settings import Settings
from csm_components.targets import TrainTarget
from csm_components.train.app import LaunchSpec, build_app
from csm_components.train.pod import check_target
from csm_components.train.remote import job_name
from csm_components.train.torchx_trainjob import TrainJobScheduler
from csm_components.train.torchx_volcano import VolcanoScheduler
from csm_model.errors import InputError

GOLDEN = Path(__file__).parent / "golden"
IMAGE = f"ghcr.io/csm-foundry/train@sha256:{'0' * 64}"
NAME = "csm-train-0123456789abcdef"
TARGET: dict[str, Any] = {
    "namespace": "csm-training",
    "image": IMAGE,
    "image_pull_secrets": ["csm-registry"],
    "queue": "csm-training",
    "priority_class": "csm-training",
    "service_account": "csm-trainer",
    "cpu": 8,
    "memory_mb": 65_536,
    "gpus": 2,
    "node_selector": {"accelerator": "a100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "env_from_secrets": ["csm-storage", "csm-tracking"],
    "env": {"NCCL_DEBUG": "WARN"},
}


def request(backend: str, nodes: str = "4x2", **changes: Any) -> dict[str, Any]:
    """What the backend would send, though there is no cluster."""
    target = TrainTarget(**TARGET | {"backend": backend} | changes)
    spec = LaunchSpec(
        module="csm_components.train.worker",
        args=("--job", NAME),
        name=NAME,
        nodes=nodes,
        threads=8,
        log_dir=Path("logs"),
        env={"CSM_STORAGE": "s3://csm/production", "MLFLOW_RUN_ID": "0f" * 16},
    )
    cluster = NoCluster(target.namespace)
    app = build_app(spec, rendezvous_port=target.rendezvous_port, target=target)
    scheduler = {"volcano": VolcanoScheduler, "trainjob": TrainJobScheduler}[backend](cluster, target)
    made = scheduler.submit_dryrun(app, scheduler.options()).request
    return json.loads(json.dumps(made if isinstance(made, dict) else made.resource))


class NoCluster(Cluster):
    """A namespace that nobody may ask."""

    connection = None  # type: ignore[assignment]


def pod_specs(made: dict[str, Any]) -> list[dict[str, Any]]:
    if made["kind"] == "TrainJob":
        jobs = made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        return [job["template"]["spec"]["template"] for job in jobs]
    return [task["template"] for task in made["spec"]["tasks"]]


@pytest.mark.parametrize("backend", ["volcano", "trainjob"])
def test_the_request_is_the_golden_one_and_the_api_would_take_it(backend: str) -> None:
    made = request(backend)
    check(made)
    assert made == yaml.safe_load((GOLDEN / f"{backend}.yaml").read_text())
    assert made == request(backend), "a second launcher must ask for the same"


@pytest.mark.parametrize("backend", ["volcano", "trainjob"])
def test_pods_are_restricted_and_bounded(backend: str) -> None:
    for template in pod_specs(request(backend)):
        pod, (container,) = template["spec"], template["spec"]["containers"]
        assert template["metadata"]["labels"]["csm.foundry/training"] == NAME
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]} == {
            "/dev/shm": "shm",
            "/tmp": "tmp",
        }
        (shm,) = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
        assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "2048Mi"}
        assert pod["nodeSelector"] == {"accelerator": "a100"}
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert pod["imagePullSecrets"] == [{"name": "csm-registry"}]
        assert pod["terminationGracePeriodSeconds"] == 300


def test_a_volcano_job_is_a_gang_that_restarts_and_goes_away() -> None:
    made = request("volcano", max_retries=3, ttl_s=60)
    spec = made["spec"]
    assert (spec["queue"], spec["priorityClassName"], spec["schedulerName"]) == (
        "csm-training",
        "csm-training",
        "volcano",
    )
    assert (spec["minAvailable"], len(spec["tasks"])) == (4, 4)
    assert (spec["maxRetry"], spec["ttlSecondsAfterFinished"]) == (4, 60)
    assert spec["policies"] == [{"events": ["PodEvicted", "PodFailed"], "action": "RestartJob"}]
    for number, task in enumerate(spec["tasks"]):
        assert len(f"{NAME}-{task['name']}-0") <= 63
        pod, (container,) = task["template"]["spec"], task["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"cpu": "8000m", "memory": "65536M", "nvidia.com/gpu": "2"}
        assert container["resources"]["requests"] == {"cpu": "8000m", "memory": "65536M"}
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["csm-storage", "csm-tracking"]
        assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("csm-trainer", False)
        env = {row["name"]: row.get("value") for row in container["env"]}
        assert (env["NCCL_DEBUG"], env["MLFLOW_RUN_ID"]) == ("WARN", "0f" * 16)
        where = "TORCHX_RANK0_HOST" if number == 0 else "VC_AGENT_0_HOSTS"
        command = container["command"][2]
        assert f"--rdzv_endpoint ${{{where}:=localhost}}:29500 --rdzv_id '{NAME}'" in command
        assert env.get("TORCHX_RANK0_HOST") == ("localhost" if number == 0 else None)


def test_a_train_job_says_nothing_that_its_runtime_says() -> None:
    made = request("trainjob", timeout_s=3600)
    trainer = made["spec"]["trainer"]
    (command,) = trainer["args"][1:]
    assert command.startswith("exec python -m csm_components.train.guard torch.distributed.run --tee 3 --role '' -m ")
    assert command.endswith(f"csm_components.train.guard csm_components.train.worker --job {NAME}")
    assert not {word for word in command.split() if word.startswith(("--rdzv", "--nnodes", "--nproc", "--node"))}
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 2)
    assert not [row["name"] for row in trainer["env"] if row["name"].startswith("PET_")]
    names = [row["name"] for row in trainer["env"]]
    assert len(names) == len(set(names)), "the API refuses a variable that is there twice"
    assert made["spec"]["activeDeadlineSeconds"] == 3600
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "csm-training"
    wanted = {"cpu": "8", "memory": "65536M", "nvidia.com/gpu": "2"}
    assert trainer["resourcesPerNode"] == {"limits": wanted, "requests": wanted}


@pytest.mark.parametrize(
    ("changes", "storage", "message"),
    [
        ({"image": ""}, "s3://b", "has no image"),
        ({"image": "ghcr.io/x/train:1.0"}, "s3://b", "may change: name it by digest"),
        ({}, "", "agents on other machines see only S3"),
        ({}, "/mnt/here", "agents on other machines see only S3"),
    ],
)
def test_what_no_job_could_be_made_of_is_said_before_one_is(changes: Any, storage: str, message: str) -> None:
    target = TrainTarget(**TARGET | {"backend": "volcano"} | changes)
    with pytest.raises(InputError, match=message):
        check_target(target, Settings(storage=storage))


def test_a_job_is_called_the_same_in_every_attempt_of_a_step_and_of_no_other() -> None:
    name = job_name("csm-training-8f3k2" * 9, "train", "0" * 64)
    assert name == job_name("csm-training-8f3k2" * 9, "train", "0" * 64)
    assert (len(name), name.startswith("csm-train-")) == (26, True)
    others = {job_name("another run", "train", "0" * 64), job_name("csm-training-8f3k2" * 9, "train", "1" * 64)}
    assert len(others | {name}) == 3


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in ("volcano", "trainjob"):
        (GOLDEN / f"{name}.yaml").write_text(yaml.safe_dump(request(name), sort_keys=False, width=120))
