"""Files of tensors, by the one door through which weights come in: what is read is whole, or refused in one line.

No content of such a file raises anything but a `CsmError` that names it, and none runs code. safetensors' own library
decides what a safetensors file is; of what `torch.save` wrote, the records are checked before torch sees them.

Mapped pages count as the process's memory once they are touched, and so would a whole tensor. A conversion reads
blocks into memory of its own instead, for which the place of each tensor in its file is kept
(format: 8 bytes of length, JSON, then the bytes; github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from csm_model.errors import ArtifactError, quoted, shown

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
"""safetensors' names of the dtypes that may be stored."""
BLOCK_BYTES = 4 * 2**20
"""Bytes that a conversion holds of a tensor at once, or a row if that is longer."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_AGAIN = "fetch or copy it again"
_MAKES_BYTES = ("bytearray", "encode")
"""Functions that torch lets a file of weights call, and with which a short one can fill the memory."""


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

    @property
    def span(self) -> int:
        """Bytes from its first number to the end of its last."""
        if self.strides is None or not math.prod(self.shape):
            return self.nbytes
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` (all of them by default), in memory of their own."""
        if self.strides is not None:
            whole = _bytes(self.path, self.offset, self.span).view(self.dtype)
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


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of a file by its name there: of `.safetensors`, or of what `torch.save` wrote.

    Raises:
        ArtifactError: the file is damaged, or of another kind.
    """
    return _stored_safetensors(path, path) if path.suffix == ".safetensors" else _stored_pickle(path)


def load_tensors(path: Path, *, called: Path | None = None, zeros: bool = True) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, all of their numbers finite.

    Args:
        path: the file.
        called: what errors call it, where it is the copy of another.
        zeros: whether a tensor may be nothing but zeros; no weight of the model is.

    Raises:
        ArtifactError: the file is damaged or missing, or holds a number that is none.
    """
    from safetensors.torch import load_file

    called = called or path
    _stored_safetensors(path, called)
    tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in tensors.items():
        where = f"{called}: {shown(name)}"
        for _ in finite_blocks([tensor], where) if zeros else checked_weight([tensor], where):
            pass
    return tensors


def load_pickle(path: Path) -> Any:
    """What `torch.save` wrote, read as weights only, on the CPU.

    Raises:
        ArtifactError: the file is damaged, or holds more than tensors and plain values.
    """
    check_records(path)
    return _unpickled(path)


def check_records(path: Path) -> None:
    """Reads a file of `torch.save` whole and compares its records with the sums that stand beside them.

    Raises:
        ArtifactError: it is no such file, or a record was changed.
    """
    with _opened(path) as archive:
        for record in _records(archive, path).values():
            data, total = _blocks(path, record.offset, record.nbytes), 0
            for block in data:
                total = zlib.crc32(bytes_of(block), total)
            if total != record.crc:
                raise ArtifactError(
                    f"{path}: record {shown(record.name)} does not match its checksum; {_AGAIN}, or load it with the "
                    "torch that wrote it and save it again"
                )


def _stored_safetensors(path: Path, called: Path) -> dict[str, Stored]:
    """By the library's own judgement, and where each tensor begins; a name that stands twice is refused too."""
    try:
        with safe_open(path, framework="numpy"), path.open("rb") as file:  # type: ignore[no-untyped-call]
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length), object_pairs_hook=_once)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{called}: not a safetensors file, damaged or cut short ({shown(error)}); {_AGAIN}"
        ) from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ArtifactError(f"{called}: {shown(name)} is of dtype {entry['dtype']}; known are {', '.join(DTYPES)}")
        start, end = entry["data_offsets"]
        stored = Stored(path=path, offset=8 + length + start, dtype=DTYPES[entry["dtype"]], shape=tuple(entry["shape"]))
        assert stored.nbytes == end - start  # the library has looked
        tensors[name] = stored
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names stand once; `ValueError` for one that has a name twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} stands twice in its header")
        found[name] = value
    return found


