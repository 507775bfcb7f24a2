"""safetensors written as a stream: the header first, then the tensors block by block; in shards if asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from csm_model.files import write_json
from csm_model.tensor_files import DTYPES, bytes_of

_CODES = {dtype: code for code, dtype in DTYPES.items()}

Progress = Callable[[int, int], None]
"""Told the bytes that are done and those that there are."""


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A tensor to be written."""

    name: str
    """In the file."""
    dtype: torch.dtype
    """In the file."""
    shape: tuple[int, ...]
    """In the file."""
    blocks: Callable[[], Iterator[Tensor]]
    """Its rows, block after block, of that dtype."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_shards(
    folder: Path, tensors: Sequence[Outgoing], *, shard_bytes: int | None = None, progress: Progress | None = None
) -> list[Path]:
    """Writes `model.safetensors`, or shards and their index where the tensors are more than `shard_bytes`."""
    shards = _shards(tensors, shard_bytes)
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    paths: list[Path] = []
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        many = len(shards) > 1
        path = folder / (f"model-{number:05}-of-{len(shards):05}.safetensors" if many else "model.safetensors")
        for written in _write(path, shard):
            done += written
            if progress is not None:
                progress(done, total)
        places |= {tensor.name: path.name for tensor in shard}
        paths.append(path)
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    return paths


def _shards(tensors: Sequence[Outgoing], shard_bytes: int | None) -> list[list[Outgoing]]:
    """Tensors in their order, a new shard where the next one would not fit; one that never fits has its own."""
    shards: list[list[Outgoing]] = [[]]
    size = 0
    for tensor in tensors:
        if shard_bytes is not None and shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _write(path: Path, tensors: Sequence[Outgoing]) -> Iterator[int]:
    """Writes one file; yields the bytes of each block once they are written."""
    tensors = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)  # so that every one is aligned to its dtype
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers refuses files that do not say so
    offset = 0
    for tensor in tensors:
        place = [offset, offset + tensor.nbytes]
        header[tensor.name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            written = 0
            for block in tensor.blocks():
                assert block.dtype == tensor.dtype, (tensor.name, block.dtype)
                data = bytes_of(block)
                file.write(data)
                written += len(data)
                yield len(data)
            assert written == tensor.nbytes, (tensor.name, written, tensor.nbytes)
