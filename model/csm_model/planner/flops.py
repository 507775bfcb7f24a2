"""Floating-point operations of a training step, for planning and for model-FLOP utilisation.

Counted are the matrix products: a product of `[m, k]` and `[k, n]` is `2 m k n` operations. Attention is counted
document by document and only where the causal mask lets it look (`n (n + 1) / 2` pairs for n rows), which is less than
the full square that some other programs count. Look-ups, norms, softmaxes and the optimiser are left out: together
they are under a percent. The backward pass makes two products for each of the forward pass (gradients of the input and
of the weights), so a step is three forwards; what activation checkpointing computes twice is no model FLOP.

Shapes: T rows, D model dim, K codebooks, V audio vocabulary, E depth dim, F frames picked for the depth decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from csm_model.config import ModelConfig, TransformerConfig

STEP_PER_FORWARD = 3.0
"""A step's model FLOPs over those of its forward pass."""


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of one forward pass, by where they are."""

    backbone: float
    """Linear layers of the backbone's blocks."""
    attention: float
    """Scores and weighted sums of the backbone's attention, inside documents, causal half only."""
    depth: float
    """Projection and blocks of the depth decoder, its attention included."""
    heads: float
    """Codebook 0's head, the other codebooks' heads and, where it is trained, the text head."""

    @property
    def forward(self) -> float:
        """All of one forward pass."""
        return self.backbone + self.attention + self.depth + self.heads

    @property
    def blocks(self) -> float:
        """What checkpointing of the blocks computes a second time (and the small projection before the depth's)."""
        return self.backbone + self.attention + self.depth

    @property
    def step(self) -> float:
        """Forward and backward."""
        return STEP_PER_FORWARD * self.forward


def block_weights(config: TransformerConfig) -> int:
    """Weights of the linear layers of one block."""
    kv_dim = config.dim // config.heads * config.kv_heads
    return config.dim * (2 * config.dim + 2 * kv_dim + 3 * config.ffn_dim)


def causal_pairs(lengths: Sequence[int]) -> float:
    """Pairs of a row and one that it may attend to, over documents of these lengths."""
    return sum(n * (n + 1) / 2 for n in lengths)


def forward_flops(
    config: ModelConfig,
    *,
    row_lengths: Sequence[int],
    depth_frames: int,
    first_targets: int | None = None,
    text_targets: int = 0,
) -> Flops:
    """FLOPs of one forward pass over documents of these lengths, with the losses' heads.

    Args:
        config: the model.
        row_lengths: lengths of the documents in rows. Padding does no useful work: leave it out for utilisation.
        depth_frames: frames that the depth decoder is trained on.
        first_targets: rows whose codebook 0 is predicted; every row where None.
        text_targets: rows whose text id is predicted; 0 where the text has no loss.
    """
    backbone, depth = config.backbone, config.depth
    rows = sum(row_lengths)
    first = rows if first_targets is None else first_targets
    positions = depth_frames * config.num_codebooks
    depth_pairs = depth_frames * causal_pairs([config.num_codebooks])
    return Flops(
        backbone=2.0 * rows * backbone.layers * block_weights(backbone),
        attention=4.0 * causal_pairs(row_lengths) * backbone.layers * backbone.dim,
        depth=2.0 * positions * (backbone.dim * depth.dim + depth.layers * block_weights(depth))
        + 4.0 * depth_pairs * depth.layers * depth.dim,
        heads=2.0 * first * backbone.dim * config.audio_vocab_size
        + 2.0 * depth_frames * (config.num_codebooks - 1) * depth.dim * config.audio_vocab_size
        + 2.0 * text_targets * backbone.dim * config.text_vocab_size,
    )


def flops_of_step(
    config: ModelConfig,
    *,
    row_lengths: Sequence[int],
    depth_frames: int,
    first_targets: int | None = None,
    text_targets: int = 0,
) -> float:
    """Model FLOPs of a forward and a backward pass; arguments as in `forward_flops`."""
    return forward_flops(
        config,
        row_lengths=row_lengths,
        depth_frames=depth_frames,
        first_targets=first_targets,
        text_targets=text_targets,
    ).step


def parameter_count(config: ModelConfig) -> int:
    """Parameters of the model without the codec."""
    dim, depth_dim, vocab = config.backbone.dim, config.depth.dim, config.audio_vocab_size
    stacks = sum(
        part.layers * (block_weights(part) + 2 * part.dim) + part.dim for part in (config.backbone, config.depth)
    )
    embeddings = (config.text_vocab_size + config.num_codebooks * vocab) * dim
    return stacks + embeddings + dim * depth_dim + vocab * dim + (config.num_codebooks - 1) * depth_dim * vocab
