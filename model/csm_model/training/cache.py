"""A local cache of files that lie elsewhere: of bounded size, shared by the processes of a machine, safe to kill.

CACHE/files/0a1b2c...      a whole file, under its own SHA-256; its time is when it was last used
CACHE/incoming/0a1b2c...   what is being fetched
CACHE/locks/0a             lock of all files whose digest begins so

A file is checked whenever it is taken, and fetched again where it is damaged. Locks are the kernel's (flock), so they
end with their process; what a killed process was fetching is removed by the next one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from csm_model.errors import DigestError, InputError
from csm_model.files import digest_of_file


class Fetch(Protocol):
    """Where files come from; `csm_components.storage.Storage` is one."""

    def get_file(self, key: str, path: Path) -> None:
        """Fetches a file, in one step; raises a `CsmError` where that cannot be done."""
        ...


class FileCache:
    """Files by digest.

    Args:
        folder: on a local disk; every process of the machine may use the same one.
        limit: bytes that the files may take; those not used for the longest are removed.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._files, self._incoming, self._locks = (folder / name for name in ("files", "incoming", "locks"))
        with self._disk_errors():
            for each in (self._files, self._incoming, self._locks):
                each.mkdir(parents=True, exist_ok=True)
            self._sweep()

    @contextmanager
    def file(self, fetch: Fetch, key: str, sha256: str) -> Iterator[Path]:
        """A file, whole; nobody removes it before the block ends, and what is open or mapped by then stays readable.

        Args:
            fetch: where it comes from, if it is not here.
            key: its name there.
            sha256: its digest.

        Raises:
            DigestError: what was fetched has another digest.
            InputError: the folder cannot be written to.
        """
        path = self._files / sha256
        with self._locked(sha256):
            with self._disk_errors():
                if not (path.is_file() and digest_of_file(path) == sha256):
                    self._bring(fetch, key, sha256, path)
                now = time.time_ns()
                os.utime(path, ns=(now, now))
            yield path

    def _bring(self, fetch: Fetch, key: str, sha256: str, path: Path) -> None:
        incoming = self._incoming / sha256
        for left in self._incoming.glob(f"*{sha256}*"):  # of a process that was killed: the lock is ours
            left.unlink()
        try:
            fetch.get_file(key, incoming)
            if digest_of_file(incoming) != sha256:
                raise DigestError(f"{key}: its bytes are not those that the manifest names; store the tokens again")
            self._make_room(incoming.stat().st_size)
            incoming.replace(path)
        finally:
            incoming.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Removes files, the longest unused first, until so many bytes are free; those in use stay."""
        files = []
        for path in self._files.iterdir():
            with suppress(FileNotFoundError):  # another process may be making room too
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        free = self.limit - sum(held for _, held, _ in files)
        for _, held, path in sorted(files):
            if free >= size:
                break
            with self._locked(path.name, wait=False) as mine:
                if mine:
                    path.unlink(missing_ok=True)
                    free += held

    def _sweep(self) -> None:
        """Removes what killed processes left half fetched."""
        for path in self._incoming.iterdir():
            with self._locked(path.name.lstrip("."), wait=False) as mine:
                if mine:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, sha256: str, *, wait: bool = True) -> Iterator[bool]:
        """Holds the lock of a file; without `wait`, says whether it could be had."""
        with (self._locks / sha256[:2]).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cache_dir {self.folder}: {error.strerror or error}; make room there, or name another folder"
            ) from None
