"""Memory of one process of a training: the peak over a step, and what it is made of.

The walk goes through a step of the trainer after its first one: the optimiser's states are there. Every part's forward
pass adds what it keeps, every part's backward pass takes that away and leaves gradients; the peak is the most that was
there at any moment. What is not counted is told by `reserve_gb`: the CUDA context, NCCL, libraries and fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from csm_model.planner.flops import parameter_count
from csm_model.planner.job import TrainingJob, Workload
from csm_model.planner.tape import FLOAT, HALF, INT, Kernels, Part, tape

ADAM_STATES = 2
"""Numbers that AdamW keeps for each parameter, in float32."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process at the peak of a step; the fields add up to it."""

    parameters: float
    """In float32: all, or this process's share."""
    gradients: float
    """Those of parameters that are complete at the peak, or gathered up over micro-batches."""
    optimizer: float
    """AdamW's two moments."""
    backbone: float
    """Kept by the backbone and the embeddings for their backward pass."""
    depth: float
    """Kept by the depth decoder."""
    loss: float
    """Kept by heads and losses: log-probabilities in float32."""
    casts: float
    """Autocast's copies of the weights in bf16."""
    gathered: float
    """FSDP2's parameters gathered for use, and gradients on their way to their owners."""
    buckets: float
    """DDP's copies of the gradients."""
    working: float
    """Of the part that runs at the peak: temporaries, and what is computed again."""
    batch: float
    """The micro-batches of a step, and the model's tables."""
    peak: str
    """Where in the step the peak is."""

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(getattr(self, each.name) for each in fields(self) if each.name != "peak"))

    @property
    def activations(self) -> float:
        """Kept for the backward pass."""
        return self.backbone + self.depth + self.loss


@dataclass
class _Held:
    """What is there at a moment, and the fullest moment so far."""

    now: dict[str, float]
    most: Memory | None = None

    def look(self, peak: str, **beside: float) -> None:
        """Compares this moment, with what is there for this moment only."""
        figures = {name: self.now.get(name, 0.0) + beside.get(name, 0.0) for name in _FIGURES}
        seen = Memory(**figures, peak=peak)
        if self.most is None or seen.total > self.most.total:
            self.most = seen

    def add(self, **more: float) -> None:
        for name, value in more.items():
            self.now[name] = self.now.get(name, 0.0) + value


_FIGURES = [each.name for each in fields(Memory) if each.name != "peak"]
_KEPT_BY = {"embedding": "backbone", "backbone": "backbone", "depth": "depth", "loss": "loss"}


def memory(job: TrainingJob, *, load: Workload | None = None, kernels: Kernels | None = None) -> Memory:
    """Memory of a process at the peak of a step.

    Args:
        job: the training.
        load: what its micro-batches hold; the job's mean one where None.
        kernels: what the device fuses; as GPUs do where None.
    """
    load = load or job.load
    parts = tape(job, load, kernels or gpu_kernels(job))
    parameters = parameter_count(job.sizes)
    mine = parameters / (job.gpus if job.sharded else 1)
    held = _Held(
        now={
            "parameters": FLOAT * mine,
            "optimizer": ADAM_STATES * FLOAT * mine,
            "batch": _batch_bytes(job, load),
            "buckets": FLOAT * parameters if job.strategy == "ddp" and job.gpus > 1 else 0.0,
        }
    )
    if job.accumulation > 1:  # FSDP2 keeps the gradients of micro-batches that exchange nothing whole, in float32
        held.add(gradients=FLOAT * parameters)
    (_sharded_step if job.sharded else _whole_step)(job, parts, held)
    held.now |= {"gradients": FLOAT * mine}
    held.look("optimiser step")
    assert held.most is not None
    return held.most


def gpu_kernels(job: TrainingJob) -> Kernels:
    """What GPUs fuse: attention of float32 with grouped heads has no kernel there."""
    grouped = any(part.heads > part.kv_heads for part in (job.sizes.backbone, job.sizes.depth))
    return Kernels(fused_attention=job.bf16 or not grouped)


