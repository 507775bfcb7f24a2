"""Applies a cluster's profile to the tasks of a pipeline while it is compiled.

A pipeline hands every task to `dress`. Without a cluster that leaves a task as it is (`undressed`); for a cluster it
sets image, resources, environment, secrets, volumes, security, retries, limits of time, and the cache.

KFP adds of its own to every pod: no privilege escalation, no capabilities, the runtime's seccomp profile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kfp import kubernetes
from kfp.dsl import PipelineTask, structures

from csm_components.spec import StepSpec
from csm_pipelines.places import Place
from csm_pipelines.profile import ClusterProfile

Dress = Callable[[StepSpec, PipelineTask], PipelineTask]
"""Takes a step and its task, and returns the task."""

SHARED_MEMORY = "/dev/shm"  # noqa: S108  (a mount point)


def undressed(spec: StepSpec, task: PipelineTask) -> PipelineTask:
    """The task as it is, its cache off: Kubeflow's local cache does not see the code of a step."""
    return task.set_caching_options(False)


@dataclass(frozen=True, kw_only=True)
class Dressing:
    """A profile, and the cache keys of this submission."""

    profile: ClusterProfile
    pipeline: str
    """Name of the pipeline; a label of every pod."""
    model: str = ""
    """Registered model that a run is for, a label of its figures."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Cache key of each step that may be reused; a step without one always runs."""

    def __call__(self, spec: StepSpec, task: PipelineTask) -> PipelineTask:
        """Dresses a task."""
        step, profile = spec.step, self.profile
        place = profile.place(step)
        _container(task, profile.image(spec), place, self._variables(step, place))
        key = self.keys.get(step)
        task.set_caching_options(key is not None, cache_key=key)
        _retries(task, place)
        _secrets(task, profile)
        _volumes(task, place)
        _node(task, place)
        kubernetes.set_image_pull_policy(task, profile.images.pull_policy)
        if profile.images.pull_secrets:
            kubernetes.set_image_pull_secrets(task, profile.images.pull_secrets)
        kubernetes.set_security_context(task, run_as_user=profile.user, run_as_group=profile.user, run_as_non_root=True)
        kubernetes.set_timeout(task, place.timeout_s)
        labels = {
            "app.kubernetes.io/name": "csm-pipelines",
            "app.kubernetes.io/component": step,
            "csm.foundry/pipeline": self.pipeline,
            "csm.foundry/profile": profile.name,
            **profile.labels,
        }
        for label, value in labels.items():
            kubernetes.add_pod_label(task, label, value)
        return task

    def _variables(self, step: str, place: Place) -> dict[str, str]:
        profile = self.profile
        key = self.keys.get(step)
        variables = ({} if key is None else {"CSM_CACHE_KEY": key}) | {
            "CSM_STORAGE": profile.storage.url,
            "CSM_S3_ENDPOINT": profile.storage.endpoint,
            "CSM_S3_REGION": profile.storage.region,
            "CSM_PIPELINE": self.pipeline,
            "CSM_EXPERIMENT": profile.tracking.experiment,
            "MLFLOW_TRACKING_URI": profile.tracking.url,
            "CSM_WORKERS": str(place.workers),  # a pod sees all cores of its node
            "HOME": "/tmp",  # noqa: S108  (the one folder that is always writable)
            "PYTHONUNBUFFERED": "1",
        }
        if self.model:
            variables["CSM_MODEL"] = self.model
        if profile.pushgateway:
            variables["CSM_PUSHGATEWAY"] = profile.pushgateway
        if place.scratch is not None:
            variables["TMPDIR"] = place.scratch.path
        if step == "train":
            variables["CSM_TRAIN_TARGET"] = _json(profile.train_target().model_dump())
        if step == "deploy":
            variables["CSM_DEPLOY_TARGET"] = _json(profile.deploy.model_dump())
        return variables | place.env


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(values, sort_keys=True)


def _container(task: PipelineTask, image: str, place: Place, variables: Mapping[str, str]) -> None:
    """Image, resources and environment.

    All at once, and not by the task's setters: each of them has Python read the sources of the whole call stack to name
    its caller, which made a compiled pipeline take seconds.
    """
    container = task.container_spec
    assert container is not None, "a step is one container"
    container.image = image
    container.env = {**(container.env or {}), **variables}
    container.resources = structures.ResourceSpec(
        cpu_request=place.cpu,
        cpu_limit=place.cpu_limit or place.cpu,
        memory_request=place.memory,
        memory_limit=place.memory_limit or place.memory,
        accelerator_type=place.gpu_resource if place.gpus else None,
        accelerator_count=str(place.gpus) if place.gpus else None,
    )


def _retries(task: PipelineTask, place: Place) -> None:
    retries = place.retries
    if retries.count:
        task.set_retry(
            num_retries=retries.count,
            backoff_duration=f"{retries.wait_s}s",
            backoff_factor=retries.factor,
            backoff_max_duration=f"{retries.longest_s}s",
        )


def _secrets(task: PipelineTask, profile: ClusterProfile) -> None:
    for part in (profile.storage, profile.tracking):
        if part.secret:
            kubernetes.use_secret_as_env(task, part.secret, {key: variable for variable, key in part.keys.items()})


def _volumes(task: PipelineTask, place: Place) -> None:
    if (size := place.shared_memory) is not None:
        kubernetes.empty_dir_mount(task, "shared-memory", SHARED_MEMORY, medium="Memory", size_limit=size)
    if place.scratch is not None:
        # Not a volume of its own: it would belong to root, and KFP cannot set an fsGroup.
        kubernetes.empty_dir_mount(task, "scratch", place.scratch.path, size_limit=place.scratch.size)
    for volume in place.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, sub_path=volume.sub_path)


def _node(task: PipelineTask, place: Place) -> None:
    for label, value in place.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for taint in place.tolerations:
        kubernetes.add_toleration(
            task,
            key=taint.key,
            operator=taint.operator,
            value=taint.value,
            effect=taint.effect,
            toleration_seconds=taint.seconds,
        )
