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
from csm_model.checkpoints.stored import find_files, read_tensors
from csm_model.config import ModelConfig
from csm_model.errors import ArtifactError, quoted, shown
from csm_model.files import read_json
from csm_model.quantize import SCALE, Rounded, rounded_form
from csm_model.tensor_files import Stored, check_records, checked_weight, same_bits

_FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    scales: dict[str, Stored]
    """Of a bundle's rounded weights, by the names of the weights."""
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
    def rounded(self) -> Rounded | None:
        """How its weights are rounded, where it is a bundle for speaking only."""
        if not self.scales:
            return None
        return "int4" if any(stored.dtype == torch.uint8 for stored in self.weights.values()) else "int8"

    @property
    def dtypes(self) -> dict[torch.dtype, int]:
        """Number of weights a dtype, most first."""
        counts: dict[torch.dtype, int] = {}
        for stored in self.weights.values():
            counts[stored.dtype] = counts.get(stored.dtype, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def faults(self) -> list[str]:
        """What keeps it from being a whole model, by the headers alone."""
        form = {} if self.rounded is None else rounded_form(self.config, self.rounded)
        wanted: dict[str, tuple[str, tuple[int, ...], tuple[torch.dtype, ...]]]
        wanted = {entry.own: (entry.name, entry.shape, _FLOATING) for entry in self.entries}
        wanted |= {own: (own, shape, (dtype,)) for own, (dtype, shape) in form.items()}
        stored_as = self.weights | {name + SCALE: stored for name, stored in self.scales.items()}
        found = [f"{name} is missing" for own, (name, _, _) in wanted.items() if own not in stored_as]
        for own, stored in stored_as.items():
            if own not in wanted:
                found.append(f"{own} belongs to a weight that is not rounded")
                continue
            name, shape, dtypes = wanted[own]
            if stored.shape != shape:
                found.append(f"{name} has the shape {list(stored.shape)}, not {list(shape)}")
            elif stored.dtype not in dtypes:
                found.append(f"{name} is of {_words(stored.dtype)}; it must be {' or '.join(map(_words, dtypes))}")
        return found + [f"{shown(name)} belongs to no model of this layout and these sizes" for name in self.extra]

    def check(self) -> None:
        """Raises `ArtifactError` where the weights are not those of a whole model in floating point."""
        if self.rounded is not None:
            raise ArtifactError(
                f"{self.path}: its weights are {self.rounded}, made for speaking only; take the bundle of their parent"
            )
        self.check_whole()

    def check_whole(self) -> None:
        """Raises `ArtifactError` where a weight is missing, too many, or not of its shape and dtype.

        Where the files have sums of what is in them, that is compared too: those of `torch.save` have.
        """
        faults = self.faults()
        if faults:
            more = f" (and {len(faults) - 1} more; csm checkpoint inspect lists them)" if len(faults) > 1 else ""
            raise ArtifactError(f"{self.path}: {faults[0]}{more}; fetch or copy the checkpoint again")
        for file in self.files:
            if file.suffix != ".safetensors":
                check_records(file)
        tied = self.tied
        if tied is not None and not _equal(tied, self.weights["audio_embeddings.weight"]):
            raise ArtifactError(
                f"{self.path}: {TIED} is not a copy of the backbone's audio embeddings; this model shares one table"
            )

    def blocks(self, entry: Entry) -> Iterator[Tensor]:
        """A weight in this program's form, block of rows after block.

        Raises:
            ArtifactError: a number in it is none, or all are zero.
        """
        for rows in checked_weight(self.weights[entry.own].blocks(entry.unit), f"{self.path}: {entry.name}"):
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
    if stored_config is not None and not isinstance(stored_config, dict):
        raise ArtifactError(f"{place}: is {quoted(stored_config)}; it must be an object of sizes")
    config = _config(layout, stored_config, found, str(place if stored_config else path), rope)
    entries = tuple(names.entries_of(layout, config))
    codec = {name: found.pop(name) for name in list(found) if layout == "hf" and name.startswith(CODEC)}
    derived = tuple(name for name in list(found) if names.is_derived(name) and found.pop(name))
    weights = {entry.own: found.pop(entry.name) for entry in entries if entry.name in found}
    tied = found.pop(TIED, None) if layout == "hf" else None
    if tied is not None and "audio_embeddings.weight" not in weights:
        weights["audio_embeddings.weight"], tied = tied, None
    scales = {own: found.pop(own + SCALE) for own in weights if layout == "csm" and own + SCALE in found}
    return Checkpoint(
        path=path,
        files=tuple(files),
        layout=layout,
        config=config,
        stored_config=stored_config,
        entries=entries,
        weights={entry.own: weights[entry.own] for entry in entries if entry.own in weights},
        tied=tied,
        scales=scales,
        codec=codec,
        derived=derived,
        extra=tuple(found),
    )


def _layout(found: Mapping[str, Stored], path: Path) -> Layout:
    if "backbone_model.norm.weight" in found:
        return "hf"
    if "backbone.norm.scale" in found:
        return "sesame"
    if "backbone.norm.weight" in found:
        return "csm"
    some = ", ".join(shown(name) for name in list(found)[:3])
    raise ArtifactError(
        f"{path}: no model of the CSM family: there is no norm of a backbone among its {len(found)} tensors ({some})"
    )


def _config(
    layout: Layout, stored: Any, found: Mapping[str, Stored], where: str, rope: sizes.Rope | None
) -> ModelConfig:
    """The sizes: from config.json, by what is in it; for Sesame's layout from the tensors where there is none."""
    stored = stored or {}
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


def _words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _equal(one: Stored, other: Stored) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype) and all(
        same_bits(a, b) for a, b in zip(one.blocks(), other.blocks(), strict=True)
    )
