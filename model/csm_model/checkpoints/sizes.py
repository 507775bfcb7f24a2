"""The sizes of a model as each layout writes them, and as its tensors tell where nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from csm_model.config import (
    BOUNDS,
    CONFIGS,
    RESERVED_CODES,
    ModelConfig,
    RopeScaling,
    TransformerConfig,
    check_size,
)
from csm_model.errors import ArtifactError, InputError, quoted

Rope = Literal["llama3", "plain"]
"""What a Hugging Face configuration without `rope_scaling` is taken for: Llama 3's scaling, or none."""

FLAVOURS = {
    "llama-1B": CONFIGS["csm-1b"]().backbone,
    "llama-100M": CONFIGS["csm-1b"]().depth,
    "llama-8B": CONFIGS["csm-8b"]().backbone,
    "llama-300M": CONFIGS["csm-8b"]().depth,
}
"""Names in Sesame's config.json (and Miso's code) for sizes of a transformer."""
OWN_KEY = "csm"
"""Under which a config.json of another layout holds this program's, where the layout has no words for something."""

_ORIGINAL = {"backbone": 1024, "depth": 16}  # of the released config.json: below the positions of each part
_SHARED = ("num_codebooks", "vocab_size", "text_vocab_size", "codebook_eos_token_id", "max_position_embeddings")
_FIELDS = {
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "ffn_dim",
    "rms_norm_eps": "norm_eps",
}
"""Hugging Face's words for the sizes of a transformer, and this program's."""
_PART = (*_FIELDS, "rope_theta", "rope_scaling")


def from_own(stored: Any, where: str) -> ModelConfig:
    """The sizes in this program's config.json."""
    return ModelConfig.from_json(stored, where=where)


def from_sesame(stored: Mapping[str, Any], where: str) -> ModelConfig:
    """The sizes that Sesame's config.json names."""
    if OWN_KEY in stored:
        return from_own(stored[OWN_KEY], where)
    for key in ("backbone_flavor", "decoder_flavor"):
        if stored.get(key) not in list(FLAVOURS):
            raise ArtifactError(f"{where}: {key} {quoted(stored.get(key))} is unknown; there are {', '.join(FLAVOURS)}")
    return _csm(
        FLAVOURS[stored["backbone_flavor"]],
        FLAVOURS[stored["decoder_flavor"]],
        text_vocab=_size(stored, "text_vocab_size", where),
        audio_vocab=_audio_vocab(stored, "audio_vocab_size", where),
        books=_size(stored, "audio_num_codebooks", where, "num_codebooks"),
    )


def to_sesame(config: ModelConfig) -> dict[str, Any]:
    """Sesame's config.json; what it has no words for stands under `csm` beside it."""
    names = {sizes: name for name, sizes in FLAVOURS.items()}
    values = {
        "audio_num_codebooks": config.num_codebooks,
        "audio_vocab_size": config.audio_vocab_size,
        "backbone_flavor": names.get(config.backbone, "own"),
        "decoder_flavor": names.get(config.depth, "own"),
        "text_vocab_size": config.text_vocab_size,
    }
    told = "own" not in values.values() and from_sesame(values, "") == config
    return values if told else {**values, OWN_KEY: asdict(config)}


def from_shapes(shapes: Mapping[str, tuple[int, ...]], where: str) -> ModelConfig:
    """The sizes that tensors of this program's names have, for a file without a config.json, such as Miso's.

    Shapes do not say how wide a head is: the released models' widths are taken, 128 for a depth of 1024 and a backbone
    of 3072 or more, else 64.
    """
    try:
        text_vocab, dim = shapes["text_embeddings.weight"]
        head = shapes["audio_head"]
        backbone = _from_shapes(shapes, "backbone", dim, head=128 if dim >= 3072 else 64)
        depth = _from_shapes(shapes, "decoder", head[1], head=128 if head[1] == 1024 else 64)
        return _csm(backbone, depth, text_vocab=text_vocab, audio_vocab=head[2], books=head[0] + 1)
    except KeyError as error:
        raise ArtifactError(f"{where}: there is no tensor {error}; is this a model of the CSM family?") from None
    except (InputError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{where}: its sizes cannot be told from its tensors ({error}); put its config.json beside it"
        ) from None


