"""Sizes of the conversational speech model, and its named presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Any, Literal, TypeVar

from csm_model.errors import ArtifactError, InputError, quoted, shown

RESERVED_CODES = 3
"""Audio ids of a codebook beyond its codes, as in CSM (2051 = 2048 + 3)."""
LLAMA_VOCABULARY = 128_256
"""Ids of the Llama-3 tokenizer."""

BOUNDS: dict[str, tuple[int, int] | tuple[float, float]] = {
    "factor": (1.0, 1e6),
    "low": (1e-9, 1e9),
    "high": (1e-9, 1e9),
    "original_rows": (1, 2**24),
    "layers": (1, 256),
    "dim": (2, 2**16),
    "heads": (1, 2**10),
    "kv_heads": (1, 2**10),
    "ffn_dim": (1, 2**20),
    "rope_base": (2.0, 1e12),
    "norm_eps": (1e-12, 0.1),
    "dropout": (0.0, 0.99),
    "text_vocab_size": (1, 2**24),
    "num_codebooks": (2, 2**8),
    "codebook_size": (1, 2**20),
    "max_rows": (1, 2**17),
    "text_prefix": (0, 2**10),
}
"""Least and greatest of each size, far beyond every model that there is; whole numbers where the two are."""

S = TypeVar("S")


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

    def __post_init__(self) -> None:
        _check_bounds(self)
        if not self.low < self.high:
            raise InputError(f"low {self.low:g} must be less than high {self.high:g}: frequencies between are blended")


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
        _check_bounds(self)
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

    def __post_init__(self) -> None:
        _check_bounds(self)
        if self.end not in ("reserved", "zeros"):
            raise InputError(f"end {quoted(self.end)}: must be reserved or zeros")

    @property
    def audio_vocab_size(self) -> int:
        """Audio ids of one codebook: its codes and the reserved ones."""
        return self.codebook_size + RESERVED_CODES

    @property
    def end_code(self) -> int:
        """The id in every column of the row that closes speech."""
        return self.codebook_size if self.end == "reserved" else 0

    @classmethod
    def from_json(cls, stored: Any, *, where: str = "config.json") -> ModelConfig:
        """What `dataclasses.asdict` gave, read again.

        Raises:
            ArtifactError: a size is missing, unknown, of another type or beyond its bounds; it names the field.
        """
        parts = {}
        for name in ("backbone", "depth"):
            part = stored.get(name) if isinstance(stored, dict) else None
            if isinstance(part, dict) and part.get("rope_scaling") is not None:
                label = f"{where}: rope_scaling of {name}"
                part = {**part, "rope_scaling": built(RopeScaling, part["rope_scaling"] or None, label)}
            if isinstance(stored, dict) and name in stored:
                parts[name] = built(TransformerConfig, part, f"{where}: {name}")
        return built(cls, {**stored, **parts} if isinstance(stored, dict) else stored, where)


def check_size(name: str, value: object, *, field: str | None = None) -> None:
    """Raises `InputError` unless `value`, called `name`, is a number within the bounds of `field`."""
    least, most = BOUNDS[field or name]
    whole = isinstance(least, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not least <= value <= most:
        raise InputError(f"{name} is {quoted(value)}; it must be a {'whole ' * whole}number from {least:,} to {most:,}")


def built(kind: type[S], values: Any, where: str) -> S:
    """A dataclass of JSON's values; `ArtifactError`, which begins with `where`, for one that is missing or wrong."""
    if not isinstance(values, dict):
        raise ArtifactError(f"{where} is {quoted(values)}; it must be an object of sizes; write the checkpoint again")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := [name for name in values if name not in known]:
        raise ArtifactError(f"{where}: {shown(unknown[0])} is no size of a model; there are {', '.join(known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING:
            raise ArtifactError(f"{where}: has no {name}; write the checkpoint again")
    try:
        return kind(**values)
    except InputError as error:
        raise ArtifactError(f"{where}: {error}") from None


def _check_bounds(sizes: Any) -> None:
    """Every size that has bounds is within them."""
    for field in fields(sizes):
        if field.name in BOUNDS:
            check_size(field.name, getattr(sizes, field.name))


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