def _batch_bytes(job: TrainingJob, load: Workload) -> float:
    sizes = job.sizes
    columns = sizes.num_codebooks + 1
    tables = sum(
        FLOAT * rows * (part.dim // part.heads)
        for part, rows in ((sizes.backbone, sizes.max_rows), (sizes.depth, sizes.num_codebooks))
    )
    targets = load.rows + load.depth  # of codebook 0 and of the text, which come along asked for or not; of the depth
    angles = FLOAT * load.rows * (sizes.backbone.dim // sizes.backbone.heads)
    batch = load.rows * columns * (INT + 1) + (INT + FLOAT) * targets
    return job.accumulation * batch + tables + angles


def _whole_step(job: TrainingJob, parts: list[Part], held: _Held) -> None:
    """Forward and backward of a process that has the whole model."""
    for part in parts:
        held.add(casts=part.cast)
        held.look(f"forward, {part.name}", **{_KEPT_BY[part.kind]: part.saved}, working=part.forward)
        held.add(**{_KEPT_BY[part.kind]: part.saved})
    held.add(casts=-sum(part.cast for part in parts if part.again))  # the cache is gone, where nothing else has them
    for part in reversed(parts):
        fresh = FLOAT * (part.largest if job.accumulation > 1 else part.parameters)
        held.look(f"backward, {part.name}", working=part.backward + part.again, gradients=fresh)
        held.add(**{_KEPT_BY[part.kind]: -part.saved}, casts=0.0 if part.again else -part.cast)
        if job.accumulation == 1:
            held.add(gradients=FLOAT * part.parameters)
        if part.name == "projection":  # the audio table's first gradient waits for its second
            held.add(gradients=FLOAT * _audio_table(job))


def _audio_table(job: TrainingJob) -> int:
    return job.sizes.num_codebooks * job.sizes.audio_vocab_size * job.sizes.backbone.dim


def _sharded_step(job: TrainingJob, parts: list[Part], held: _Held) -> None:
    """Forward and backward under FSDP2: blocks are gathered for their use, the rest once for all of the step."""
    gathered = HALF if job.bf16 else FLOAT
    groups = [part.parameters if part.again or part.name in ("backbone", "depth") else 0 for part in parts]
    root = sum(part.parameters for part in parts) - sum(groups)
    held.look("forward, gathering", gathered=2 * gathered * root)
    held.add(gathered=gathered * root)
    for part, block in zip(parts, groups, strict=True):
        held.look(
            f"forward, {part.name}",
            **{_KEPT_BY[part.kind]: part.saved},
            working=part.forward,
            gathered=2 * gathered * block,  # in one piece, and laid out as parameters
        )
        held.add(**{_KEPT_BY[part.kind]: part.saved})
    after = 0  # parameters of the block whose gradients are on their way
    for index in reversed(range(len(parts))):
        part, block = parts[index], groups[index]
        before = next((group for group in reversed(groups[:index]) if group), 0)  # gathered ahead of its use
        own = gathered * (2 * block + before) if block else gathered * part.parameters
        held.look(f"backward, {part.name}", working=part.backward + part.again, gathered=own + FLOAT * after)
        held.add(**{_KEPT_BY[part.kind]: -part.saved})
        if block:
            after = block
            held.add(gradients=FLOAT * block / job.gpus - (FLOAT * block if job.accumulation > 1 else 0.0))
        else:
            held.add(gathered=gathered * part.parameters)  # the gradients of what is gathered once
        if part.name == "projection":  # the audio table's first gradient waits for its second
            held.add(gathered=gathered * _audio_table(job))
    held.add(gathered=-gathered * _audio_table(job))
    held.look("reduction of the gradients", gathered=(FLOAT - gathered) * root)
    held.now["gathered"] = 0.0
