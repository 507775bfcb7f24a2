"""What a forward pass keeps for its backward pass, part by part, in bytes.

Derived from the tensors that autograd saves for `csm_model.transformer`, `csm_model.model` and
`csm_model.training.loss` as they are written; a new operation there wants a line here. Three ways of computing:

- float32: everything is of four bytes.
- autocast (bf16 in one process, or under DDP): weights and linear inputs are cast; the residual stream of the backbone
  stays float32, that of the depth decoder begins with a linear layer and is bf16. A cast that three layers need is made
  and kept three times; a cast weight is kept until its backward pass, or, where that is computed again, to the end of
  the forward pass, by autocast's cache.
- sharded (bf16 under FSDP2): parameters and inputs come cast, everything is bf16 but logits, norms and rotation.

Shapes: R rows of a micro-batch, D model dim, K codebooks, V audio vocabulary, E depth dim, F frames picked, G key-value
heads, H head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from csm_model.config import TransformerConfig
from csm_model.planner.flops import block_weights
from csm_model.planner.job import TrainingJob, Workload

Kind = Literal["embedding", "backbone", "depth", "loss"]
FLOAT, HALF, INT = 4, 2, 8
"""Bytes of float32, bfloat16 and int64."""


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """What the device computes in one piece."""

    fused_norm: bool = True
    """RMSNorm keeps its input and a number a row; else a float32 copy of what it scales too (as on CPUs, and everywhere
    where input and weight are of two types)."""
    fused_attention: bool = True
    """Attention never holds the scores of a document at once."""


CPU = Kernels(fused_norm=False)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the forward pass, in the order in which they run. All figures but `parameters` are bytes."""

    name: str
    kind: Kind
    parameters: int
    """Parameters whose gradient is complete when its backward pass is over."""
    largest: int
    """Parameters of its largest tensor."""
    saved: float
    """Kept from its forward to its backward pass."""
    cast: float
    """Copies of its weights in bf16 that autocast makes."""
    forward: float
    """The most that is there beside what it keeps while its forward pass runs."""
    backward: float
    """The most that is there beside what it kept while its backward pass runs, gradients of parameters aside."""
    again: float = 0.0
    """Kept only while its backward pass runs, because that computes it again."""


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Bytes of a number, by what it is."""

    compute: int
    """Inputs and outputs of linear layers."""
    residual: int
    """The residual stream."""
    weight: int
    """Norms' weights, embeddings and their sums."""

    @property
    def casts(self) -> bool:
        """Whether a norm's output is cast for each layer that reads it."""
        return self.compute != self.residual


def widths(job: TrainingJob, kind: Kind) -> Widths:
    """Of the backbone or of the depth decoder."""
    if not job.bf16:
        return Widths(compute=FLOAT, residual=FLOAT, weight=FLOAT)
    if job.sharded:
        return Widths(compute=HALF, residual=HALF, weight=HALF)
    return Widths(compute=HALF, residual=HALF if kind == "depth" else FLOAT, weight=FLOAT)


def norm_bytes(width: Widths, kernels: Kernels, *, rows: int, dim: int) -> float:
    """Kept by one RMSNorm, its input included, which nothing else keeps."""
    values = rows * dim
    if kernels.fused_norm and width.residual == width.weight:
        return width.residual * values + FLOAT * rows
    return 2 * FLOAT * values + FLOAT * rows  # the input in float32 and the scaled one


