"""Sizes of the conversational speech model, and its named presets."""

from __future__ import annotations

from dataclasses import dataclass

from csm_model.errors import InputError

RESERVED_CODES = 3
"""Audio ids of a codebook beyond its codes, as in CSM (2051 = 2048 + 3)."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """One Llama-style transformer."""

    layers: int
    """Number of blocks."""
    dim: int
    """Width D of the residual stream."""
    heads: int
    """Query heads; `dim / heads` is the width of a head."""
    kv_heads: int
    """Key and value heads; divides `heads` (grouped-query attention)."""
    ffn_dim: int
    """Inner width of the SwiGLU."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Epsilon of RMSNorm."""
    dropout: float = 0.0
    """On the outputs of attention and SwiGLU, in training only."""

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise InputError(
                f"dim {self.dim} over heads {self.heads}: the width of a head must be a whole, even number"
            )
        if self.heads % self.kv_heads:
            raise InputError(f"kv_heads {self.kv_heads} must divide heads {self.heads}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A backbone over rows of text and audio, and a depth decoder over the codebooks of one frame."""

    backbone: TransformerConfig
    """Reads the rows; predicts codebook 0 of the next frame."""
    depth: TransformerConfig
    """Predicts codebooks 1 to K - 1 of that frame, one after another."""
    text_vocab_size: int
    """Ids of the text column."""
    num_codebooks: int
    """K."""
    codebook_size: int
    """Codes of a codebook, without the reserved ids."""
    max_rows: int = 2048
    """Longest sequence, context included."""

    @property
    def audio_vocab_size(self) -> int:
        """Audio ids of one codebook: its codes and the reserved ones."""
        return self.codebook_size + RESERVED_CODES

    @property
    def end_code(self) -> int:
        """The reserved id of codebook 0 that ends speech; every column of the closing row holds it."""
        return self.codebook_size


def debug_config(*, text_vocab_size: int, num_codebooks: int, codebook_size: int) -> ModelConfig:
    """A few thousand weights; every feature runs in milliseconds."""
    return ModelConfig(
        backbone=TransformerConfig(layers=2, dim=32, heads=4, kv_heads=2, ffn_dim=64),
        depth=TransformerConfig(layers=1, dim=16, heads=2, kv_heads=1, ffn_dim=32),
        text_vocab_size=text_vocab_size,
        num_codebooks=num_codebooks,
        codebook_size=codebook_size,
    )


def demo_config(*, text_vocab_size: int, num_codebooks: int, codebook_size: int) -> ModelConfig:
    """About six million weights: the demo's base model and what is fine-tuned from it."""
    return ModelConfig(
        backbone=TransformerConfig(layers=6, dim=192, heads=6, kv_heads=6, ffn_dim=512),
        depth=TransformerConfig(layers=3, dim=128, heads=4, kv_heads=4, ffn_dim=384),
        text_vocab_size=text_vocab_size,
        num_codebooks=num_codebooks,
        codebook_size=codebook_size,
    )


CONFIGS = {"debug": debug_config, "demo": demo_config}
"""Model presets by name."""
