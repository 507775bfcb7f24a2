"""Tensors as they lie in files: where the bytes of each one are; read in blocks of rows, or mapped into memory.

Mapped pages count as the process's memory once they are touched, and so would a whole tensor. A conversion reads
blocks into memory of its own instead, which is why safetensors' short header is read here and not by its library
(format: 8 bytes of length, JSON, then the bytes; github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of the dtypes that a checkpoint may hold."""
BLOCK_BYTES = 4 * 2**20
"""Bytes that a conversion holds of a tensor at once, or a row if that is longer."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")
_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "transformers.safetensors.index.json",
    "ckpt.pt",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor in a file."""

    path: Path
    """The file."""
    offset: int
    """Of its first byte in the file."""
    dtype: torch.dtype
    """As stored."""
    shape: tuple[int, ...]
    """As stored."""
    strides: tuple[int, ...] | None = None
    """Where they are not those of row after row (a transposed tensor in a `.pt`)."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` (all of them by default), in memory of their own."""
        if self.strides is not None:
            span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
            whole = _bytes(self.path, self.offset, span * self.dtype.itemsize).view(self.dtype)
            return whole.as_strided(self.shape, self.strides)[start:stop].contiguous()
        if not self.shape:
            return _bytes(self.path, self.offset, self.dtype.itemsize).view(self.dtype).reshape(())
        stop = self.shape[0] if stop is None else stop
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        block = _bytes(self.path, self.offset + start * row, (stop - start) * row)
        return block.view(self.dtype).reshape(stop - start, *self.shape[1:])

    def blocks(self, unit: int = 1) -> Iterator[Tensor]:
        """All rows in blocks of about `BLOCK_BYTES`, each a multiple of `unit` rows."""
        if not self.shape or self.strides is not None:
            yield self.read()
            return
        row = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        step = max(unit, BLOCK_BYTES // row // unit * unit)
        for start in range(0, self.shape[0], step):
            yield self.read(start, min(start + step, self.shape[0]))

    def mapped(self, files: dict[Path, Any]) -> Tensor:
        """The tensor over the file's own pages; `files` keeps what is mapped already. Writing to it changes no file."""
        if self.path not in files:
            size = self.path.stat().st_size
            files[self.path] = torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=size)
        if self.strides is not None or self.offset % self.dtype.itemsize:
            return self.read()
        part = files[self.path][self.offset : self.offset + self.nbytes]
        tensor: Tensor = torch.empty(0, dtype=torch.uint8).set_(part)
        return tensor.view(self.dtype).view(self.shape)


def find_files(path: Path) -> list[Path]:
    """The files of a checkpoint: of a folder, of an index of shards, or the one file that `path` is.

    Raises:
        InputError: there is none.
        ArtifactError: an index names a file that is not there.
    """
    if path.is_dir():
        single = sorted(path.glob("*.safetensors"))
        found = [path / name for name in _NAMES if (path / name).is_file()] or (single if len(single) == 1 else [])
        if not found:
            raise InputError(f"{path}: no weights there; looked for {', '.join(_NAMES)}")
        return find_files(found[0])
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; give a checkpoint's folder, its file, or its index.json")
    if not path.name.endswith(".index.json"):
        return [path]
    index = read_json(path)
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise ArtifactError(f"{path}: no weight_map in it; an index names the shard of every tensor")
    shards = [path.parent / name for name in sorted(set(index["weight_map"].values()))]
    for shard in shards:
        if not shard.is_file():
            raise ArtifactError(f"{shard}: named by {path.name} but missing; fetch or copy the checkpoint again")
    return shards


def read_tensors(files: list[Path]) -> dict[str, Stored]:
    """Every tensor of the files by its name there, without what wrappers put in front (`module.`)."""
    found: dict[str, Stored] = {}
    for path in files:
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
        for stored_name, stored in tensors.items():
            name = _PREFIXES.sub("", stored_name)
            if name in found:
                raise ArtifactError(f"{path}: tensor {name} is in {found[name].path.name} too; remove one of the two")
            found[name] = stored
    return found


def _read_safetensors(path: Path) -> dict[str, Stored]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= size - 8:
            raise ArtifactError(f"{path}: not a safetensors file, or cut short; fetch or copy it again")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError as error:
            raise ArtifactError(f"{path}: its header is not JSON ({error}); fetch or copy it again") from None
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise ArtifactError(f"{path}: {name} is of dtype {entry['dtype']}; known are {', '.join(DTYPES)}")
        start, end = entry["data_offsets"]
        stored = Stored(path=path, offset=8 + length + start, dtype=DTYPES[entry["dtype"]], shape=tuple(entry["shape"]))
        if stored.nbytes != end - start:
            raise ArtifactError(f"{path}: {name} has {end - start} bytes for {stored.shape}; fetch or copy it again")
        if stored.offset + stored.nbytes > size:
            raise ArtifactError(f"{path}: cut short, {name} ends behind the file's end; fetch or copy it again")
        tensors[name] = stored
    return tensors


def _read_pickle(path: Path) -> dict[str, Stored]:
    """The tensors of what `torch.save` wrote, unpickled as weights only and without their bytes."""
    try:
        with FakeTensorMode():
            state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ArtifactError(
            f"{path}: cannot be read as weights only ({reason[0]}); save its state_dict alone, with torch.save"
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ArtifactError(f"{path}: no tensors by name in it; save the model's state_dict with torch.save")
    tensors = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        begin = getattr(value.untyped_storage(), "_checkpoint_offset", None)
        if begin is None:
            raise ArtifactError(f"{path}: written by a torch before 1.6; load it with torch and save it again")
        tensors[name] = Stored(
            path=path,
            offset=begin + value.storage_offset() * value.dtype.itemsize,
            dtype=value.dtype,
            shape=tuple(value.shape),
            strides=None if value.is_contiguous() else tuple(value.stride()),
        )
    return tensors


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one dtype and alike to the bit, NaN too."""
    integers = _INTEGERS[one.dtype.itemsize]
    return one.dtype == other.dtype and torch.equal(one.view(integers), other.view(integers))


def is_finite(block: Tensor) -> bool:
    """Whether every number is; by the extremes, which takes a twentieth of the time of looking at each."""
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(block))


def bytes_of(block: Tensor) -> memoryview:
    """The bytes of a tensor, in place where it is contiguous."""
    return memoryview(block.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _bytes(path: Path, offset: int, count: int) -> Tensor:
    """`count` bytes of a file: uint8 `[count]`."""
    buffer = torch.empty(count, dtype=torch.uint8)
    view = bytes_of(buffer)
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        done = 0
        while done < count:
            read = file.readinto(view[done:])
            if not read:
                raise ArtifactError(f"{path}: cut short at byte {offset + done}; fetch or copy it again")
            done += read
    return buffer
