"""What Volcano and the Kubeflow Trainer do to their jobs, over `kube_api.KubeApi`: pods are made, watched and removed.

Volcano: a pod for each replica of each task with the variables of the plugins `svc` and `env`, all or nothing; phases
Pending, Running, Restarting, Completed, Failed, Aborted; policies of job and task for PodFailed, PodEvicted; restarts
up to `maxRetry`; an aborted job loses its running pods; an ended job goes after its `ttlSecondsAfterFinished`.

Trainer: a TrainJob whose runtime is there becomes `numNodes` pods with the PET_ variables that torchrun reads, from the
trainer's command and the runtime patches; conditions Suspended, Complete, Failed; `activeDeadlineSeconds`.

All pods share one machine, so every host name that the plugins give is that of the loopback.
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from kube_api import KubeApi, RefusedError, Thing, merged, now

HOST = "localhost"
ENDED = ("Completed", "Failed", "Terminated", "Aborted")


class Controller:
    """Looks at every object of one kind, again and again."""

    kind: ClassVar[tuple[str, str]]

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.05):
            for job in self.api.find(*self.kind):
                with suppress(RefusedError):  # somebody else was faster: the next look sees what is there then
                    self.reconcile(job)

    def reconcile(self, job: Thing) -> None:
        """Takes one job a step further."""
        raise NotImplementedError

    def set_status(self, job: Thing, status: Thing) -> None:
        """Writes a job's status, where it is another."""
        if job.get("status") != status:
            self.api.replace({**job, "status": status}, status=True)

    def pods(self, job: Thing) -> list[Thing]:
        """The pods that a job owns."""
        return [
            pod
            for pod in self.api.find("", "pods", job["metadata"]["namespace"])
            if any(owner["uid"] == job["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences", []))
        ]

    def remove(self, pods: list[Thing]) -> None:
        """Deletes pods that are not being deleted."""
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"]:
                with suppress(RefusedError):
                    self.api.delete("", "pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def make_pod(self, job: Thing, name: str, template: Thing, labels: dict[str, str], env: list[Thing]) -> None:
        """Creates one pod of a job; its containers get `env` before their own."""
        pod = copy.deepcopy(template)
        pod |= {"apiVersion": "v1", "kind": "Pod"}
        meta = pod.setdefault("metadata", {})
        owner = {key: job[key] for key in ("apiVersion", "kind")} | {
            "name": job["metadata"]["name"], "uid": job["metadata"]["uid"], "controller": True,
        }  # fmt: skip
        meta |= {"name": name, "ownerReferences": [owner], "labels": meta.get("labels", {}) | labels}
        for container in pod["spec"]["containers"]:
            container["env"] = [*env, *container.get("env", [])]
        self.api.create(pod, namespace=job["metadata"]["namespace"])


def phase_of(pod: Thing) -> str:
    """A pod's phase."""
    return str(pod.get("status", {}).get("phase", "Pending"))


class Volcano(Controller):
    """The controller of `batch.volcano.sh/v1alpha1` jobs."""

    kind = ("batch.volcano.sh", "jobs")

    def __init__(self, api: KubeApi) -> None:
        super().__init__(api)
        self._ended: dict[str, float] = {}

    def reconcile(self, job: Thing) -> None:
        """See `Controller.reconcile`."""
        status = copy.deepcopy(job.get("status") or {"state": {"phase": "Pending"}, "retryCount": 0})
        phase, pods = status["state"]["phase"], self.pods(job)
        if phase in ENDED:
            self.remove([pod for pod in pods if phase_of(pod) in ("Pending", "Running")])
            self._expire(job)
            return
        if phase == "Restarting":
            self.remove(pods)
            if not pods:
                status["retryCount"] += 1
                again = status["retryCount"] < job["spec"].get("maxRetry", 3)
                status["state"] = {"phase": "Pending" if again else "Failed", "lastTransitionTime": now()}
        elif phase == "Pending" and not pods:
            self._make_pods(job)
        else:
            status["state"]["phase"] = self._phase(job, pods, phase)
        status["taskStatusCount"] = {
            pod["metadata"]["labels"]["volcano.sh/task-spec"]: {"phase": {phase_of(pod): 1}} for pod in pods
        }
        self.set_status(job, status)

    def _phase(self, job: Thing, pods: list[Thing], phase: str) -> str:
        total = sum(task["replicas"] for task in job["spec"]["tasks"])
        phases = [phase_of(pod) for pod in pods]
        if len(pods) < total or "Failed" in phases:
            event = "PodFailed" if "Failed" in phases else "PodEvicted"
            if phase == "Running" and self._action(job, event) == "RestartJob":
                return "Restarting"
        if len(pods) == total and all(each in ("Succeeded", "Failed") for each in phases):
            return "Failed" if "Failed" in phases else "Completed"
        return "Running" if phases.count("Running") == total else phase

    def _action(self, job: Thing, event: str) -> str:
        policies = [policy for part in (job["spec"], *job["spec"]["tasks"]) for policy in part.get("policies", [])]
        for policy in policies:
            if event in (policy.get("event"), *policy.get("events", [])):
                return str(policy["action"])
        return ""

    def _make_pods(self, job: Thing) -> None:
        name, tasks = job["metadata"]["name"], job["spec"]["tasks"]
        hosts = [
            {"name": f"VC_{task['name'].upper().replace('-', '_')}_{what}", "value": value}
            for task in tasks
            for what, value in (("HOSTS", ",".join([HOST] * task["replicas"])), ("NUM", str(task["replicas"])))
        ]
        own = {"schedulerName": job["spec"].get("schedulerName", "volcano")}
        if "priorityClassName" in job["spec"]:
            own["priorityClassName"] = job["spec"]["priorityClassName"]
        for task in tasks:
            labels = {"volcano.sh/job-name": name, "volcano.sh/task-spec": task["name"]}
            template = merged(task["template"], {"spec": own})
            for index in range(task["replicas"]):
                place = [{"name": f"{kind}_TASK_INDEX", "value": str(index)} for kind in ("VC", "VK")]
                self.make_pod(job, f"{name}-{task['name']}-{index}", template, labels, [*hosts, *place])

    def _expire(self, job: Thing) -> None:
        meta, ttl = job["metadata"], job["spec"].get("ttlSecondsAfterFinished")
        ended = self._ended.setdefault(meta["uid"], time.monotonic())
        if ttl is not None and time.monotonic() - ended > ttl:
            self.api.delete(*self.kind, meta["namespace"], meta["name"])


class Trainer(Controller):
    """The controller of `trainer.kubeflow.org/v1alpha1` TrainJobs.

    Args:
        api: the cluster.
        runtimes: names of the ClusterTrainingRuntimes that are there; all of them have one replicated job `node`.
        port: of the rendezvous.
    """

    kind = ("trainer.kubeflow.org", "trainjobs")

    def __init__(self, api: KubeApi, *, runtimes: tuple[str, ...] = ("torch-distributed",), port: int = 29400) -> None:
        super().__init__(api)
        self.runtimes, self.port = runtimes, port

    def reconcile(self, job: Thing) -> None:
        """See `Controller.reconcile`."""
        conditions = {row["type"]: row for row in job.get("status", {}).get("conditions", [])}
        pods = self.pods(job)
        if any(conditions.get(end, {}).get("status") == "True" for end in ("Complete", "Failed")):
            self.remove([pod for pod in pods if phase_of(pod) in ("Pending", "Running")])
            return
        if job["spec"]["runtimeRef"]["name"] not in self.runtimes:
            self._condition(job, "Failed", "TrainingRuntimeNotSupported", "the referenced runtime does not exist")
            return
        if job["spec"].get("suspend"):
            self.remove(pods)
            if not pods:
                self._condition(job, "Suspended", "Suspended", "TrainJob is suspended")
            return
        if not pods:
            self._make_pods(job)
            return
        phases = [phase_of(pod) for pod in pods]
        began = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        limit = job["spec"].get("activeDeadlineSeconds")
        if limit is not None and (datetime.now(UTC) - began).total_seconds() > limit:
            self._condition(job, "Failed", "DeadlineExceeded", "TrainJob was active longer than its deadline")
        elif "Failed" in phases:
            self._condition(job, "Failed", "JobSetFailed", "jobset failed due to one or more job failures")
        elif all(phase == "Succeeded" for phase in phases):
            self._condition(job, "Complete", "JobsCompleted", "jobset completed successfully")

    def _condition(self, job: Thing, kind: str, reason: str, message: str) -> None:
        rows = [row for row in job.get("status", {}).get("conditions", []) if row["type"] != kind]
        row = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        self.set_status(job, {**job.get("status", {}), "conditions": [*rows, row]})

    def _make_pods(self, job: Thing) -> None:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        count = trainer.get("numNodes", 1)
        container: dict[str, Any] = {key: trainer[key] for key in ("image", "command", "args", "env") if key in trainer}
        container |= {"name": "node", "resources": trainer.get("resourcesPerNode", {})}
        owner = {"jobset-name": name, "replicatedjob-name": "node"}
        for index in range(count):
            torch = {
                "PET_NNODES": count, "PET_NPROC_PER_NODE": trainer.get("numProcPerNode", 1), "PET_NODE_RANK": index,
                "PET_MASTER_ADDR": HOST, "PET_MASTER_PORT": self.port,
            }  # fmt: skip
            env = [{"name": key, "value": str(value)} for key, value in torch.items()]
            template = {"spec": {"containers": [copy.deepcopy(container)], "restartPolicy": "Never"}}
            for patch in job["spec"].get("runtimePatches", []):
                template = _patched(template, patch)
            labels = {f"jobset.sigs.k8s.io/{key}": value for key, value in owner.items()}
            labels |= {"batch.kubernetes.io/job-completion-index": str(index)}
            self.make_pod(job, f"{name}-node-0-{index}-{uuid.uuid4().hex[:5]}", template, labels, env)


def _patched(template: Thing, patch: Thing) -> Thing:
    """A pod template with one entry of `runtimePatches` merged into it, containers by their names."""
    spec = patch.get("trainingRuntimeSpec", {}).get("template", {}).get("spec", {})
    for row in spec.get("replicatedJobs", []):
        pod = row.get("template", {}).get("spec", {}).get("template", {})
        pieces = {piece["name"]: piece for piece in pod.get("spec", {}).get("containers", [])}
        rest = {key: value for key, value in pod.get("spec", {}).items() if key != "containers"}
        template = merged(template, {"metadata": pod.get("metadata", {}), "spec": rest})
        for container in template["spec"]["containers"]:
            piece = pieces.get(container["name"], {})
            assert "env" not in piece, "the webhook lets only the trainer set the environment of its container"
            container |= piece
    return template
