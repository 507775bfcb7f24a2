"""Where artefacts go when they leave the machine that made them: a folder, or a bucket of an S3 service.

What every storage does stands in `csm_components.shared_storage`.

    storage = open_storage("s3://bucket/csm")
    storage.put_tree(Path("runs/latest/ingest"), "ingest/0a1b2c")
    storage.get_tree("ingest/0a1b2c", Path("/data/ingest"))
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from csm_components.s3 import open_s3
from csm_components.settings import Settings, load_settings
from csm_components.shared_storage import SharedStorage, Storage
from csm_model.errors import InputError, NotFoundError
from csm_model.files import copy_file, digest_of_file

__all__ = ["LocalStorage", "Storage", "local_folder", "open_storage", "open_tree"]


class LocalStorage(SharedStorage):
    """Objects as files under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _path(self, key: str) -> Path:
        parts = Path(key).parts
        if not parts or ".." in parts or Path(key).is_absolute():
            raise InputError(f"key {key!r}: must be a relative path without '..'")
        return self.root / key

    def put_file(self, path: Path, key: str) -> None:
        """See `Storage.put_file`."""
        copy_file(path, self._path(key))

    def get_file(self, key: str, path: Path) -> None:
        """See `Storage.get_file`."""
        if not self._path(key).is_file():
            raise NotFoundError(f"{self._path(key)}: no such object")
        copy_file(self._path(key), path)

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        return self._path(key).is_file()

    def digest(self, key: str) -> str | None:
        """See `Storage.digest`."""
        return digest_of_file(self._path(key)) if self.exists(key) else None

    def list(self, prefix: str = "") -> list[str]:
        """See `Storage.list`."""
        keys = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(key for key in keys if key.startswith(prefix) and not key.endswith(".partial"))

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        self._path(key).unlink(missing_ok=True)


def open_storage(url: str | None = None, settings: Settings | None = None) -> Storage:
    """Opens a storage: a path or `file:///path`, or `s3://bucket/prefix` at the endpoint of the settings.

    Args:
        url: what to open; `CSM_STORAGE` without it.
        settings: endpoint and keys; the environment's without them.

    Raises:
        InputError: an unknown kind of address, or S3 without endpoint or keys.
    """
    settings = settings or load_settings()
    url = settings.storage if url is None else url
    if not url:
        raise InputError("no storage is named: set CSM_STORAGE to a folder or to s3://bucket/prefix")
    if "://" not in url:
        return LocalStorage(Path(url))
    if url.startswith("file:///"):
        return LocalStorage(Path(unquote(url.removeprefix("file://"))))
    if url.startswith("s3://"):
        return open_s3(settings, url)
    raise InputError(f"storage {url!r}: must be a folder, file:///folder or s3://bucket/prefix")


def open_tree(url: str, settings: Settings | None = None) -> tuple[Storage, str]:
    """The storage that holds the tree of an address, such as s3://bucket/prefix/key, and its key there."""
    parent, _, key = url.rstrip("/").rpartition("/")
    return open_storage(parent, settings), key


@contextmanager
def local_folder(url: str, settings: Settings | None = None) -> Iterator[Path]:
    """A folder to read from: the folder itself, or a tree of the storage, fetched and removed when the block ends."""
    if "://" not in url:
        yield Path(url)
        return
    storage, key = open_tree(url, settings)
    with tempfile.TemporaryDirectory(prefix="csm-") as scratch:
        folder = Path(scratch) / key
        storage.get_tree(key, folder)
        yield folder
