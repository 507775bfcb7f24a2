"""A plan: does it fit, how long does it take, what does it store; and where it does not fit, what would make it fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from csm_model.errors import InputError
from csm_model.planner.hardware import Gpu
from csm_model.planner.job import TrainingJob
from csm_model.planner.memory import Memory, memory
from csm_model.planner.storage import StorageNeed, storage
from csm_model.planner.timing import Assumptions, Timing, timing

MOST_GPUS = 4096
"""More are not proposed."""
SHORTEST_ROWS = 512
"""Rows of a pack below which none are proposed: 40 seconds of conversation."""
WORTH = 0.01
"""A change that saves a smaller share of the memory is not proposed."""
DAY = 86_400.0
TERMS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimiser states",
    "backbone": "activations, backbone",
    "depth": "activations, depth decoder",
    "loss": "activations, logits and losses",
    "casts": "weights cast to bf16",
    "gathered": "FSDP2's gathered blocks",
    "buckets": "DDP's buckets",
    "working": "working memory",
    "batch": "batch and tables",
}
"""What memory is made of, by the names of `Memory`'s fields."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training takes."""

    job: TrainingJob
    gpu: Gpu
    assumptions: Assumptions
    hours: float
    """Of audio."""
    epochs: float
    memory: Memory
    timing: Timing
    storage: StorageNeed

    @property
    def room(self) -> float:
        """Bytes of a GPU that tensors may fill."""
        return self.gpu.memory - self.assumptions.reserve_gb * 1e9

    @property
    def fits(self) -> bool:
        """Whether every process has the memory."""
        return self.memory.total <= self.room

    @property
    def steps(self) -> float:
        """Optimiser steps of all epochs."""
        speech = self.job.speech
        turns = self.hours * 3600.0 / speech.turn_seconds
        return self.epochs * turns * speech.rows_of_turn(self.job.sizes) / self.timing.rows

    @property
    def days(self) -> float:
        """Of all epochs."""
        return self.steps * self.timing.seconds / DAY

    @property
    def mfu(self) -> float:
        """Model FLOPs over what the GPUs could do in the time of a step."""
        peak = self.gpu.tflops if self.job.bf16 else self.gpu.fp32_tflops
        return self.timing.flops / (self.timing.seconds * peak * 1e12)


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change, on top of those before it, and what it comes to."""

    change: str
    """In words of the settings."""
    job: TrainingJob
    memory: Memory


def plan(job: TrainingJob, gpu: Gpu, *, hours: float, epochs: float = 1.0, assumptions: Assumptions) -> Plan:
    """Plans a training."""
    for name, value in (("hours", hours), ("epochs", epochs)):
        if not 0 < value < math.inf:
            raise InputError(f"{name} {value}: must be more than 0, and finite")
    return Plan(
        job=job,
        gpu=gpu,
        assumptions=assumptions,
        hours=hours,
        epochs=epochs,
        memory=memory(job),
        timing=timing(job, gpu, assumptions),
        storage=storage(job, hours),
    )


def _changes(job: TrainingJob) -> Iterator[dict[str, object]]:
    """Changes of settings that save memory, the cheapest first."""
    if not job.bf16:
        yield {"bf16": True}
    if job.sharded and job.accumulation > 1:
        yield {"accumulation": 1}
    if not job.recompute:
        yield {"recompute": True}
    if job.strategy == "ddp" and job.gpus > 1:
        yield {"strategy": "fsdp"}
        if job.accumulation > 1:
            yield {"strategy": "fsdp", "accumulation": 1}
    if job.micro_packs > 1:
        yield {"micro_packs": 1}
    rows = job.row_length
    while rows // 2 >= SHORTEST_ROWS:
        rows //= 2
        yield {"row_length": rows}
    gpus = job.gpus
    while gpus * 2 <= MOST_GPUS:
        gpus *= 2
        yield {"gpus": gpus} if job.strategy == "fsdp" else {"gpus": gpus, "strategy": "fsdp"}


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def until_it_fits(asked: Plan, *, fixed: AbstractSet[str] = frozenset()) -> tuple[list[Remedy], bool]:
    """Changes that save memory, the cheapest first, each on top of those before it, up to the first that fits.

    Args:
        asked: what does not fit.
        fixed: settings that shall stay as they are.

    Returns:
        What was tried, and whether the last of it fits.
    """
    tried: list[Remedy] = []
    job, least = asked.job, asked.memory.total
    waiting: list[dict[str, object]] = []
    for change in _changes(asked.job):
        if fixed & change.keys():
            continue
        waiting.append(change)
        for each in list(waiting):  # what helped nothing before may help now
            other = job.changed(**each)
            need = memory(other)
            if need.total > (1.0 - WORTH) * least:
                continue
            waiting.remove(each)
            named = ", ".join(f"{name}={_written(value)}" for name, value in each.items())
            tried.append(Remedy(change=named, job=other, memory=need))
            job, least = other, need.total
            if least <= asked.room:
                return tried, True
    return tried, False


def why(plan_: Plan) -> str:
    """In one line, what does not fit: by how much, and what fills the memory."""
    need, room = plan_.memory, plan_.room
    terms = {name: getattr(need, name) for name in TERMS}
    largest = sorted(terms, key=lambda name: -terms[name])[:3]
    state = need.parameters + need.gradients + need.optimizer
    alone = "; parameters, gradients and optimiser alone do not fit" if state > room else ""
    parts = ", ".join(f"{TERMS[name]} {terms[name] / 1e9:.1f}" for name in largest)
    over = (need.total - room) / 1e9
    return (
        f"a process needs {need.total / 1e9:.1f} GB and may fill {room / 1e9:.1f}: {over:.1f} too much ({parts}){alone}"
    )