def block_part(
    job: TrainingJob, kernels: Kernels, config: TransformerConfig, *, kind: Kind, rows: int, documents: tuple[int, ...]
) -> Part:
    """One transformer block over `rows` rows in documents of these lengths."""
    width = widths(job, kind)
    compute, values = width.compute, rows * config.dim
    pairs = rows * (config.dim // config.heads) * config.kv_heads
    inner = rows * config.ffn_dim
    attention = compute * (2 * values + 2 * pairs) + FLOAT * rows * config.heads  # q, k, v, output, log-sum-exp
    if not kernels.fused_attention:
        groups = config.heads > config.kv_heads
        scores = FLOAT * config.heads * sum(n * n for n in documents)
        attention = compute * (3 * values + (2 * values if groups else 0)) + scores
    saved = (
        2 * norm_bytes(width, kernels, rows=rows, dim=config.dim)
        + compute * values * (5 if width.casts else 2)  # what q, k, v and w1, w3 read
        + attention
        + compute * values  # what output_proj reads: the documents' outputs side by side
        + 4 * compute * inner  # w1 x, its silu, w3 x, their product
        + (2 * values if job.dropout else 0)
    )
    weights = block_weights(config)
    cast = float(HALF * weights) if job.bf16 and not job.sharded else 0.0
    largest = config.dim * config.ffn_dim
    again = saved + cast if job.recompute else 0.0
    return Part(
        name=kind,
        kind=kind,
        parameters=weights + 2 * config.dim,
        largest=largest,
        saved=width.residual * values if job.recompute else saved,
        cast=cast,
        forward=3 * FLOAT * values + (saved if job.recompute else 0.0),  # the rotation of q, in float32
        backward=2 * width.residual * values + 2 * compute * inner + (compute * largest if compute < FLOAT else 0),
        again=again,
    )


def norm_part(job: TrainingJob, kernels: Kernels, config: TransformerConfig, *, kind: Kind, rows: int) -> Part:
    """The norm behind the last block."""
    width = widths(job, kind)
    values = rows * config.dim
    return Part(
        name=f"{kind} norm",
        kind=kind,
        parameters=config.dim,
        largest=config.dim,
        saved=norm_bytes(width, kernels, rows=rows, dim=config.dim),
        cast=0.0,
        forward=FLOAT * values,
        backward=2 * FLOAT * values,
    )


def tape(job: TrainingJob, load: Workload, kernels: Kernels) -> list[Part]:
    """The whole forward pass of `LossModule` over one micro-batch."""
    sizes = job.sizes
    backbone, depth, books, vocab = sizes.backbone, sizes.depth, sizes.num_codebooks, sizes.audio_vocab_size
    outer, inner = widths(job, "backbone"), widths(job, "depth")
    autocast = job.bf16 and not job.sharded
    state = load.rows * backbone.dim
    table, text_table = books * vocab * backbone.dim, sizes.text_vocab_size * backbone.dim
    parts = [
        Part(
            name="embeddings",
            kind="embedding",
            parameters=table + text_table,
            largest=max(table, text_table),
            saved=INT * load.rows * (2 * books + 3) + outer.weight * load.rows * (2 * books + 1),
            cast=0.0,
            forward=3 * outer.weight * state,
            backward=2 * outer.weight * state,
        )
    ]
    block = block_part(job, kernels, backbone, kind="backbone", rows=load.rows, documents=load.documents)
    parts += [block] * backbone.layers
    parts.append(norm_part(job, kernels, backbone, kind="backbone", rows=load.rows))
    heads = vocab * backbone.dim
    parts.append(
        _loss_part(
            job,
            name="codebook 0",
            targets=load.first,
            classes=vocab,
            read=outer.compute * load.first * backbone.dim,
            parameters=heads,
            beside=2 * outer.weight * state,
        )
    )
    positions = load.depth * books
    parts.append(
        Part(
            name="projection",
            kind="depth",
            parameters=backbone.dim * depth.dim,
            largest=backbone.dim * depth.dim,
            saved=outer.compute * positions * backbone.dim + 2 * INT * positions,
            cast=float(HALF * backbone.dim * depth.dim) if autocast else 0.0,
            forward=2 * outer.weight * positions * backbone.dim,
            backward=2 * outer.weight * positions * backbone.dim + outer.weight * state,
        )
    )
    documents = (books,) * load.depth
    block = block_part(job, kernels, depth, kind="depth", rows=positions, documents=documents)
    parts += [block] * depth.layers
    parts.append(norm_part(job, kernels, depth, kind="depth", rows=positions))
    predicted = load.depth * (books - 1)
    parts.append(
        _loss_part(
            job,
            name="codebooks 1 to K - 1",
            targets=predicted,
            classes=vocab,
            read=inner.compute * predicted * depth.dim,
            parameters=(books - 1) * depth.dim * vocab,
            beside=outer.weight
            * (positions * backbone.dim + state),  # embeddings and states that `forward` still holds
        )
    )
    if load.text:
        parts.append(
            _loss_part(
                job,
                name="text",
                targets=load.text,
                classes=sizes.text_vocab_size,
                read=outer.compute * load.text * backbone.dim,
                parameters=text_table,
                beside=outer.weight * state,
                tied=True,
            )
        )
    return parts


def _loss_part(
    job: TrainingJob,
    *,
    name: str,
    targets: int,
    classes: int,
    read: float,
    parameters: int,
    beside: float,
    tied: bool = False,
) -> Part:
    """A head and its cross-entropy: float32 logits, of which the log-probabilities are kept."""
    logits = FLOAT * targets * classes
    compute = HALF if job.bf16 else FLOAT
    return Part(
        name=name,
        kind="loss",
        parameters=0 if tied else parameters,
        largest=parameters,
        saved=read + logits + 2 * INT * targets,
        cast=float(HALF * parameters) if job.bf16 and not job.sharded else 0.0,
        forward=logits + (compute * targets * classes if job.bf16 else 0) + beside,
        backward=2 * logits + beside + (compute * parameters if compute < FLOAT else 0),
    )
