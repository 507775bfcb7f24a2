"""A checkpoint as it lies on disk: which layout it is, its sizes, where each weight is, and what does not belong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csm_model.checkpoints import names, sizes
from csm_model.checkpoints.names import CODEC, TIED, Entry, Layout
from csm_model.checkpoints.stored import Stored, find_files, read_tensors, same_bits
from csm_model.config import ModelConfig
from csm_model.errors import ArtifactError
from csm_model.files import read_json

_SCALE = ".scale"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was opened: its headers are read, its weights are not."""

    path: Path
    """What was named: a folder, a file, an index."""
    files: tuple[Path, ...]
    """Those with weights."""
    layout: Layout
    """Found by the names of the tensors."""
    config: ModelConfig
    """The sizes."""
    stored_config: dict[str, Any] | None
    """config.json as it is; None without one."""
    entries: tuple[Entry, ...]
    """Every tensor that a model of these sizes has."""
    weights: dict[str, Stored]
    """By this program's names; those that are there."""
    tied: Stored | None
    """Hugging Face's second copy of the audio embeddings, where both are there."""
    codec: dict[str, Stored]
    """Hugging Face's `codec_model.`, by full names."""
    derived: tuple[str, ...]
    """Masks and tables that are stored though computed."""
    extra: tuple[str, ...]
    """Names that no model of these sizes has."""

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.files[0].parent

    @property
    def quantized(self) -> bool:
        """Whether its weights are a bundle's int8 or int4."""
        return any(stored.dtype in (torch.int8, torch.uint8) for stored in self.weights.values())

    @property
    def dtypes(self) -> dict[torch.dtype, int]:
        """Number of weights a dtype, most first."""
        counts: dict[torch.dtype, int] = {}
        for stored in self.weights.values():
            counts[stored.dtype] = counts.get(stored.dtype, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def faults(self) -> list[str]:
        """What keeps it from being a whole model, by the headers alone."""
        found = [f"{entry.name} is missing" for entry in self.entries if entry.own not in self.weights]
        for entry in self.entries:
            stored = self.weights.get(entry.own)
            if stored is not None and stored.shape != entry.shape:
                found.append(f"{entry.name} has the shape {list(stored.shape)}, not {list(entry.shape)}")
        return found + [f"{name} belongs to no model of this layout and these sizes" for name in self.extra]

    def check(self) -> None:
        """Raises `ArtifactError` where the weights are not those of a whole model in floating point."""
        if self.quantized:
            raise ArtifactError(
                f"{self.path}: its weights are int8 or int4, made for speaking only; take the bundle of their parent"
            )
        faults = self.faults()
        if faults:
            more = f" (and {len(faults) - 1} more; csm checkpoint inspect lists them)" if len(faults) > 1 else ""
            raise ArtifactError(f"{self.path}: {faults[0]}{more}; fetch or copy the checkpoint again")
        tied = self.tied
        if tied is not None and not _equal(tied, self.weights["audio_embeddings.weight"]):
            raise ArtifactError(
                f"{self.path}: {TIED} is not a copy of the backbone's audio embeddings; this model shares one table"
            )

    def blocks(self, entry: Entry) -> Iterator[Tensor]:
        """A weight in this program's form, block of rows after block."""
        for rows in self.weights[entry.own].blocks(entry.unit):
            yield entry.to_own(rows)


def open_checkpoint(path: Path, *, rope: sizes.Rope | None = None) -> Checkpoint:
    """Reads the headers of a checkpoint in any layout.

    Args:
        path: a folder, a file (`.safetensors`, or what `torch.save` wrote), or an index of shards.
        rope: what a Hugging Face configuration without `rope_scaling` is taken for.

    Raises:
        InputError: nothing there.
        ArtifactError: it is no model of the CSM family, is damaged, or does not say what it must.
    """
    path = Path(path)
    files = find_files(path)
    found = read_tensors(files)
    layout = _layout(found, path)
    place = files[0].parent / "config.json"
    stored_config = read_json(place) if place.is_file() else None
    config = _config(layout, stored_config, found, str(place if stored_config else path), rope)
    entries = tuple(names.entries_of(layout, config))
    codec = {name: found.pop(name) for name in list(found) if layout == "hf" and name.startswith(CODEC)}
    derived = tuple(name for name in list(found) if names.is_derived(name) and found.pop(name))
    weights = {entry.own: found.pop(entry.name) for entry in entries if entry.name in found}
    tied = found.pop(TIED, None) if layout == "hf" else None
    if tied is not None and "audio_embeddings.weight" not in weights:
        weights["audio_embeddings.weight"], tied = tied, None
    scales = {f"{entry.name}{_SCALE}" for entry in entries} if layout == "csm" else set()
    return Checkpoint(
        path=path,
        files=tuple(files),
        layout=layout,
        config=config,
        stored_config=stored_config,
        entries=entries,
        weights={entry.own: weights[entry.own] for entry in entries if entry.own in weights},
        tied=tied,
        codec=codec,
        derived=derived,
        extra=tuple(name for name in found if name not in scales),
    )


def _layout(found: Mapping[str, Stored], path: Path) -> Layout:
    if "backbone_model.norm.weight" in found:
        return "hf"
    if "backbone.norm.scale" in found:
        return "sesame"
    if "backbone.norm.weight" in found:
        return "csm"
    shown = ", ".join(list(found)[:3])
    raise ArtifactError(
        f"{path}: no model of the CSM family: there is no norm of a backbone among its {len(found)} tensors ({shown})"
    )


def _config(
    layout: Layout, stored: Any, found: Mapping[str, Stored], where: str, rope: sizes.Rope | None
) -> ModelConfig:
    """The sizes: from config.json, by what is in it; for Sesame's layout from the tensors where there is none."""
    stored = stored if isinstance(stored, dict) else {}
    if layout == "csm" and "backbone" in stored:
        return sizes.from_own(stored, where)
    if layout == "hf" and "depth_decoder_config" in stored:
        return sizes.from_hf(stored, where, rope=rope)
    if layout == "sesame":
        if "backbone_flavor" in stored:
            return sizes.from_sesame(stored, where)
        return sizes.from_shapes({names.sesame_to_own(name): entry.shape for name, entry in found.items()}, where)
    raise ArtifactError(
        f"{where}: the tensors are of {names.LAYOUTS[layout]} layout, but there is no config.json of it beside them; "
        "put the one that belongs to it there"
    )


def _equal(one: Stored, other: Stored) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype) and all(
        same_bits(a, b) for a, b in zip(one.blocks(), other.blocks(), strict=True)
    )
