"""A checkpoint written in another layout, block by block: the memory it takes does not grow with the model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csm_model.checkpoints import sizes
from csm_model.checkpoints.mimi import codec_of, passed_through
from csm_model.checkpoints.names import TIED, Entry, Layout, entries_of
from csm_model.checkpoints.source import Checkpoint, open_checkpoint
from csm_model.checkpoints.writer import Outgoing, Progress, write_shards
from csm_model.errors import ArtifactError, InputError, quoted
from csm_model.files import atomic_folder, write_json
from csm_model.tensor_files import is_finite

SHARD_BYTES = 5 * 10**9
"""Largest shard, as Hugging Face cuts them; one tensor that is larger has a shard of its own."""

_BESIDE = ("tokenizer.json",)
_BESIDE_HF = (
    "chat_template.jinja", "chat_template.json", "generation_config.json", "preprocessor_config.json",
    "processor_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion wrote."""

    folder: Path
    """The checkpoint."""
    files: tuple[str, ...]
    """Those with weights."""
    nbytes: int
    """Of all weights."""
    codec: str
    """`left out`, `kept` or `added` (Hugging Face's layout), `none`."""


def convert(
    source: Path,
    out: Path,
    *,
    to: Layout,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    codec: Path | None = None,
    rope: sizes.Rope | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Writes the checkpoint `source` as the folder `out`, which appears whole, by rename.

    Args:
        source: see `open_checkpoint`.
        out: a folder that is not there yet.
        to: the layout to write.
        dtype: of the weights; None keeps every tensor's own, and its bytes. A codec keeps its own in any case.
        shard_bytes: cuts the weights into shards of at most this size; None: `SHARD_BYTES`, and one file for Sesame's.
        codec: Mimi's weights to put into a Hugging Face checkpoint (see `codec_of`); None keeps those of `source`.
        rope: what a Hugging Face configuration without `rope_scaling` is taken for.
        progress: told of bytes written.

    Raises:
        InputError: `out` is there already, the disk is too small, or an option does not fit the layout.
        ArtifactError: the source is not a whole model, or a weight has no place in the dtype.
    """
    if out.exists():
        raise InputError(f"{out}: is there already; name a new folder, or remove this one")
    if to != "hf" and codec is not None:
        raise InputError(f"codec {codec}: only a Hugging Face checkpoint holds a codec; convert to hf, or leave it out")
    if to == "sesame" and shard_bytes is not None:
        raise InputError("shards: Sesame's loader reads one model.safetensors; leave the size of shards out")
    checkpoint = open_checkpoint(source, rope=rope)
    checkpoint.check()
    tensors = [tensor for entry in entries_of(to, checkpoint.config) for tensor in _tensors(checkpoint, entry, dtype)]
    codec_tensors, codec_config, codec_word = _codec(checkpoint, to, codec)
    need = sum(tensor.nbytes for tensor in (*tensors, *codec_tensors))
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < need:
        raise InputError(f"{out}: {need / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free; make room or go elsewhere")
    if to != "sesame" and shard_bytes is None:
        shard_bytes = SHARD_BYTES
    with atomic_folder(out) as partial:
        files = write_shards(partial, [*tensors, *codec_tensors], shard_bytes=shard_bytes, progress=progress)
        write_json(partial / "config.json", _config(checkpoint, to, tensors[0].dtype, codec_config))
        for name in _BESIDE_HF if to == checkpoint.layout == "hf" else _BESIDE:
            if (checkpoint.folder / name).is_file():
                shutil.copyfile(checkpoint.folder / name, partial / name)
        if to == "hf" and not (partial / "generation_config.json").exists():
            write_json(partial / "generation_config.json", _generation(checkpoint))
    return Converted(folder=out, files=tuple(path.name for path in files), nbytes=need, codec=codec_word)


def _tensors(checkpoint: Checkpoint, entry: Entry, dtype: torch.dtype | None) -> Iterator[Outgoing]:
    """One weight as it will be written; Hugging Face's audio embeddings under both names.

    transformers' own writer leaves the backbone's name out. With that name alone, transformers 4.57 loads neither and
    says nothing; other programs look for the backbone's name.
    """
    stored = checkpoint.weights[entry.own]
    source = next(other for other in checkpoint.entries if other.own == entry.own)
    target = dtype or stored.dtype

    def blocks() -> Iterator[Tensor]:
        for rows in checkpoint.blocks(source):
            yield entry.from_own(_cast(rows, target, f"{checkpoint.path}: {source.name}"))

    yield Outgoing(name=entry.name, dtype=target, shape=entry.shape, blocks=blocks)
    if entry.name == "backbone_model.embed_tokens.embed_audio_tokens.weight":
        yield Outgoing(name=TIED, dtype=target, shape=entry.shape, blocks=blocks)


def _cast(rows: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    made = rows.to(dtype)
    if dtype == torch.float16 and not is_finite(made):
        raise ArtifactError(f"{where} reaches {rows.abs().max().item():.3g}, fp16 ends at 65504; use bf16")
    return made


def _codec(checkpoint: Checkpoint, to: Layout, given: Path | None) -> tuple[list[Outgoing], dict[str, Any] | None, str]:
    """The codec's tensors and configuration, and a word for what becomes of it."""
    stored = (checkpoint.stored_config or {}).get("codec_config")
    if stored is not None and not isinstance(stored, dict):
        raise ArtifactError(f"{checkpoint.folder / 'config.json'}: codec_config is {quoted(stored)}, no configuration")
    if given is not None:
        return *codec_of(given), "added"
    if not checkpoint.codec:
        return [], stored if to == "hf" else None, "none"
    if to == "hf":
        return passed_through(checkpoint.codec), stored, "kept"
    return [], None, "left out"


def _config(checkpoint: Checkpoint, to: Layout, dtype: torch.dtype, codec: dict[str, Any] | None) -> dict[str, Any]:
    """config.json of the layout; between Hugging Face checkpoints, what this program does not know stays."""
    if to == "csm":
        return asdict(checkpoint.config)
    if to == "sesame":
        return sizes.to_sesame(checkpoint.config)
    made = sizes.to_hf(checkpoint.config, dtype=str(dtype).removeprefix("torch."), codec=codec)
    stored = checkpoint.stored_config
    if checkpoint.layout != "hf" or stored is None:
        return made
    fresh = ("torch_dtype", "rope_theta", "rope_scaling", "codec_config", sizes.OWN_KEY)
    part = "depth_decoder_config"
    depth = _merged(made[part], stored[part], fresh)
    return _merged(made, stored, fresh) | {part: depth}


def _merged(made: dict[str, Any], stored: dict[str, Any], fresh: tuple[str, ...]) -> dict[str, Any]:
    kept = {key: value for key, value in stored.items() if key not in (*fresh, "dtype")}
    return made | kept


def _generation(checkpoint: Checkpoint) -> dict[str, Any]:
    """Hugging Face's generation_config.json, with the sampling of the released CSM: ten seconds, top 50 at 0.9."""
    sampling = {"do_sample": True, "temperature": 0.9, "top_k": 50}
    books = checkpoint.config.num_codebooks - 1
    return {
        **sampling,
        "max_new_tokens": 125,
        "bos_token_id": 128_000,
        "pad_token_id": 128_002,
        **{f"depth_decoder_{key}": value for key, value in sampling.items()},
        "depth_decoder_min_new_tokens": books,
        "depth_decoder_max_new_tokens": books,
    }