def _from_shapes(shapes: Mapping[str, tuple[int, ...]], stack: str, dim: int, *, head: int) -> TransformerConfig:
    layers = 0
    while f"{stack}.layers.{layers}.attn.q_proj.weight" in shapes:
        layers += 1
    at = f"{stack}.layers.0"
    return TransformerConfig(
        layers=layers,
        dim=dim,
        heads=max(1, shapes[f"{at}.attn.q_proj.weight"][0] // head),
        kv_heads=max(1, shapes[f"{at}.attn.k_proj.weight"][0] // head),
        ffn_dim=shapes[f"{at}.mlp.w1.weight"][0],
        rope_base=500_000.0,
        rope_scaling=RopeScaling(),
    )


def _csm(
    backbone: TransformerConfig, depth: TransformerConfig, *, text_vocab: int, audio_vocab: int, books: int
) -> ModelConfig:
    """Two transformers in the conventions of the released models."""
    released = CONFIGS["csm-1b"](
        text_vocab_size=text_vocab, num_codebooks=books, codebook_size=audio_vocab - RESERVED_CODES
    )
    return replace(released, backbone=backbone, depth=depth)


def from_hf(stored: Mapping[str, Any], where: str, *, rope: Rope | None = None) -> ModelConfig:
    """The sizes in the config.json of a `CsmForConditionalGeneration`.

    Raises:
        ArtifactError: it has no `rope_scaling`. transformers' own default is none, the released models' is Llama 3's;
            a file that does not say is not trusted, unless `rope` says it. Or it has something that this model has not.
    """
    depth = _part(_value(stored, "depth_decoder_config", where), "depth_decoder_config", where)
    for key, above in (
        ("num_codebooks", "num_codebooks"), ("vocab_size", "vocab_size"), ("backbone_hidden_size", "hidden_size"),
    ):  # fmt: skip
        if key in depth and depth[key] != stored.get(above):
            raise ArtifactError(
                f"{where}: {key} of the depth decoder is {quoted(depth[key])}, {above} of the backbone is "
                f"{quoted(stored.get(above))}; they must be one"
            )
    if OWN_KEY in stored:
        own = from_own(stored[OWN_KEY], where)
        if _same(to_hf(own), stored):
            return own
    sizes = _csm(
        _from_hf("backbone", stored, where, rope),
        _from_hf("depth decoder", depth, where, rope),
        text_vocab=_size(stored, "text_vocab_size", where),
        audio_vocab=_audio_vocab(stored, "vocab_size", where),
        books=_size(stored, "num_codebooks", where),
    )
    sizes = replace(sizes, max_rows=_size(stored, "max_position_embeddings", where, "max_rows"))
    end = stored.get("codebook_eos_token_id", 0)
    if isinstance(end, bool) or end not in (0, sizes.codebook_size):
        raise ArtifactError(f"{where}: codebook_eos_token_id is {quoted(end)}; known are 0 and {sizes.codebook_size}")
    return replace(sizes, end="zeros" if end == 0 else "reserved")


def _from_hf(name: str, stored: Mapping[str, Any], where: str, rope: Rope | None) -> TransformerConfig:
    values = {key: _size(stored, key, where, field, part=name) for key, field in _FIELDS.items()}
    for key, only in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if stored.get(key, only) != only:
            raise ArtifactError(
                f"{where}: {key} of the {name} is {quoted(stored[key])}; this model knows {only!r} only"
            )
    head = stored.get("head_dim")
    if head is None:
        head = values["hidden_size"] // values["num_attention_heads"]
    if not isinstance(head, int) or head * values["num_attention_heads"] != values["hidden_size"]:
        raise ArtifactError(
            f"{where}: head_dim {quoted(head)} times {values['num_attention_heads']} heads of the {name} is not its "
            f"hidden_size {values['hidden_size']}, as this model has it"
        )
    turns = stored.get("rope_parameters")  # of transformers 5: both keys in one
    turns = {} if turns is None else _part(turns, "rope_parameters", where)
    scaling = turns or stored.get("rope_scaling")
    base = {"rope_theta": turns.get("rope_theta", stored.get("rope_theta", 500_000.0))}
    if scaling is None and rope is None:
        raise ArtifactError(
            f"{where}: rope_scaling of the {name} is null, which is the default of transformers and not what the "
            "released models were trained with; give --assume-llama3-rope, or --assume-plain-rope for a model that "
            "was trained without"
        )
    try:
        return TransformerConfig(
            **{field: values[key] for key, field in _FIELDS.items()},
            rope_base=float(_size(base, "rope_theta", where, "rope_base", part=name)),
            rope_scaling=(RopeScaling() if rope == "llama3" else None) if scaling is None else _scaling(scaling, where),
        )
    except InputError as error:
        raise ArtifactError(f"{where}: {name}: {error}") from None


def _scaling(stored: Any, where: str) -> RopeScaling:
    """Hugging Face's constants, in turns of another original context, as torchtune's: they scale alike."""
    stored = _part(stored, "rope_scaling", where)
    kind = stored.get("rope_type", stored.get("type"))
    if kind != "llama3":
        raise ArtifactError(f"{where}: rope_scaling of type {quoted(kind)}; this program knows llama3")
    original = _size(stored, "original_max_position_embeddings", where, "original_rows", part="rope_scaling")
    stretch = RopeScaling().original_rows / original
    factor, low, high = (
        float(_size(stored, key, where, field, part="rope_scaling"))
        for key, field in (("factor", "factor"), ("low_freq_factor", "low"), ("high_freq_factor", "high"))
    )
    return RopeScaling(factor=factor, low=low * stretch, high=high * stretch)


def to_hf(config: ModelConfig, *, dtype: str = "float32", codec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config.json of a `CsmForConditionalGeneration`, `rope_scaling` written for both parts.

    Args:
        config: the sizes.
        dtype: of the weights, in torch's words. Under `torch_dtype`, which every transformers reads; `dtype` only new.
        codec: Mimi's own configuration; None leaves transformers' default, which is the released Mimi.
    """
    shared = {
        "num_codebooks": config.num_codebooks,
        "vocab_size": config.audio_vocab_size,
        "torch_dtype": dtype,
    }
    values = {
        "architectures": ["CsmForConditionalGeneration"],
        "model_type": "csm",
        **_to_hf(config.backbone, rows=config.max_rows, original=_ORIGINAL["backbone"]),
        **shared,
        "text_vocab_size": config.text_vocab_size,
        "bos_token_id": 128_000,
        "pad_token_id": 128_002,
        "audio_token_id": 128_002,
        "audio_eos_token_id": 128_003,
        "codebook_pad_token_id": config.codebook_size + 2,
        "codebook_eos_token_id": config.end_code,
        "tie_codebooks_embeddings": True,
        "depth_decoder_config": {
            "model_type": "csm_depth_decoder_model",
            **_to_hf(config.depth, rows=max(33, config.num_codebooks + 1), original=_ORIGINAL["depth"]),
            **shared,
            "backbone_hidden_size": config.backbone.dim,
        },
    }
    if codec is not None:
        values["codec_config"] = dict(codec)
    plain = None in (config.backbone.rope_scaling, config.depth.rope_scaling)
    return values if not plain and from_hf(values, "") == config else {**values, OWN_KEY: asdict(config)}


def _to_hf(part: TransformerConfig, *, rows: int, original: int) -> dict[str, Any]:
    scaling = part.rope_scaling
    return {
        "hidden_size": part.dim,
        "num_hidden_layers": part.layers,
        "num_attention_heads": part.heads,
        "num_key_value_heads": part.kv_heads,
        "head_dim": part.dim // part.heads,
        "intermediate_size": part.ffn_dim,
        "hidden_act": "silu",
        "max_position_embeddings": rows,
        "rms_norm_eps": part.norm_eps,
        "rope_theta": part.rope_base,
        "rope_scaling": None
        if scaling is None
        else {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low * original / scaling.original_rows,
            "high_freq_factor": scaling.high * original / scaling.original_rows,
            "original_max_position_embeddings": original,
        },
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
    }


def preset_of(config: ModelConfig) -> str | None:
    """The name of the preset whose two transformers these are; vocabularies are not compared."""
    vocabularies = {
        "text_vocab_size": config.text_vocab_size,
        "num_codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
    }
    parts = [replace(part, dropout=0.0) for part in (config.backbone, config.depth)]
    for name, make in CONFIGS.items():
        preset = make(**vocabularies)
        if [preset.backbone, preset.depth] == parts:
            return name
    return None


def _same(made: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether what this program would write of the sizes is what is written."""
    depth = stored.get("depth_decoder_config", {})
    return all(made[key] == stored.get(key) for key in (*_SHARED, *_PART)) and all(
        made["depth_decoder_config"][key] == depth.get(key) for key in _PART
    )


def _part(value: Any, key: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ArtifactError(f"{where}: {key} is {quoted(value)}; it must be an object")
    return value


def _size(stored: Mapping[str, Any], key: str, where: str, field: str | None = None, *, part: str = "") -> Any:
    """The number under `key`, within the bounds of `field` (`key` itself by default)."""
    value = _value(stored, key, where)
    try:
        check_size(f"{key} of the {part}" if part else key, value, field=field or key)
    except InputError as error:
        raise ArtifactError(f"{where}: {error}") from None
    return value


def _audio_vocab(stored: Mapping[str, Any], key: str, where: str) -> int:
    """The audio ids of a codebook, the reserved ones among them."""
    value: object = _value(stored, key, where)
    least, most = (bound + RESERVED_CODES for bound in BOUNDS["codebook_size"])
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ArtifactError(f"{where}: {key} is {quoted(value)}; it must be a whole number from {least:,} to {most:,}")
    return value


def _value(stored: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in stored:
        raise ArtifactError(f"{where}: has no {key}; it is not the config.json of a model of this layout")
    return stored[key]
