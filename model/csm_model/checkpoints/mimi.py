"""Mimi's weights for a Hugging Face checkpoint, from moshi's layout or from Hugging Face's own.

Names by the two state dicts (moshi 0.2.13 `MimiModel`, transformers 4.57 `MimiModel`). moshi stores queries, keys and
values as one matrix and rotates adjacent pairs; Hugging Face has three and rotates halves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from csm_model.checkpoints.names import CODEC, pairs_to_halves
from csm_model.checkpoints.stored import find_files, read_tensors
from csm_model.checkpoints.writer import Outgoing
from csm_model.errors import ArtifactError, shown
from csm_model.files import read_json
from csm_model.tensor_files import Stored, finite_blocks

HEAD_DIM = 64
"""Rows of a head of Mimi's transformers."""

_RULES = tuple(
    (re.compile(pattern), form)
    for pattern, form in (
        (r"^(encoder|decoder)\.model\.(\d+)\.(?:block\.(\d+)\.)?(?:conv\.conv|convtr\.convtr)\.", None),
        (r"^(downsample|upsample)\.(?:conv\.conv\.conv|convtr\.convtr\.convtr)\.", r"\1.conv."),
        (r"^(en|de)coder_transformer\.transformer\.", r"\1coder_transformer."),
        (r"\.self_attn\.out_proj(?:s\.0)?\.", ".self_attn.o_proj."),
        (r"\.norm1\.", ".input_layernorm."),
        (r"\.norm2\.", ".post_attention_layernorm."),
        (r"\.linear1\.", ".mlp.fc1."),
        (r"\.linear2\.", ".mlp.fc2."),
        (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
        (r"\.layer_scale_2\.", ".mlp_layer_scale."),
        (r"\.rvq_first\.", ".semantic_residual_vector_quantizer."),
        (r"\.rvq_rest\.", ".acoustic_residual_vector_quantizer."),
        (r"\.vq\.layers\.", ".layers."),
        (r"\._codebook\._?", ".codebook."),
        (r"\.codebook\.(?:embedding_sum|embed_avg)$", ".codebook.embed_sum"),
        (r"\.codebook\.(?:inited)$", ".codebook.initialized"),
        (r"\.codebook\.cluster_size$", ".codebook.cluster_usage"),
    )
)
_FUSED = re.compile(r"^(.*\.self_attn)\.in_proj(?:s\.0\.weight|_weight|\.weight)$")


def codec_of(path: Path) -> tuple[list[Outgoing], dict[str, Any]]:
    """Mimi as `codec_model.` tensors and its configuration.

    Args:
        path: weights in moshi's layout; or Hugging Face's Mimi, or a whole `CsmForConditionalGeneration`, as a folder.

    Raises:
        InputError: nothing there.
        ArtifactError: it is no Mimi.
    """
    files = find_files(path)
    found = read_tensors(files)
    place = files[0].parent / "config.json"
    config = read_json(place) if place.is_file() else {}
    if not isinstance(config, dict) or not isinstance(config.get("codec_config") or {}, dict):
        raise ArtifactError(f"{place}: not a configuration of Mimi; put the one that belongs to the weights there")
    if any(name.startswith(CODEC) for name in found):
        kept = {name: stored for name, stored in found.items() if name.startswith(CODEC)}
        return passed_through(kept), config.get("codec_config") or mimi_config()
    if "quantizer.semantic_residual_vector_quantizer.input_proj.weight" in found:
        own = config if config.get("model_type") == "mimi" else mimi_config()
        return passed_through({CODEC + name: stored for name, stored in found.items()}), own
    if "quantizer.rvq_first.input_proj.weight" in found:
        return [tensor for name, stored in found.items() for tensor in _from_moshi(name, stored)], mimi_config()
    raise ArtifactError(f"{path}: not Mimi's weights, in moshi's layout or Hugging Face's; look at the file's source")


def mimi_config() -> dict[str, Any]:
    """Hugging Face's configuration of the released Mimi: its defaults, with the 32 codebooks that CSM uses."""
    return {"model_type": "mimi", "num_quantizers": 32}


def passed_through(tensors: Mapping[str, Stored]) -> list[Outgoing]:
    """Tensors that are written as they are; a number in them that is none is an `ArtifactError` when they are."""
    return [
        Outgoing(name=name, dtype=stored.dtype, shape=stored.shape, blocks=partial(_finite, stored, name))
        for name, stored in tensors.items()
    ]


def _finite(stored: Stored, name: str) -> Iterator[Tensor]:
    return finite_blocks(stored.blocks(), f"{stored.path}: {shown(name)}")


def _from_moshi(name: str, stored: Stored) -> Iterator[Outgoing]:
    """The tensor under its other name, or three of them from one."""
    fused = _FUSED.match(name)
    if not fused:
        yield from passed_through({CODEC + _renamed(name): stored})
        return
    if len(stored.shape) != 2 or stored.shape[0] % (3 * HEAD_DIM):
        raise ArtifactError(
            f"{stored.path}: {name} has the shape {list(stored.shape)}; it must be three matrices of heads of "
            f"{HEAD_DIM} rows, one below another"
        )
    rows, width = stored.shape[0] // 3, stored.shape[1]
    for number, letter in enumerate("qkv"):
        part = replace(
            stored, offset=stored.offset + number * rows * width * stored.dtype.itemsize, shape=(rows, width)
        )

        def blocks(part: Stored = part, rotated: bool = letter != "v") -> Iterator[Tensor]:
            for block in finite_blocks(part.blocks(HEAD_DIM), f"{part.path}: {name}"):
                yield pairs_to_halves(block, HEAD_DIM) if rotated else block

        yield Outgoing(
            name=f"{CODEC}{_renamed(fused[1])}.{letter}_proj.weight",
            dtype=stored.dtype,
            shape=part.shape,
            blocks=blocks,
        )


def _renamed(name: str) -> str:
    for pattern, form in _RULES:
        name = pattern.sub(_layer if form is None else form, name)
    return name


def _layer(match: re.Match[str]) -> str:
    """A convolution of the encoder or the decoder, perhaps inside a residual block."""
    block = f"block.{match[3]}." if match[3] else ""
    return f"{match[1]}.layers.{match[2]}.{block}conv."
