"""Time of an optimiser step: matrix products, the optimiser's reading and writing, and what goes between GPUs.

What is computed and what is sent run side by side, so a step takes the longer of the two, and then the optimiser's
update. The shares of the peaks that are reached are assumptions (`Assumptions`), measured nowhere here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from csm_model.errors import InputError
from csm_model.planner.flops import Flops, block_weights, forward_flops, parameter_count
from csm_model.planner.hardware import Gpu
from csm_model.planner.job import TrainingJob
from csm_model.planner.tape import FLOAT, HALF

UPDATE_BYTES = 28
"""Of memory that AdamW's fused update moves for a parameter: reads it, its gradient and two moments, writes three."""
CLIP_BYTES = 12
"""Of memory that clipping moves for a parameter: reads the gradient twice, writes it once."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is not known before it is measured."""

    mfu: float = 0.35
    """Share of a GPU's peak that the matrix products of a step reach, those that are done twice among them."""
    link_share: float = 0.8
    """Share of a link's bandwidth that collectives reach."""
    reserve_gb: float = 3.0
    """Memory that is nobody's tensor: CUDA context, NCCL and cuBLAS buffers, fragmentation; in 10^9 bytes."""
    gpus_per_node: int = 8
    """GPUs behind one another's links."""

    def __post_init__(self) -> None:
        for name in ("mfu", "link_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InputError(f"{name} {getattr(self, name)}: must be more than 0, and at most 1")
        if not 0 <= self.reserve_gb < math.inf:
            raise InputError(f"reserve_gb {self.reserve_gb}: must be 0 or more, and finite")
        if self.gpus_per_node < 1:
            raise InputError(f"gpus_per_node {self.gpus_per_node}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One optimiser step."""

    flops: float
    """Model FLOPs of one process."""
    compute: float
    """Seconds of matrix products, those done twice included."""
    exchange: float
    """Seconds of collectives, beside the computing."""
    update: float
    """Seconds of clipping and of AdamW's update."""
    sent_gb: float
    """What a process receives in collectives, in 10^9 bytes."""
    rows: float
    """Rows of all processes that are not padding."""

    @property
    def seconds(self) -> float:
        """Of a step."""
        return max(self.compute, self.exchange) + self.update

    @property
    def bound(self) -> str:
        """What a step waits for."""
        return "compute" if self.compute >= self.exchange else "exchange"

    @property
    def rows_per_second(self) -> float:
        """Of all processes, padding left out."""
        return self.rows / self.seconds


def step_flops(job: TrainingJob) -> Flops:
    """Of the forward pass of one micro-batch, padding left out."""
    load = job.load
    padding = round(job.row_length * job.speech.padding)
    lengths = list(load.documents)
    if padding:
        for _ in range(job.micro_packs):
            lengths.remove(padding)
    return forward_flops(
        job.sizes, row_lengths=lengths, depth_frames=load.depth, first_targets=load.first, text_targets=load.text
    )


def timing(job: TrainingJob, gpu: Gpu, assumptions: Assumptions) -> Timing:
    """How long a step takes."""
    forward = step_flops(job)
    done = forward.step + (forward.blocks if job.recompute else 0.0)
    peak = (gpu.tflops if job.bf16 else gpu.fp32_tflops) * 1e12
    mine = parameter_count(job.sizes) / (job.gpus if job.sharded else 1)
    sent = sent_bytes(job)
    return Timing(
        flops=forward.step * job.accumulation,
        compute=done * job.accumulation / (peak * assumptions.mfu),
        exchange=exchange_seconds(sent, job.gpus, gpu, assumptions),
        update=(UPDATE_BYTES + CLIP_BYTES) * mine / (gpu.memory_gbs * 1e9),
        sent_gb=sent * (job.gpus - 1) / job.gpus / 1e9,
        rows=job.packs * job.row_length * (1.0 - job.speech.padding),
    )


def sent_bytes(job: TrainingJob) -> float:
    """Bytes of the tensors that all processes exchange in a step, as gathers: one reduces, gathers, or scatters all."""
    parameters = parameter_count(job.sizes)
    if job.gpus == 1:
        return 0.0
    if not job.sharded:
        return 2.0 * FLOAT * parameters  # an all-reduce is a reduce-scatter and an all-gather
    blocks = sum(part.layers * (block_weights(part) + 2 * part.dim) for part in (job.sizes.backbone, job.sizes.depth))
    gathered = (2.0 * blocks + parameters - blocks) * (HALF if job.bf16 else FLOAT)
    return gathered * job.accumulation + FLOAT * parameters


def exchange_seconds(bytes_: float, gpus: int, gpu: Gpu, assumptions: Assumptions) -> float:
    """Seconds to gather tensors of so many bytes, each GPU holding its share of them.

    Inside a node a GPU receives what the others hold. Between nodes a node receives once what the others hold, through
    the network of all its GPUs.
    """
    per_node = min(gpus, assumptions.gpus_per_node)
    nodes = -(-gpus // per_node)
    inside = bytes_ * (gpus - 1) / gpus / (gpu.link_gbs * 1e9) if per_node > 1 else 0.0
    between = bytes_ * (nodes - 1) / nodes / (per_node * gpu.network_gbs * 1e9)
    return max(inside, between) / assumptions.link_share
