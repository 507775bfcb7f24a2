"""torchx's Kubernetes scheduler, which makes a Volcano Job, with what it cannot say put into its request.

torchx gives a job a random name, one task a replica, and requests that are smaller than the limits by what a node keeps
for itself. Here the name is the caller's, so that a second launcher finds the job of the first; pods fit Pod Security
"restricted"; a job whose pods fail or are evicted begins again as a whole, and an ended one goes after a time.
"""

from __future__ import annotations

import json
from typing import Any

from torchx.schedulers.api import DescribeAppResponse
from torchx.schedulers.kubernetes_scheduler import (
    JOB_STATE,
    KubernetesJob,
    KubernetesScheduler,
    Opts,
    sanitize_for_serialization,
)
from torchx.specs import AppDef, AppDryRunInfo, AppState

from csm_components.cluster import VOLCANO_JOB, Cluster
from csm_components.targets import TrainTarget
from csm_components.train.pod import container_fields, labels, pod_fields


class VolcanoScheduler(KubernetesScheduler):  # type: ignore[misc]  # torchx carries no types
    """Makes one Volcano Job, called as the application is.

    Args:
        cluster: where.
        target: how.
    """

    def __init__(self, cluster: Cluster, target: TrainTarget) -> None:
        super().__init__("csm", client=cluster.connection)
        self._cluster, self._target = cluster, target

    def options(self) -> Opts:
        """torchx's options for the target."""
        return Opts(
            queue=self._target.queue,
            namespace=self._target.namespace,
            service_account=self._target.service_account,
            priority_class=self._target.priority_class or None,
            validate_spec=False,  # the API refuses a wrong one when it is created
            reserved_millicpu=0,
            reserved_memmb=0,
        )

    def _submit_dryrun(self, app: AppDef, cfg: Opts) -> AppDryRunInfo[KubernetesJob, Opts]:
        info = super()._submit_dryrun(app, cfg)
        job: dict[str, Any] = sanitize_for_serialization(info.request.resource)
        job = json.loads(json.dumps(job).replace(job["metadata"]["name"], app.name))
        target, spec = self._target, job["spec"]
        job["metadata"] |= {"namespace": target.namespace, "labels": labels(app.name)}
        spec |= {
            "minAvailable": len(spec["tasks"]),
            "maxRetry": target.max_retries + 1,  # Volcano gives up when it has restarted so often
            "ttlSecondsAfterFinished": target.ttl_s,
            "policies": [{"events": ["PodEvicted", "PodFailed"], "action": "RestartJob"}],
        }
        for task in spec["tasks"]:
            _complete(task["template"], app.name, target)
        info.request.resource = job
        return info

    def schedule(self, dryrun_info: AppDryRunInfo[KubernetesJob, Opts]) -> str:
        """Makes the job; torchx's own would hide that there is one under a ValueError."""
        made = self._cluster.create(VOLCANO_JOB, dryrun_info.request.resource)
        return f"{self._cluster.namespace}:{made['metadata']['name']}"

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """The job's phase; torchx's own also asks for each pod."""
        job = self._cluster.get(VOLCANO_JOB, app_id.partition(":")[2])
        if job is None:
            return None
        phase = job.get("status", {}).get("state", {}).get("phase", "Pending")
        return DescribeAppResponse(app_id=app_id, state=JOB_STATE.get(phase, AppState.UNKNOWN))

    def _cancel_existing(self, app_id: str) -> None:
        """Aborts the job; its pods get their grace period."""
        # torchx replaces the whole status, which the controller may have changed meanwhile.
        self._cluster.patch_status(VOLCANO_JOB, app_id.partition(":")[2], {"state": {"phase": "Aborted"}})


def _complete(template: dict[str, Any], name: str, target: TrainTarget) -> None:
    template["metadata"]["labels"] |= labels(name)
    pod = template["spec"]
    pod |= pod_fields(target) | {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "activeDeadlineSeconds": target.timeout_s,
    }
    for container in pod["containers"]:
        container |= container_fields()
        if target.env_from_secrets:
            container["envFrom"] = [{"secretRef": {"name": secret}} for secret in target.env_from_secrets]
