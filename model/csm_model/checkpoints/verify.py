"""Whether a checkpoint is whole, and whether two hold the same weights: read block by block, in any two layouts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from csm_model.checkpoints.names import Entry
from csm_model.checkpoints.sizes import Rope
from csm_model.checkpoints.source import Checkpoint, open_checkpoint
from csm_model.checkpoints.writer import Progress
from csm_model.errors import ArtifactError, shown
from csm_model.files import digest_of
from csm_model.manifest import MANIFEST, read_manifest
from csm_model.quantize import SCALE
from csm_model.tensor_files import bytes_of, checked_weight, finite_blocks, same_bits


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Of a checkpoint that is whole."""

    tensors: int
    """Weights looked at."""
    weights: int
    """Numbers in them."""
    identical: bool | None
    """Whether the other checkpoint's are the same to the bit; None where there was none."""
    difference: float
    """Largest absolute difference to the other's."""


def verify(
    path: Path,
    other: Path | None = None,
    *,
    tolerance: float = 0.0,
    rope: Rope | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Looks at every weight of one checkpoint, and compares each to the same weight of another.

    Weights of one dtype must be equal to the bit. Those of two must be what rounding the wider gives, or differ by no
    more than `tolerance`.

    Raises:
        InputError, ArtifactError: see `open_checkpoint`; a weight is missing, too many, not finite, or not the same.
    """
    one = open_checkpoint(path, rope=rope)
    if one.layout == "csm" and (one.folder / MANIFEST).is_file():
        read_manifest(one.folder)
    if one.rounded is not None and other is None:
        return _verify_rounded(one, progress)
    one.check()
    _check_codec(one)
    two = None if other is None else open_checkpoint(other, rope=rope)
    if two is not None:
        two.check()
        if two.config != one.config:
            raise ArtifactError(f"{path} and {other}: not models of the same sizes; csm checkpoint inspect shows both")
    total, done, count, identical, difference = sum(s.nbytes for s in one.weights.values()), 0, 0, True, 0.0
    for entry in one.entries:
        for mine, its in _pairs(one, two, entry):
            if its is not None and not same_bits(mine, its):
                identical = False
                apart = (mine.double() - its.double()).abs().max().item()
                difference = max(difference, apart)
                if not apart <= tolerance and not _rounded(mine, its):
                    raise ArtifactError(f"{path} and {other}: {entry.name} differs, by up to {apart:.3g}")
            count += mine.numel()
            done += mine.nbytes
            if progress is not None:
                progress(done, total)
    return Verification(
        tensors=len(one.entries),
        weights=count,
        identical=None if two is None else identical,
        difference=difference,
    )


def weights_digest(checkpoint: Checkpoint, progress: Progress | None = None) -> str:
    """SHA-256 over the weights in this program's form: the same in every layout, another in another dtype."""
    total, done = sum(stored.nbytes for stored in checkpoint.weights.values()), 0
    tensors = {}
    for entry in checkpoint.entries:
        digest = hashlib.sha256()
        for block in checkpoint.blocks(entry):
            digest.update(bytes_of(block))
            done += block.nbytes
            if progress is not None:
                progress(done, total)
        stored = checkpoint.weights[entry.own]
        tensors[entry.own] = [str(stored.dtype), list(stored.shape), digest.hexdigest()]
    return digest_of(tensors)


def _pairs(one: Checkpoint, two: Checkpoint | None, entry: Entry) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Blocks of a weight of the one, each with the same rows of the other."""
    if two is None:
        for block in one.blocks(entry):
            yield block, None
        return
    there = next(other for other in two.entries if other.own == entry.own)
    unit = max(entry.unit, there.unit)
    stored = two.weights[there.own]
    start = 0
    for rows in checked_weight(one.weights[entry.own].blocks(unit), f"{one.path}: {entry.name}"):
        stop = start + len(rows)
        yield entry.to_own(rows), there.to_own(stored.read(start, stop))
        start = stop


def _verify_rounded(one: Checkpoint, progress: Progress | None) -> Verification:
    """Of a bundle's int8 or int4 weights, and of their scales."""
    one.check_whole()
    tensors = one.weights | {name + SCALE: stored for name, stored in one.scales.items()}
    total, done, count = sum(stored.nbytes for stored in tensors.values()), 0, 0
    for name, stored in tensors.items():
        for block in checked_weight(stored.blocks(), f"{one.path}: {name}"):
            if not name.endswith(SCALE):
                count += block.numel() * (2 if stored.dtype == torch.uint8 else 1)
            done += block.nbytes
            if progress is not None:
                progress(done, total)
    return Verification(tensors=len(tensors), weights=count, identical=None, difference=0.0)


def _check_codec(checkpoint: Checkpoint) -> None:
    """Raises `ArtifactError` where a number of the codec in a Hugging Face checkpoint is none."""
    for name, stored in checkpoint.codec.items():
        for _ in finite_blocks(stored.blocks(), f"{checkpoint.path}: {shown(name)}"):
            pass


def _rounded(one: Tensor, other: Tensor) -> bool:
    """Whether the narrower is the wider rounded."""
    if one.dtype == other.dtype:
        return False
    wide, narrow = (one, other) if one.dtype.itemsize >= other.dtype.itemsize else (other, one)
    return same_bits(wide.to(narrow.dtype), narrow)
