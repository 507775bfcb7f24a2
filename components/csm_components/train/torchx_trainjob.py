"""A torchx scheduler that makes a TrainJob of the Kubeflow Trainer (v2), from the same `AppDef` as any other.

The Trainer tells torchrun about nodes, workers and rendezvous through PET_ variables, so those arguments are taken out
of the command. What it lets a job change of its runtime's pods goes into `runtimePatches`; there are no retries in a
TrainJob, so the launcher makes one that failed again, and no time to live, so one that has ended well stays.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Scheduler, StructuredOpts
from torchx.specs import AppDef, AppDryRunInfo, AppState, CfgVal, macros, runopts

from csm_components.cluster import TRAIN_JOB, Cluster
from csm_components.targets import TrainTarget
from csm_components.train.pod import S3_KEYS, TRACKING_KEYS, container_fields, labels, pod_fields

MANAGER = "csm.foundry/launcher"
_COVERED = {f"--{name}" for name in ("nnodes", "nproc_per_node", "node_rank")} | {
    f"--rdzv_{name}" for name in ("backend", "conf", "endpoint", "id")
}
"""Options of torchrun that the Trainer's variables stand for."""
_ENDS = {"Complete": AppState.SUCCEEDED, "Failed": AppState.FAILED, "Suspended": AppState.CANCELLED}


@dataclass
class TrainJobOpts(StructuredOpts):  # type: ignore[misc]  # torchx carries no types
    """Options of the scheduler: none, for the target says everything."""


class TrainJobScheduler(Scheduler[TrainJobOpts]):  # type: ignore[misc]
    """Makes one TrainJob, called as the application is.

    Args:
        cluster: where.
        target: how.
    """

    def __init__(self, cluster: Cluster, target: TrainTarget) -> None:
        super().__init__("trainjob", "csm")
        self._cluster, self._target = cluster, target

    def options(self) -> TrainJobOpts:
        """The options for the target."""
        return TrainJobOpts()

    def schedule(self, dryrun_info: AppDryRunInfo[dict[str, Any], TrainJobOpts]) -> str:
        """Makes the job."""
        made = self._cluster.create(TRAIN_JOB, dryrun_info.request)
        return f"{self._cluster.namespace}:{made['metadata']['name']}"

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """The state that the job's conditions tell."""
        job = self._cluster.get(TRAIN_JOB, app_id.partition(":")[2])
        if job is None:
            return None
        conditions = {row["type"]: row for row in job.get("status", {}).get("conditions", [])}
        for kind, state in _ENDS.items():
            if conditions.get(kind, {}).get("status") == "True":
                return DescribeAppResponse(app_id=app_id, state=state, msg=conditions[kind].get("message", ""))
        return DescribeAppResponse(app_id=app_id, state=AppState.RUNNING)

    def list(self, cfg: Mapping[str, CfgVal] | None = None) -> list[ListAppResponse]:
        """Refused: a launcher knows its job by name, and its role may not list others."""
        raise NotImplementedError("list them with kubectl get trainjobs -l app.kubernetes.io/component=training")

    def _submit_dryrun(self, app: AppDef, cfg: TrainJobOpts) -> AppDryRunInfo[dict[str, Any], TrainJobOpts]:
        return AppDryRunInfo(train_job(app, self._target), lambda job: json.dumps(job, indent=2))

    def _cancel_existing(self, app_id: str) -> None:
        """Suspends the job; its pods get their grace period."""
        self._cluster.patch(TRAIN_JOB, app_id.partition(":")[2], {"spec": {"suspend": True}})

    def _delete_existing(self, app_id: str) -> None:
        self._cluster.delete(TRAIN_JOB, app_id.partition(":")[2])

    def _run_opts(self) -> runopts:
        return runopts()

    def _validate(self, app: AppDef, scheduler: str, cfg: TrainJobOpts) -> None:
        """Nothing: the API refuses a wrong one."""


def train_job(app: AppDef, target: TrainTarget) -> dict[str, Any]:
    """The TrainJob of an application with one role."""
    (role,) = app.roles
    role = macros.Values(img_root="", app_id=app.name, replica_id="0", rank0_env="PET_MASTER_ADDR").apply(role)
    shell, line = role.args
    command, workers = _without_covered(line)
    resources = {
        "cpu": str(target.cpu),
        "memory": f"{int(role.resource.memMB)}M",
        **{name: str(count) for name, count in role.resource.devices.items()},
    }
    env = [{"name": name, "value": value} for name, value in role.env.items()]
    meta = {"name": app.name, "namespace": target.namespace, "labels": labels(app.name)}
    meta["labels"]["kueue.x-k8s.io/queue-name"] = target.queue
    if target.priority_class:
        meta["labels"]["kueue.x-k8s.io/priority-class"] = target.priority_class
    pod = pod_fields(target) | {"containers": [{"name": "node", **container_fields()}]}
    node = {"name": "node", "template": {"spec": {"template": {"metadata": {"labels": labels(app.name)}, "spec": pod}}}}
    return {
        "apiVersion": f"{TRAIN_JOB.group}/{TRAIN_JOB.version}",
        "kind": "TrainJob",
        "metadata": meta,
        "spec": {
            "activeDeadlineSeconds": target.timeout_s,
            "runtimeRef": {"name": target.runtime},
            "trainer": {
                "image": role.image,
                "command": [role.entrypoint],
                "args": [shell, command],
                "env": [*env, *_from_secrets(target)],
                "numNodes": role.num_replicas,
                "numProcPerNode": workers,
                "resourcesPerNode": {"limits": resources, "requests": resources},
            },
            "runtimePatches": [
                {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}}}
            ],
        },
    }


def _without_covered(line: str) -> tuple[str, int]:
    """A torchrun command without what the Trainer's variables say, and the workers of an agent."""
    words, kept, workers = iter(shlex.split(line)), [], 1
    for word in words:
        if word in _COVERED:
            value = next(words)
            workers = int(value) if word == "--nproc_per_node" else workers
        else:
            kept.append(word)
    return shlex.join(kept), workers


def _from_secrets(target: TrainTarget) -> list[dict[str, Any]]:
    """A trainer takes no whole secret, and no variable twice: S3's keys come from the first, MLflow's from the last."""
    secrets = target.env_from_secrets
    places = {S3_KEYS: secrets[:1], TRACKING_KEYS: secrets[-1:]}
    return [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}
        for keys, found in places.items()
        for secret in found
        for key in keys
    ]
