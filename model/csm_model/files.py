"""Writing so that a kill loses nothing, and digests of what was written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from csm_model.errors import ArtifactError, InputError, shown

_BLOCK = 16 * 2**20


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renames it to `path` when the block ends well, removes it otherwise.

    What is written is on the disk before it has its name, and the name is on the disk when the block is left: a power
    cut leaves the old file or the new one whole, and nothing that names it is older.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder beside `folder`; when the block ends well it takes the name, an older folder's too.

    It is on the disk when the block is left, like a file of `atomic_path`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in partial.rglob("*"):
            sync(path)
        sync(partial)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old)
        else:
            partial.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what was begun in `folder` and beside it and not ended, by processes that were killed.

    For who is alone there: what another process writes just now would go too.
    """
    for path in [*folder.parent.glob(".*"), *folder.rglob(".*")]:
        if not path.name.endswith((".partial", ".old")):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk, where the file system can say so."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """Writes `data` to `path` in one step: readers see the old file or the new one; `private`: this user alone may."""
    with atomic_path(path) as partial:
        if private:
            partial.unlink(missing_ok=True)
            partial.touch(0o600, exist_ok=False)
        partial.write_bytes(data)


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, in one step."""
    with atomic_path(target) as partial:
        shutil.copyfile(source, partial)


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Writes `value` as indented JSON, in one step; `private`: for this user alone to read."""
    value = measured(value)
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:  # of a file's name that is no UTF-8
        data = (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    write_bytes(path, data, private=private)


def measured(value: Any) -> Any:
    """A JSON-able value in which what is no finite number is none: it was not measured, and JSON has no word for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: measured(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [measured(each) for each in value]
    return value


def written_path(path: Path) -> str:
    """A path as it stands in JSON: its bytes as UTF-8, whatever this process's locale makes of them."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def path_written(text: str) -> Path:
    """What `written_path` wrote, as this process takes it."""
    return Path(os.fsdecode(text.encode("utf-8", "surrogateescape")))


def read_json(path: Path) -> Any:
    """Reads JSON; raises `InputError` where there is no file and `ArtifactError` where it is damaged or is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path or run the step that writes it") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({shown(error)}); run the step that writes it again") from None
    except (IsADirectoryError, PermissionError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); see to it, or write it again") from None


def known_json(path: Path) -> Any | None:
    """Reads JSON that a run before may have left: None where it is not there, or is empty, torn or not ours to read."""
    try:
        return read_json(path)
    except (InputError, ArtifactError):
        return None


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written; None where there is none."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def private_copy(path: Path) -> Iterator[tuple[Path, str]]:
    """A copy of a file in memory that no other process can change, by a path; and its digest, of the very same bytes.

    What is mapped from that path stays as it is, whatever becomes of the file, and goes with the last map of it. A map
    of the file itself would follow the file: others may write into it, or cut it short, which kills who reads on. The
    copy takes as much memory as the file is long, once, and none of it is a page of the disk's cache.
    """
    copy = os.memfd_create(path.name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        total = hashlib.sha256()
        with path.open("rb") as file, os.fdopen(copy, "wb", closefd=False) as memory:
            while block := file.read(_BLOCK):
                total.update(block)
                memory.write(block)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        yield Path(f"/proc/self/fd/{copy}"), total.hexdigest()
    finally:
        os.close(copy)


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form: the same value gives the same digest anywhere."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
