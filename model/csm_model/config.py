"""Sizes of the conversational speech model, and its named presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from csm_model.errors import InputError

RESERVED_CODES = 3
"""Audio ids of a codebook beyond its codes, as in CSM (2051 = 2048 + 3)."""
LLAMA_VOCABULARY = 128_256
"""Ids of the Llama-3 tokenizer."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of the slow rotary frequencies (torchtune's `Llama3ScaledRoPE`)."""

    factor: float = 32.0
    """Frequencies whose wave is longer than `original_rows / low` turn this many times slower."""
    low: float = 1.0
    """Waves an original context holds of the fastest frequency that is slowed down wholly."""
    high: float = 4.0
    """Waves an original context holds of the slowest frequency that stays as it is."""
    original_rows: int = 8192
    """Longest sequence that the unscaled frequencies were meant for."""


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
    rope_scaling: RopeScaling | None = None
    """None leaves the frequencies as they are."""
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
    end: Literal["reserved", "zeros"] = "reserved"
    """What the row that closes speech holds: a reserved id of its own, or code 0 in every codebook (Sesame's CSM)."""
    text_prefix: int = 2
    """Leading ids of a turn's text that say who speaks and nothing of the words: begin and speaker."""

    @property
    def audio_vocab_size(self) -> int:
        """Audio ids of one codebook: its codes and the reserved ones."""
        return self.codebook_size + RESERVED_CODES

    @property
    def end_code(self) -> int:
        """The id in every column of the row that closes speech."""
        return self.codebook_size if self.end == "reserved" else 0

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ModelConfig:
        """What `dataclasses.asdict` gave, read again."""
        stored = dict(stored)
        for part in ("backbone", "depth"):
            values = dict(stored[part])
            scaling = values.pop("rope_scaling", None)
            stored[part] = TransformerConfig(**values, rope_scaling=RopeScaling(**scaling) if scaling else None)
        return cls(**stored)


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


def _llama(*, layers: int, dim: int, heads: int, kv_heads: int, ffn_dim: int) -> TransformerConfig:
    """Llama 3's constants around the sizes."""
    return TransformerConfig(
        layers=layers,
        dim=dim,
        heads=heads,
        kv_heads=kv_heads,
        ffn_dim=ffn_dim,
        rope_base=500_000.0,
        rope_scaling=RopeScaling(),
    )


def _csm(
    backbone: TransformerConfig,
    depth: TransformerConfig,
    *,
    text_vocab_size: int = LLAMA_VOCABULARY,
    num_codebooks: int = 32,
    codebook_size: int = 2048,
) -> ModelConfig:
    """Sesame's conventions around the two transformers: zeros end speech, `[speaker` is two ids after begin."""
    return ModelConfig(
        backbone=backbone,
        depth=depth,
        text_vocab_size=text_vocab_size,
        num_codebooks=num_codebooks,
        codebook_size=codebook_size,
        end="zeros",
        text_prefix=3,
    )


csm_30m_config = partial(
    _csm,
    _llama(layers=6, dim=256, heads=8, kv_heads=2, ffn_dim=768),
    _llama(layers=3, dim=128, heads=4, kv_heads=2, ffn_dim=384),
    text_vocab_size=4096,
)
"""About 30 million weights, CSM in everything but size: what CPUs can train and benchmarks compare."""

csm_1b_config = partial(
    _csm,
    _llama(layers=16, dim=2048, heads=32, kv_heads=8, ffn_dim=8192),
    _llama(layers=4, dim=1024, heads=8, kv_heads=2, ffn_dim=8192),
)
"""CSM-1B as Sesame released it (SesameAILabs/csm models.py: llama3_2_1B, llama3_2_100M)."""

csm_3b_config = partial(
    _csm,
    _llama(layers=28, dim=3072, heads=24, kv_heads=8, ffn_dim=8192),
    _llama(layers=6, dim=1536, heads=24, kv_heads=6, ffn_dim=7680),
)
"""Sesame's "3B" and "250M", whose sizes were never published: Llama-3.2-3B, and a decoder of about 250 million."""

csm_8b_config = partial(
    _csm,
    _llama(layers=32, dim=4096, heads=32, kv_heads=8, ffn_dim=14336),
    _llama(layers=8, dim=1536, heads=24, kv_heads=6, ffn_dim=6912),
)
"""The 8B of MisoLabsAI/MisoTTS (models.py: llama3_2_8B, llama3_2_300M), of the sizes of Sesame's Medium."""

CONFIGS: dict[str, Callable[..., ModelConfig]] = {
    "debug": debug_config,
    "demo": demo_config,
    "csm-30m": csm_30m_config,
    "csm-1b": csm_1b_config,
    "csm-3b": csm_3b_config,
    "csm-8b": csm_8b_config,
}
"""Model presets by name; `debug` and `demo` have no vocabularies of their own and must be given them."""
