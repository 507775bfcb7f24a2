"""What a storage is: objects by key, and trees over them, the same for every kind.

A tree (a step's output folder) is stored as one object a file, and a list of them with their digests that is written
last: a tree is there whole or not at all. Every file that is fetched is checked against the list.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from csm_components.tree_list import TREE, parse_tree, tree_of
from csm_model.errors import DigestError, InputError, NotFoundError
from csm_model.files import digest_of_file, read_json, write_json

T = TypeVar("T")
TRANSFERS = 8
"""Objects that travel at once."""


class Storage(Protocol):
    """Objects by key. A key is a relative path with slashes."""

    def put_file(self, path: Path, key: str) -> None:
        """Stores a file; readers see the old object or the new one."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Fetches an object into a file, in one step; raises `NotFoundError` where there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        ...

    def digest(self, key: str) -> str | None:
        """SHA-256 of an object's bytes; none where there is no object."""
        ...

    def put_json(self, value: Any, key: str) -> None:
        """Stores `value` as JSON; readers see the old object or the new one."""
        ...

    def get_json(self, key: str) -> Any:
        """Reads JSON; raises `NotFoundError` where there is no object and `ArtifactError` where it is damaged."""
        ...

    def has_tree(self, key: str) -> bool:
        """Whether there is a tree of this key, whole."""
        ...

    def trees(self, prefix: str = "") -> list[str]:
        """Keys of the trees that begin with `prefix` and are there whole, sorted."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """All keys that begin with `prefix`, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Removes an object; nothing happens where there is none."""
        ...

    def put_tree(self, folder: Path, key: str, on_file: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Stores all files of a folder under `key/`, and returns their list; goes on where a killed one stopped.

        `on_file` hears the size of each file that is there now, bytes.
        """
        ...

    def read_tree(self, key: str) -> dict[str, Any]:
        """The list of a tree: `files`, each with `sha256` and `size`; raises `InputError` where there is no tree."""
        ...

    def get_files(self, key: str, files: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """Fetches some files of a tree, rows of its list; what lies in the folder already is not fetched again."""
        ...

    def get_tree(self, key: str, folder: Path) -> dict[str, Any]:
        """Fetches a tree into a folder that is there whole or not at all; raises `DigestError` for damaged bytes."""
        ...


class SharedStorage:
    """JSON and trees over single objects, the same for every storage."""

    def put_json(self: Storage, value: Any, key: str) -> None:
        """See `Storage.put_json`."""
        with _scratch_file(b"") as path:
            write_json(path, value)
            self.put_file(path, key)

    def get_json(self: Storage, key: str) -> Any:
        """See `Storage.get_json`."""
        with _scratch_file(b"") as path:
            self.get_file(key, path)
            return read_json(path)

    def has_tree(self: Storage, key: str) -> bool:
        """See `Storage.has_tree`."""
        return self.exists(f"{key}/{TREE}")

    def trees(self: Storage, prefix: str = "") -> list[str]:
        """See `Storage.trees`."""
        return sorted(key.removesuffix(f"/{TREE}") for key in self.list(prefix) if key.endswith(f"/{TREE}"))

    def put_tree(self: Storage, folder: Path, key: str, on_file: Callable[[int], None] | None = None) -> dict[str, Any]:
        """See `Storage.put_tree`."""
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; only a folder can be stored as a tree")
        tree = tree_of(folder)
        text = (json.dumps(tree, indent=2, sort_keys=True) + "\n").encode()
        with _scratch_file(text) as listing:
            if self.digest(f"{key}/{TREE}") == digest_of_file(listing):
                return tree
            # Without its list a tree is not there, so nobody reads a mixture of the old one and the new one.
            self.delete(f"{key}/{TREE}")
            known = set(self.list(f"{key}/"))

            def send(name: str) -> int:
                there = f"{key}/{name}" in known and self.digest(f"{key}/{name}") == tree["files"][name]["sha256"]
                if not there:
                    self.put_file(folder / name, f"{key}/{name}")
                return int(tree["files"][name]["size"])

            for size in in_parallel(send, tree["files"]):
                if on_file is not None:
                    on_file(size)
            for _ in in_parallel(self.delete, known - {f"{key}/{name}" for name in tree["files"]}):
                pass
            self.put_file(listing, f"{key}/{TREE}")
        return tree

    def read_tree(self: Storage, key: str) -> dict[str, Any]:
        """See `Storage.read_tree`."""
        if not self.has_tree(key):
            raise NotFoundError(f"{key}: no such tree in the storage, or it is not whole; run the step that writes it")
        with _scratch_file(b"") as listing:
            self.get_file(f"{key}/{TREE}", listing)
            return parse_tree(listing.read_bytes(), key)

    def get_files(self: Storage, key: str, files: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """See `Storage.get_files`."""

        def fetch(name: str) -> None:
            path, sha256 = folder / name, files[name]["sha256"]
            if path.is_file() and digest_of_file(path) == sha256:
                return
            self.get_file(f"{key}/{name}", path)
            if digest_of_file(path) != sha256:
                path.unlink()
                raise DigestError(f"{key}/{name}: its bytes are not those that the tree names; store the tree again")

        for _ in in_parallel(fetch, files):
            pass

    def get_tree(self: Storage, key: str, folder: Path) -> dict[str, Any]:
        """See `Storage.get_tree`."""
        tree = self.read_tree(key)
        if folder.is_dir() and tree_of(folder)["digest"] == tree["digest"]:
            return tree
        partial = folder.with_name(f".{folder.name}.partial")
        self.get_files(key, tree["files"], partial)
        for path in [path for path in partial.rglob("*") if path.is_file()]:
            if path.relative_to(partial).as_posix() not in tree["files"]:
                path.unlink()
        partial.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        return tree


def in_parallel(transfer: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
    """What `transfer` returns for each name, `TRANSFERS` at once, in order; after an error no further one begins."""
    threads = ThreadPoolExecutor(TRANSFERS)
    try:
        yield from threads.map(transfer, names)
    finally:
        threads.shutdown(cancel_futures=True)


@contextmanager
def _scratch_file(data: bytes) -> Iterator[Path]:
    """A file that is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="csm-") as folder:
        path = Path(folder) / "object"
        path.write_bytes(data)
        yield path
