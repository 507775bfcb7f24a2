"""The one specification of a training: a torchx `AppDef`, for the processes of this machine and for a cluster.

It is `dist.torchrun`, whose agents and workers run under `csm_components.train.guard`. What a cluster's job says beside
it (queue, volumes, security context) belongs to the scheduler: `torchx_volcano.py` and `torchx_trainjob.py`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchx.components import dist
from torchx.specs import AppDef

from csm_components.targets import TrainTarget
from csm_components.train.failures import LaunchError
from csm_components.train.guard import AGENT, NAME
from csm_components.train.nodes import parse_nodes
from csm_model.errors import InputError

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Has glibc (2.35) ask for huge pages: with pages of 4 kB a step on a CPU waits more for addresses than for numbers
([benchmarks/huge_pages.py](../../../benchmarks/huge_pages.py))."""
ROLE = "agent"
"""The role's name on a cluster: its replicas are `agent-0`, `agent-1`, ..."""


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What to start, and how often."""

    module: str
    """Module that each worker runs, as `python -m` would."""
    name: str = ""
    """Of the application; a cluster's job is called so. Empty takes the module's."""
    args: tuple[str, ...] = ()
    """Its arguments."""
    nodes: str = "2x1"
    """Agents x workers of each."""
    log_dir: Path
    """Folder for everything that the agents and workers print; a new folder in it for each start."""
    threads: int = 1
    """Compute threads of a worker."""
    pin: bool = True
    """Give each agent its own share of the cores, where there are enough."""
    env: Mapping[str, str] = field(default_factory=dict)
    """More environment for the workers."""

    def __post_init__(self) -> None:
        parse_nodes(self.nodes)
        if self.threads < 1:
            raise InputError(f"threads {self.threads}: must be at least 1")

    @property
    def agents(self) -> int:
        """Number of torchrun agents."""
        return parse_nodes(self.nodes)[0]

    @property
    def world_size(self) -> int:
        """Workers of all agents."""
        agents, workers = parse_nodes(self.nodes)
        return agents * workers


def build_app(spec: LaunchSpec, *, rendezvous_port: int, target: TrainTarget | None = None) -> AppDef:
    """The torchx application: `dist.torchrun`, whose agents and workers both die with the process that started them.

    Args:
        spec: what to start.
        rendezvous_port: where the agents meet, on the machine of the first.
        target: the cluster that it is for; None for this machine.
    """
    env = {
        "OMP_NUM_THREADS": str(spec.threads),
        "GLIBC_TUNABLES": HUGE_PAGES,
        "PYTHONUNBUFFERED": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[${rank}]:",  # torchrun's default is the rank within the agent
    }
    if target is None:
        python = shlex.quote(_literal(sys.executable))  # so that no other torchrun on PATH is taken
        env |= {"PET_LOCAL_ADDR": "localhost", "GLOO_SOCKET_IFNAME": "lo"}  # the host's own name need not resolve
    else:
        python = "python"
        env |= {"HOME": "/tmp", **target.env}  # noqa: S108 - the only folder of the pod that can be written
    app = dist.torchrun(
        spec.module,
        *(_literal(argument) for argument in spec.args),
        m=NAME,
        j=spec.nodes,
        name=spec.name or spec.module.rsplit(".", 1)[-1],
        env={**env, **spec.env},
        rdzv_port=rendezvous_port,
        **({} if target is None else _of_a_pod(target)),
    )
    role = app.roles[0]
    command = role.args[1]
    if role.args[0] != "-c" or not command.startswith("torchrun "):
        raise LaunchError(f"torchx built {command!r}: expected a torchrun command", tail=[], logs=spec.log_dir)
    # `exec`, so that the agent is our own child, or the first process of its container.
    role.args[1] = f"exec {python} -m {NAME} {AGENT} {command.removeprefix('torchrun ')}"
    if target is not None:
        role.name = ROLE
        role.resource.devices = {target.gpu_resource: target.gpus} if target.gpus else {}
    return app


def _literal(word: str) -> str:
    """A word in which torchx finds none of its macros, `${img_root}` and the like."""
    return word.replace("$", "$$")


def _of_a_pod(target: TrainTarget) -> dict[str, Any]:
    return {"image": target.image, "cpu": target.cpu, "memMB": target.memory_mb}
