"""What a checkpoint is, in words and numbers, from its headers alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from csm_model.checkpoints.names import LAYOUTS, TIED
from csm_model.checkpoints.sizes import Rope, preset_of
from csm_model.checkpoints.source import Checkpoint, open_checkpoint
from csm_model.config import TransformerConfig

_PARTS = {
    "backbone": "backbone.",
    "depth decoder": "decoder.",
    "text embeddings": "text_embeddings.",
    "audio embeddings": "audio_embeddings.",
    "head of codebook 0": "codebook0_head.",
    "projection": "projection.",
    "heads of the others": "audio_head",
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """A checkpoint as `csm checkpoint inspect` shows it."""

    checkpoint: Checkpoint
    """What was opened."""
    layout: str
    """In words."""
    preset: str | None
    """The preset of its sizes."""
    sizes: dict[str, str]
    """Of each transformer, of the vocabularies."""
    parts: dict[str, int]
    """Weights a part; `codec` is beside the model."""
    total: int
    """Weights of the model, without codec."""
    dtypes: str
    """Of the weights, most first."""
    files: dict[str, int]
    """Bytes a file."""
    unusual: tuple[str, ...]
    """What a reader should know, and what is wrong."""


def describe(path: Path, *, rope: Rope | None = None) -> Description:
    """Reads the headers of a checkpoint; see `open_checkpoint` for what is refused."""
    checkpoint = open_checkpoint(path, rope=rope)
    config = checkpoint.config
    counts = {own: math.prod(stored.shape) for own, stored in checkpoint.weights.items()}
    parts = {part: sum(n for own, n in counts.items() if own.startswith(prefix)) for part, prefix in _PARTS.items()}
    if checkpoint.codec:
        parts["codec"] = sum(math.prod(stored.shape) for stored in checkpoint.codec.values())
    return Description(
        checkpoint=checkpoint,
        layout=LAYOUTS[checkpoint.layout],
        preset=preset_of(config),
        sizes={
            "backbone": _transformer(config.backbone),
            "depth decoder": _transformer(config.depth),
            "audio": f"{config.num_codebooks} codebooks of {config.codebook_size} codes, "
            f"{'code 0 in all of them' if config.end == 'zeros' else 'an id of its own'} ends speech",
            "text": f"{config.text_vocab_size} ids",
            "rows": f"{config.max_rows}",
        },
        parts=parts,
        total=sum(counts.values()),
        dtypes=", ".join(f"{count} {str(dtype).removeprefix('torch.')}" for dtype, count in checkpoint.dtypes.items()),
        files={file.name: file.stat().st_size for file in checkpoint.files},
        unusual=tuple(_unusual(checkpoint)),
    )


def _transformer(part: TransformerConfig) -> str:
    scaling = part.rope_scaling
    rope = "plain" if scaling is None else f"Llama 3's scaling by {scaling.factor:g}"
    return (
        f"{part.layers} layers of {part.dim}, {part.heads} heads of {part.dim // part.heads} over {part.kv_heads}, "
        f"inner width {part.ffn_dim}, rope base {part.rope_base:g}, {rope}"
    )


def _unusual(checkpoint: Checkpoint) -> list[str]:
    config, stored = checkpoint.config, checkpoint.stored_config
    found = checkpoint.faults()
    if checkpoint.rounded is not None:
        found.insert(0, f"{checkpoint.rounded} weights: for speaking, not to be converted")
    if stored is None:
        found.append("no config.json: sizes are told from the tensors, and Llama 3's rope scaling is assumed")
    plain = [
        name for name, part in (("backbone", config.backbone), ("depth decoder", config.depth)) if not part.rope_scaling
    ]
    if plain and checkpoint.layout != "csm":
        found.append(f"no rope scaling in the {' and the '.join(plain)}; the released models have Llama 3's")
    if checkpoint.layout == "hf" and stored is not None:
        scaled = (
            values.get("rope_parameters") or values.get("rope_scaling")
            for values in (stored, stored["depth_decoder_config"])
        )
        if None in scaled and not plain:
            found.append("rope_scaling is null in config.json; Llama 3's is assumed, as you said")
        if stored.get("pad_token_id") == stored.get("audio_token_id"):
            found.append(
                "pad_token_id is audio_token_id: padded text reads as places for audio; tokenizers pad with 128001"
            )
        if not checkpoint.codec:
            found.append("no codec in it: transformers makes codes with it, but no sound")
        if checkpoint.tied is not None:
            found.append(f"{TIED} is there too: a second copy of the audio embeddings")
    if len(checkpoint.dtypes) > 1:
        found.append("more than one dtype among its weights")
    if checkpoint.derived:
        found.append(f"stored though computed, and left out: {', '.join(checkpoint.derived)}")
    return found
