"""Objects in a folder, or in S3: where artefacts go when they leave the machine that made them.

A tree (a step's output folder) is stored as one object a file, and a list of them with their digests that is written
last: a tree is there whole or not at all. Every file that is fetched is checked against the list.

    storage = open_storage("s3://bucket/csm")
    storage.put_tree(Path("runs/latest/ingest"), "ingest/0a1b2c")
    storage.get_tree("ingest/0a1b2c", Path("/data/ingest"))
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from csm_components.settings import Settings, load_settings
from csm_model.errors import ArtifactError, DigestError, InputError, MissingDependencyError
from csm_model.files import atomic_path, digest_of, digest_of_file

if TYPE_CHECKING:
    from minio import Minio

TREE = ".tree.json"
"""Object that lists a tree's files; written last."""
_TRANSFERS = 8


class Storage(Protocol):
    """Objects by key. A key is a relative path with slashes."""

    def put_file(self, path: Path, key: str) -> None:
        """Stores a file; readers see the old object or the new one."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Fetches an object into a file, in one step; raises `InputError` where there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        ...

    def digest(self, key: str) -> str | None:
        """SHA-256 of an object's bytes; none where there is no object."""
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


class _Trees:
    """Trees over single objects, the same for every storage."""

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
            for name, row in tree["files"].items():
                if self.digest(f"{key}/{name}") != row["sha256"]:
                    self.put_file(folder / name, f"{key}/{name}")
                if on_file is not None:
                    on_file(row["size"])
            for name in self.list(f"{key}/"):
                if name.removeprefix(f"{key}/") not in tree["files"]:
                    self.delete(name)
            self.put_file(listing, f"{key}/{TREE}")
        return tree

    def read_tree(self: Storage, key: str) -> dict[str, Any]:
        """See `Storage.read_tree`."""
        if not self.exists(f"{key}/{TREE}"):
            raise InputError(f"{key}: no such tree in the storage, or it is not whole; run the step that writes it")
        with _scratch_file(b"") as listing:
            self.get_file(f"{key}/{TREE}", listing)
            return _parse_tree(listing.read_bytes(), key)

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

        with ThreadPoolExecutor(_TRANSFERS) as threads:
            for _ in threads.map(fetch, files):
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


class LocalStorage(_Trees):
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
        with atomic_path(self._path(key)) as partial:
            shutil.copyfile(path, partial)

    def get_file(self, key: str, path: Path) -> None:
        """See `Storage.get_file`."""
        if not self._path(key).is_file():
            raise InputError(f"{self._path(key)}: no such object")
        with atomic_path(path) as partial:
            shutil.copyfile(self._path(key), partial)

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


