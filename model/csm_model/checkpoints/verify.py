"""Whether a checkpoint is whole, and whether two hold the same weights: read block by block, in any two layouts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from csm_model.checkpoints.names import Entry
from csm_model.checkpoints.sizes import Rope
from csm_model.checkpoints.source import Checkpoint, open_checkpoint
from csm_model.checkpoints.stored import bytes_of, is_finite, same_bits
from csm_model.checkpoints.writer import Progress
from csm_model.errors import ArtifactError
from csm_model.files import digest_of


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
    one.check()
    two = None if other is None else open_checkpoint(other, rope=rope)
    if two is not None:
        two.check()
        if two.config != one.config:
            raise ArtifactError(f"{path} and {other}: not models of the same sizes; csm checkpoint inspect shows both")
    total, done, count, identical, difference = sum(s.nbytes for s in one.weights.values()), 0, 0, True, 0.0
    for entry in one.entries:
        for mine, its in _pairs(one, two, entry):
            _check_finite(mine, f"{path}: {entry.name}")
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
    for rows in one.weights[entry.own].blocks(unit):
        stop = start + len(rows)
        yield entry.to_own(rows), there.to_own(stored.read(start, stop))
        start = stop


def _check_finite(block: Tensor, where: str) -> None:
    if not is_finite(block):
        raise ArtifactError(f"{where} is not finite everywhere; the model cannot be used")


def _rounded(one: Tensor, other: Tensor) -> bool:
    """Whether the narrower is the wider rounded."""
    if one.dtype == other.dtype:
        return False
    wide, narrow = (one, other) if one.dtype.itemsize >= other.dtype.itemsize else (other, one)
    return same_bits(wide.to(narrow.dtype), narrow)
