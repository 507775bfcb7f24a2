"""Parallelism, put on from outside: one process or many, as torchrun's environment says."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the processes of the job."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value = value / self.size
        return value


@contextmanager
def joined_world() -> Iterator[World]:
    """Joins the job that torchrun's environment describes (gloo); alone without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(rank=0, size=1)
        return
    dist.init_process_group("gloo")
    try:
        yield World(rank=dist.get_rank(), size=size)
    finally:
        dist.destroy_process_group()


def distributed(module: nn.Module, world: World) -> nn.Module:
    """Wraps a module so that gradients are averaged over the processes."""
    if world.size == 1:
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nn.parallel.DistributedDataParallel(module)