class S3Storage(_Trees):
    """Objects in a bucket of any S3 service. The SHA-256 of each is kept as its metadata `sha256`."""

    def __init__(self, client: Minio, bucket: str, prefix: str = "") -> None:
        self._client = client
        self.bucket = bucket
        self.prefix = prefix.strip("/")

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def put_file(self, path: Path, key: str) -> None:
        """See `Storage.put_file`; makes the bucket where there is none.

        The bucket is not asked for first: keys that may write under a prefix need not be allowed to look at all of it.
        """
        from minio.error import S3Error

        put: dict[str, Any] = {
            "bucket_name": self.bucket,
            "object_name": self._key(key),
            "file_path": str(path),
            "metadata": {"sha256": digest_of_file(path)},
        }
        with _plain_errors(self, key):
            try:
                self._client.fput_object(**put)
            except S3Error as error:
                if error.code != "NoSuchBucket":
                    raise
                self._client.make_bucket(bucket_name=self.bucket)
                self._client.fput_object(**put)

    def get_file(self, key: str, path: Path) -> None:
        """See `Storage.get_file`."""
        with _plain_errors(self, key), atomic_path(path) as partial:
            self._client.fget_object(bucket_name=self.bucket, object_name=self._key(key), file_path=str(partial))

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        return self._metadata(key) is not None

    def digest(self, key: str) -> str | None:
        """See `Storage.digest`; an object that was not stored by this program has none either."""
        return (self._metadata(key) or {}).get("x-amz-meta-sha256")

    def _metadata(self, key: str) -> dict[str, str] | None:
        from minio.error import S3Error

        with _plain_errors(self, key):
            try:
                stat = self._client.stat_object(bucket_name=self.bucket, object_name=self._key(key))
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchBucket", "NoSuchObject"):
                    return None
                raise
        return {name.lower(): value for name, value in (stat.metadata or {}).items()}

    def list(self, prefix: str = "") -> list[str]:
        """See `Storage.list`."""
        from minio.error import S3Error

        start = len(self.prefix) + 1 if self.prefix else 0
        with _plain_errors(self, prefix):
            rows = self._client.list_objects(bucket_name=self.bucket, prefix=self._key(prefix), recursive=True)
            try:
                return sorted(str(row.object_name)[start:] for row in rows)
            except S3Error as error:
                if error.code != "NoSuchBucket":
                    raise
                return []

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        if self.exists(key):
            with _plain_errors(self, key):
                self._client.remove_object(bucket_name=self.bucket, object_name=self._key(key))


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
    parts = urlsplit(url)
    if "://" not in url:
        return LocalStorage(Path(url))
    if parts.scheme == "file" and not parts.netloc:
        return LocalStorage(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return S3Storage(_s3_client(settings, url), parts.netloc, parts.path)
    raise InputError(f"storage {url!r}: must be a folder, file:///folder or s3://bucket/prefix")


@contextmanager
def local_folder(url: str, settings: Settings | None = None) -> Iterator[Path]:
    """A folder to read from: the folder itself, or a tree of the storage, fetched and removed when the block ends."""
    if "://" not in url:
        yield Path(url)
        return
    parent, _, name = url.rstrip("/").rpartition("/")
    with tempfile.TemporaryDirectory(prefix="csm-") as scratch:
        folder = Path(scratch) / name
        open_storage(parent, settings).get_tree(name, folder)
        yield folder


def _s3_client(settings: Settings, url: str) -> Minio:
    import urllib3
    from minio import Minio

    missing = [
        f"CSM_{name.upper()}"
        for name in ("s3_endpoint", "s3_access_key", "s3_secret_key")
        if not getattr(settings, name)
    ]
    if missing:
        raise InputError(f"storage {url!r} needs {', '.join(missing)}; set them in the environment")
    assert settings.s3_endpoint is not None
    assert settings.s3_secret_key is not None
    endpoint = settings.s3_endpoint if "://" in settings.s3_endpoint else f"http://{settings.s3_endpoint}"
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.netloc or address.path.strip("/"):
        raise InputError(f"CSM_S3_ENDPOINT={settings.s3_endpoint!r}: must be http(s)://host:port")
    return Minio(
        endpoint=address.netloc,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        secure=address.scheme == "https",
        region=settings.s3_region,
        http_client=urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=5, read=300),
            maxsize=_TRANSFERS,
            retries=urllib3.Retry(total=4, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        ),
    )


@contextmanager
def _plain_errors(storage: S3Storage, key: str) -> Iterator[None]:
    """Turns what the client raises into errors that name the address and the cure."""
    from minio.error import MinioException, S3Error
    from urllib3.exceptions import HTTPError

    where = f"s3://{storage.bucket}/{storage._key(key)}"
    try:
        yield
    except S3Error as error:
        if error.code in ("NoSuchKey", "NoSuchBucket", "NoSuchObject"):
            raise InputError(f"{where}: no such object") from None
        if error.code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            raise InputError(
                f"{where}: refused ({error.code}); check CSM_S3_ACCESS_KEY and CSM_S3_SECRET_KEY"
            ) from None
        raise ArtifactError(f"{where}: the S3 service says {error.code} ({error.message})") from None
    except HTTPError as error:
        why = str(getattr(error, "reason", None) or error).rpartition(": ")[2].rstrip(")")
        raise MissingDependencyError(
            f"{where}: the S3 service does not answer as it should ({why}); check CSM_S3_ENDPOINT and that it runs"
        ) from None
    except MinioException as error:
        raise ArtifactError(f"{where}: {error}") from None


@contextmanager
def _scratch_file(data: bytes) -> Iterator[Path]:
    """A file that is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="csm-") as folder:
        path = Path(folder) / "object"
        path.write_bytes(data)
        yield path


def tree_of(folder: Path) -> dict[str, Any]:
    """Digest and size of every file under `folder`, in order; halves of files are not part of it."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": digest_of_file(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".partial") and path.name != TREE
    }
    return {"format": 1, "digest": digest_of(files), "files": files}


def _parse_tree(data: bytes, key: str) -> dict[str, Any]:
    """Reads a tree's list; raises `DigestError` when it is not whole, or names a file outside the tree."""
    try:
        tree: dict[str, Any] = json.loads(data)
        whole = tree["format"] == 1 and digest_of(tree["files"]) == tree["digest"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole or any(".." in Path(name).parts or Path(name).is_absolute() for name in tree["files"]):
        raise DigestError(f"{key}/{TREE}: the tree's list is damaged; store the tree again")
    return tree
