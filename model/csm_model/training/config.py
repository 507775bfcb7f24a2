"""Settings of one training run; a JSON file of them is what `python -m csm_model.training.main` takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from csm_model.errors import InputError
from csm_model.files import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What to train, from what, and how. Paths are strings so that the whole is JSON."""

    tokens: str
    """Folder of token shards."""
    out: str
    """Folder for metrics, checkpoints and the final bundle."""
    model: str = "demo"
    """Name of the sizes (`csm_model.config.CONFIGS`); ignored when there is a `base`."""
    base: str | None = None
    """Bundle to fine-tune; None trains from scratch."""
    steps: int = 1000
    """Optimiser steps."""
    rows_per_batch: int = 2048
    """Rows (text and audio, padding included) of one micro-batch of one process."""
    accumulation: int = 1
    """Micro-batches a step."""
    max_turns: int = 3
    """A training sequence is 1 to this many consecutive turns of a conversation."""
    learning_rate: float = 1.5e-3
    """Peak; reached after the warm-up, then a cosine down to a twentieth."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    """Of the matrices; vectors and embeddings have none."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    depth_share: float = 0.25
    """Share of the audio frames, drawn anew every step, on which the depth decoder is trained (CSM: 1/16)."""
    depth_weight: float = 1.0
    """Weight of the mean depth loss beside the mean loss of codebook 0."""
    history_dropout: float = 0.35
    """Mean share of past audio frames hidden from the backbone; a sequence's own is uniform from 0 to twice that."""
    text_dropout: float = 0.1
    """Share of sequences that do not see their text, so that guidance has something to compare with."""
    dropout: float = 0.0
    """Inside the transformer blocks."""
    autocast: bool = False
    """Matrix products in bfloat16; faster where the processor has AVX512-BF16 or AMX, slower elsewhere."""
    seed: int = 0
    """Of weights, batches and dropouts."""
    log_every: int = 10
    """Steps between lines of `metrics.jsonl`."""
    validate_every: int = 200
    """Steps between validations."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Older ones are removed."""
    sampling: dict[str, Any] | None = None
    """Sampling that the bundle shall recommend."""
    final_precision: Literal["fp32", "fp16"] = "fp32"
    """Of the bundle written at the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "rows_per_batch", "accumulation", "max_turns", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("depth_share", "history_dropout", "text_dropout", "dropout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} {getattr(self, name)}: must be from 0 to 1")

    def save(self, path: Path) -> None:
        """Writes the settings as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Reads settings; a name that is none is an error that lists those there are."""
        values = read_json(path)
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"{path}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
        return cls(**values)
