"""Where training processes run and what a release is rolled out by: what a cluster's profile says of both.

A profile (`csm_pipelines.profile`) holds these; a step reads them from its environment (`csm_components.settings`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from csm_model.planner.hardware import GPUS


class TrainTarget(BaseModel):
    """Where torchx starts the torchrun agents."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backend: Literal["local", "volcano", "trainjob"] = "local"
    """`local`: processes beside the step; `volcano`: torchx's Kubernetes scheduler; `trainjob`: Kubeflow Trainer v2."""
    namespace: str = "default"
    """Namespace of the job."""
    image: str = ""
    """Image of the agents, by digest; a cluster's backend needs one."""
    image_pull_secrets: list[str] = []
    """Secrets for that image's registry."""
    queue: str = "default"
    """Volcano's queue, or Kueue's LocalQueue for a TrainJob."""
    priority_class: str = ""
    """PriorityClass of the pods (Kueue's WorkloadPriorityClass for a TrainJob); empty takes the cluster's default."""
    service_account: str = "default"
    """ServiceAccount of the agents; they need no rights."""
    runtime: str = "torch-distributed"
    """ClusterTrainingRuntime of a TrainJob."""
    cpu: int = Field(default=4, ge=1)
    """Cores of an agent's pod."""
    memory_mb: int = Field(default=16_384, ge=512)
    """Memory of an agent's pod, MiB."""
    shared_memory_mb: int = Field(default=2_048, ge=64)
    """Size of /dev/shm, MiB."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of an agent's pod."""
    gpu: str = ""
    """Model of those GPUs, as `csm plan --gpu` names it; a recipe that it has not the memory for is refused before a
    run. Empty checks nothing."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of that resource."""
    node_selector: dict[str, str] = {}
    """Labels that a node must have."""
    tolerations: list[dict[str, Any]] = []
    """Taints that the pods put up with, as Kubernetes writes them."""
    env_from_secrets: list[str] = []
    """Secrets whose keys become the agents' environment; for a TrainJob, S3's of the first and MLflow's of the last."""
    env: dict[str, str] = {}
    """More environment of the agents."""
    user: int = Field(default=10_001, ge=1)
    """User and group that the agents run as."""
    max_retries: int = Field(default=2, ge=0)
    """How often a failed job is started again, from its last checkpoint."""
    timeout_s: int = Field(default=7 * 86_400, ge=60)
    """Longest time of a job, seconds."""
    start_timeout_s: int = Field(default=21_600, ge=1)
    """Seconds that a pod may wait for its turn in the queue, for a node, its image or its secrets."""
    grace_s: int = Field(default=300, ge=1)
    """Seconds that workers get to save when the job is stopped."""
    rendezvous_port: int = Field(default=29_500, ge=1, le=65_535)
    """Port of the first agent's pod at which the others meet it; Volcano only, for a TrainJob its runtime says."""
    ttl_s: int = Field(default=86_400, ge=0)
    """Seconds that an ended job stays for its logs."""

    @field_validator("gpu")
    @classmethod
    def _known(cls, gpu: str) -> str:
        if gpu and gpu not in GPUS:
            raise ValueError(f"gpu {gpu!r} is unknown; there are {', '.join(GPUS)}, or leave it out")
        return gpu


class DeployTarget(BaseModel):
    """What a release is rolled out by."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["none", "argocd"] = "none"
    """`none`: the release is published, for whoever keeps the environment; `argocd`: its Application is told."""
    application: str = ""
    """Name of the Argo CD Application of csm-serving."""
    namespace: str = "argocd"
    """Its namespace."""
    timeout_s: int = Field(default=1_800, ge=1)
    """Seconds that the rollout may take."""
