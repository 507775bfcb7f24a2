"""What one step may use of a cluster, and the kinds of values that a profile is made of."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""A name of a Kubernetes object."""
Image = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][\w./:-]*(@sha256:[0-9a-f]{64})?$")]
"""An image, by a tag or by digest."""
Quantity = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*(Ki|Mi|Gi|Ti|K|M|G|T)?$")]
"""An amount of memory or storage, as Kubernetes writes it: 512Mi, 8Gi."""
Cpu = Annotated[str, StringConstraints(pattern=r"^([1-9]\d*m|[1-9]\d*(\.\d+)?|0\.\d*[1-9])$")]
"""An amount of processor, as Kubernetes writes it: 500m, 2, 1.5."""
Path = Annotated[str, StringConstraints(pattern=r"^/[^\s:]+$")]
"""An absolute path in a container."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Retries(_Part):
    """How a failed step is tried again: after `wait_s`, then after `factor` times as long, and so on."""

    count: int = Field(default=2, ge=0, le=10)
    """Tries after the first."""
    wait_s: int = Field(default=30, ge=1)
    """Seconds before the first of them."""
    factor: float = Field(default=2.0, ge=1)
    """Each further wait is so many times as long."""
    longest_s: int = Field(default=600, ge=1)
    """Longest wait, seconds."""


class Toleration(_Part):
    """A taint that pods put up with."""

    key: str | None = None
    """The taint's key; left out for all taints."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """How `value` is compared."""
    value: str | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Its effect; left out for all."""
    seconds: int | None = Field(default=None, ge=0)
    """How long a taint of effect NoExecute is put up with; left out for ever."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.key is None and self.operator != "Exists":
            raise ValueError("a toleration without a key needs operator: Exists")
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("a toleration with operator: Exists has no value")
        return self


class Volume(_Part):
    """A PersistentVolumeClaim that is there already; the user of the steps must be allowed to use its files.

    KFP cannot set a pod's fsGroup, so what a claim holds keeps the owner that it has.
    """

    claim: Name
    """Its name."""
    path: Path
    """Where it is mounted."""
    sub_path: str = ""
    """Folder of it that is mounted; empty is the whole."""


class Scratch(_Part):
    """Room for temporary files on the node's disk; the pod is ended where it takes more."""

    size: Quantity
    """The most that may lie there."""
    path: Path = "/scratch"
    """Where it is mounted."""


class Place(_Part):
    """What a step may use."""

    cpu: Cpu = "1"
    """Processor that is kept for it."""
    cpu_limit: Cpu | None = None
    """The most it may use; left out is `cpu`. Worker processes are as many as whole cores of it."""
    memory: Quantity = "2Gi"
    """Memory that is kept for it."""
    memory_limit: Quantity | None = None
    """The most it may use; left out is `memory`."""
    gpus: int = Field(default=0, ge=0)
    """GPUs."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of that resource."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, which counts as memory; left out is what the container runtime gives, 64 MiB."""
    scratch: Scratch | None = None
    """Room for temporary files; left out they lie in the container, without a bound."""
    volumes: list[Volume] = []
    """Claims that are mounted."""
    node_selector: dict[str, str] = {}
    """Labels that a node must have."""
    tolerations: list[Toleration] = []
    """Taints that the pod puts up with."""
    env: dict[str, str] = {}
    """More environment."""
    retries: Retries = Retries()
    timeout_s: int = Field(default=86_400, ge=60)
    """Longest time of the pod, seconds."""

    @property
    def workers(self) -> int:
        """Whole cores that the step may use, at least one."""
        limit = self.cpu_limit or self.cpu
        cores = int(limit.removesuffix("m")) / 1000 if limit.endswith("m") else float(limit)
        return max(1, int(cores))
