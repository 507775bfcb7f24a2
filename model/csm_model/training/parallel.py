"""Parallelism, put on from outside: one process or many, as torchrun's environment says.

Two strategies. `ddp` keeps the whole model in every process and averages gradients. `fsdp` is FSDP2
([Zhao et al. 2023](https://arxiv.org/abs/2304.11277)): each process holds its share of the parameters, gradients and
optimiser state in float32, and gathers one block at a time for its use.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from csm_model.transformer import Block, attended

Strategy = Literal["ddp", "fsdp"]
HANG_SECONDS = 600.0
"""A collective that takes longer is a peer that hangs; a peer that died is noticed at once."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the processes of the job."""

    rank: int
    size: int
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all."""
        if self.size > 1:
            dist.barrier()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def most(self, value: float) -> float:
        """The largest of the processes' values."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return float(largest)

    def agree(self, value: Any) -> Any:
        """What the leading process says."""
        said = [value]
        if self.size > 1:
            dist.broadcast_object_list(said)
        return said[0]


@contextmanager
def joined_world() -> Iterator[World]:
    """Joins the job that torchrun's environment describes (gloo, and nccl where there is CUDA); alone without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size == 1:
        yield World(rank=0, size=1, device=device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=HANG_SECONDS))
    try:
        yield World(rank=dist.get_rank(), size=size, device=device)
    finally:
        dist.destroy_process_group()


def blocks(module: nn.Module) -> list[Block]:
    """The transformer blocks of a module."""
    return [each for each in module.modules() if isinstance(each, Block)]


def parallelise(
    module: nn.Module, world: World, *, strategy: Strategy, bf16: bool, recompute: bool, compiled: bool
) -> nn.Module:
    """Puts on a module what the settings ask for.

    Args:
        module: the model with its loss; under `fsdp` it may be on the meta device, and is then still without memory.
        world: the processes.
        strategy: how they share the work; without effect for one process.
        bf16: under `fsdp`, parameters are gathered in bfloat16, and gradients reduced in float32.
        recompute: activations of a block are computed again in the backward pass, and not kept.
        compiled: each block goes through torch.compile, but for the attention of packed documents.
    """
    for block in blocks(module):
        if recompute:
            block.recomputed = True
        if compiled:  # documents have other lengths in every batch: what depends on them stays outside of the graphs
            block.attn.attended = torch.compiler.disable(attended)  # type: ignore[no-untyped-call]
            block.compile()  # type: ignore[no-untyped-call]
    if world.size == 1:
        return module
    if strategy == "ddp":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return nn.parallel.DistributedDataParallel(module)
    mesh = init_device_mesh(world.device.type, (world.size,))
    # Weights of targets and rotary angles go in as they are: what is multiplied with weights is bfloat16 already.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks(module):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    return module


def synchronised(module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Around a micro-batch: gradients are exchanged with the last one of a step only."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        return module.no_sync()
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    return nullcontext()


def without_wrapper(module: nn.Module) -> nn.Module:
    """The module as it was before `parallelise` (under `fsdp`, its parameters stay shared out)."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