def _stored_pickle(path: Path) -> dict[str, Stored]:
    """The tensors of what `torch.save` wrote, unpickled as weights only and without their bytes."""
    with _opened(path) as archive:
        records = _records(archive, path)
    with FakeTensorMode():
        state = _unpickled(path)
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ArtifactError(f"{path}: no tensors by name in it; save the model's state_dict with torch.save")
    return {
        _name(name, path): _stored_in_record(name, value, records, path)
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _name(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise ArtifactError(f"{path}: a tensor is named {quoted(name)}, which is no text; save the model's state_dict")
    return name


def _stored_in_record(name: str, value: Tensor, records: Mapping[int, _Record], path: Path) -> Stored:
    where = f"{path}: {shown(name)}"
    if value.layout != torch.strided or value.dtype not in DTYPES.values() or value.is_quantized:
        raise ArtifactError(
            f"{where} is a {str(value.layout).removeprefix('torch.')} tensor of "
            f"{str(value.dtype).removeprefix('torch.')}; save plain tensors of {', '.join(DTYPES)}"
        )
    record = records.get(getattr(value.untyped_storage(), "_checkpoint_offset", -1))
    if record is None:
        raise ArtifactError(f"{where} has no bytes in the file; load it with torch and save it again")
    stored = Stored(
        path=path,
        offset=record.offset + int(value.storage_offset()) * value.dtype.itemsize,
        dtype=value.dtype,
        shape=tuple(value.shape),
        strides=None if value.is_contiguous() else tuple(value.stride()),
    )
    if stored.offset + max(stored.nbytes, stored.span) > record.offset + record.nbytes:
        raise ArtifactError(f"{where} needs more bytes than the file has of it; {_AGAIN}")
    return stored


def _unpickled(path: Path) -> Any:
    """By torch's own reader of weights, which calls nothing that is not on its list."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a file's content decides what is raised here
        raise _not_weights(path, shown(error)) from None


def _not_weights(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: cannot be read as weights only ({reason}); save its state_dict alone, with torch.save"
    )


@dataclass(frozen=True, kw_only=True)
class _Record:
    """One record of the archive that `torch.save` writes."""

    name: str
    offset: int
    """Of its first byte in the file."""
    nbytes: int
    crc: int


def _opened(path: Path) -> zipfile.ZipFile:
    """The archive that `torch.save` writes since 1.6."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        reason = shown(error)
    begin = _begin(path)
    if begin[:2] == b"PK":
        raise ArtifactError(f"{path}: damaged, or cut short ({reason}); {_AGAIN}")
    if begin[:1] == b"\x80":
        raise ArtifactError(f"{path}: written by a torch before 1.6; load it with torch and save it again")
    raise ArtifactError(f"{path}: not a file of torch.save ({reason}); {_AGAIN}")


def _begin(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2)
    except OSError:
        return b""


def _records(archive: zipfile.ZipFile, path: Path) -> dict[int, _Record]:
    """The records by where they begin, each whole, as it is and named once, before anything is made of them."""
    size, found, names = path.stat().st_size, {}, set()
    with path.open("rb") as file:
        for info in archive.infolist():
            name = shown(info.filename)
            file.seek(max(0, info.header_offset))
            local = file.read(30)
            if info.header_offset < 0 or len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise ArtifactError(f"{path}: record {name} does not begin where the archive says; {_AGAIN}")
            offset = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise ArtifactError(f"{path}: record {name} is compressed, as torch.save writes none; save it again")
            if offset + info.file_size > size:
                raise ArtifactError(f"{path}: record {name} ends behind the file's end; {_AGAIN}")
            if info.filename in names or (info.file_size and offset in found):
                raise ArtifactError(f"{path}: record {name} is there twice; {_AGAIN}")
            names.add(info.filename)
            if info.file_size:
                found[offset] = _Record(name=info.filename, offset=offset, nbytes=info.file_size, crc=info.CRC)
            if info.filename.endswith("/data.pkl"):
                _check_calls(_bytes(path, offset, info.file_size), path)
    return found


def _check_calls(pickled: Tensor, path: Path) -> None:
    """Refuses the functions on torch's list that a model's weights need not, and that fill the memory."""
    try:
        for operation, argument, _ in pickletools.genops(bytes(bytes_of(pickled))):
            if operation.name == "GLOBAL" and str(argument).split(" ")[-1] in _MAKES_BYTES:
                raise _not_weights(path, f"it calls {argument}")
    except (ValueError, IndexError, UnicodeError, OverflowError) as error:
        raise _not_weights(path, shown(error)) from None


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one dtype and alike to the bit, NaN too."""
    integers = _INTEGERS[one.dtype.itemsize]
    return one.dtype == other.dtype and torch.equal(one.view(integers), other.view(integers))


def is_finite(block: Tensor) -> bool:
    """Whether every number is; by the extremes, which takes a twentieth of the time of looking at each."""
    return block.numel() == 0 or all(bool(extreme.isfinite()) for extreme in torch.aminmax(block))


def check_finite(block: Tensor, where: str) -> None:
    """Raises `ArtifactError` where a number is none."""
    _check(not block.is_floating_point() or is_finite(block), where)


def _check(finite: bool, where: str) -> None:
    if not finite:
        raise ArtifactError(f"{where} is not finite everywhere; the model cannot be used")


def finite_blocks(blocks: Iterable[Tensor], where: str) -> Iterator[Tensor]:
    """The blocks of a tensor as they come; raises `ArtifactError` where a number is none."""
    for block in blocks:
        check_finite(block, where)
        yield block


def checked_weight(blocks: Iterable[Tensor], where: str) -> Iterator[Tensor]:
    """The blocks of a weight as they come; raises `ArtifactError` where no speech can come of it.

    That is a number that is none; or nothing but zeros, as where a download reserved the room and was not finished.
    """
    zero = True
    for block in blocks:
        if block.numel():
            extremes = torch.stack(torch.aminmax(block))
            _check(bool(extremes.isfinite().all()), where)
            zero = zero and not bool(extremes.any())
        yield block
    if zero:
        raise ArtifactError(f"{where} is zero everywhere, as in a file that was not fetched to its end; {_AGAIN}")


def bytes_of(block: Tensor) -> memoryview:
    """The bytes of a tensor, in place where it is contiguous."""
    return memoryview(block.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _blocks(path: Path, offset: int, count: int) -> Iterator[Tensor]:
    """`count` bytes of a file in blocks: uint8."""
    for start in range(0, count, BLOCK_BYTES):
        yield _bytes(path, offset + start, min(BLOCK_BYTES, count - start))


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
