"""Where artefacts lie, seen alike: the runs of this machine, and a storage. Both are files by key."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from csm_components.shared_storage import in_parallel
from csm_components.storage import Storage


class Shelf(Protocol):
    """Files by key."""

    name: str
    """Folder or address, for people."""

    def all(self) -> list[str]:
        """The keys of all, sorted."""
        ...

    def open(self, key: str) -> Path:
        """A file with the bytes of one; raises `NotFoundError` or `OSError` where it has gone."""
        ...

    def size(self, key: str) -> int:
        """Bytes of one that was opened or that lies here; 0 where it is not known without fetching it."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Removes files, in this order; one that has gone is no error."""
        ...


class RunsShelf:
    """The runs of this machine."""

    def __init__(self, runs: Path) -> None:
        self._root = runs
        self.name = str(runs)

    def all(self) -> list[str]:
        """See `Shelf.all`; halves of files are among them, `runs/latest` is not followed."""
        return sorted(
            path.relative_to(self._root).as_posix()
            for path in self._root.rglob("*")
            if path.is_file() and not path.is_symlink()
        )

    def open(self, key: str) -> Path:
        """See `Shelf.open`."""
        return self._root / key

    def size(self, key: str) -> int:
        """See `Shelf.size`."""
        path = self._root / key
        return path.stat().st_size if path.exists() else 0

    def remove(self, keys: Sequence[str]) -> None:
        """See `Shelf.remove`; folders that are empty then go too."""
        for key in keys:
            path = self._root / key
            path.unlink(missing_ok=True)
            for folder in path.relative_to(self._root).parents:
                here = self._root / folder
                if folder == Path() or not here.is_dir() or any(here.iterdir()):
                    break
                here.rmdir()


class StorageShelf:
    """A storage; what is opened is fetched, and kept until the end."""

    def __init__(self, storage: Storage, name: str, scratch: Path) -> None:
        self.storage = storage
        self.name = name
        self._scratch = scratch

    def all(self) -> list[str]:
        """See `Shelf.all`."""
        return self.storage.list()

    def open(self, key: str) -> Path:
        """See `Shelf.open`."""
        path = self._scratch / key
        if not path.exists():
            self.storage.get_file(key, path)
        return path

    def size(self, key: str) -> int:
        """See `Shelf.size`."""
        path = self._scratch / key
        return path.stat().st_size if path.exists() else 0

    def remove(self, keys: Sequence[str]) -> None:
        """See `Shelf.remove`."""
        for _ in in_parallel(self.storage.delete, keys):
            pass


@contextmanager
def storage_shelf(storage: Storage, name: str) -> Iterator[StorageShelf]:
    """A storage as a shelf, whose scratch folder is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="csm-forget-") as scratch:
        yield StorageShelf(storage, name, Path(scratch))
