"""Objects in a bucket of any S3 service: the storage of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from csm_components.proxies import connections
from csm_components.settings import Settings
from csm_components.shared_storage import TRANSFERS, SharedStorage
from csm_model.errors import ArtifactError, InputError, MissingDependencyError, NotFoundError
from csm_model.files import atomic_path, digest_of_file

if TYPE_CHECKING:
    from minio import Minio
    from minio.credentials.providers import Provider


class S3Storage(SharedStorage):
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
        with plain_errors(self, key):
            try:
                self._client.fput_object(**put)
            except S3Error as error:
                if error.code != "NoSuchBucket":
                    raise
                self._client.make_bucket(bucket_name=self.bucket)
                self._client.fput_object(**put)

    def get_file(self, key: str, path: Path) -> None:
        """See `Storage.get_file`."""
        with plain_errors(self, key), atomic_path(path) as partial:
            self._client.fget_object(bucket_name=self.bucket, object_name=self._key(key), file_path=str(partial))

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        return self._metadata(key) is not None

    def digest(self, key: str) -> str | None:
        """See `Storage.digest`; an object that was not stored by this program has none either."""
        return (self._metadata(key) or {}).get("x-amz-meta-sha256")

    def _metadata(self, key: str) -> dict[str, str] | None:
        from minio.error import S3Error

        with plain_errors(self, key):
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
        with plain_errors(self, prefix):
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
            with plain_errors(self, key):
                self._client.remove_object(bucket_name=self.bucket, object_name=self._key(key))


def s3_client(settings: Settings, url: str) -> Minio:
    """A client for the service of the settings; raises `InputError` where its address or keys are missing."""
    import urllib3
    from minio import Minio

    needed = ["s3_endpoint"] + ["s3_access_key", "s3_secret_key"] * (settings.s3_credentials == "keys")
    missing = [f"CSM_{name.upper()}" for name in needed if not getattr(settings, name)]
    if missing:
        raise InputError(f"storage {url!r} needs {', '.join(missing)}; set them in the environment")
    if settings.s3_ca is not None and not Path(settings.s3_ca).is_file():
        raise InputError(f"CSM_S3_CA={settings.s3_ca!r}: no such file; name one with certificates, PEM")
    assert settings.s3_endpoint is not None
    endpoint = settings.s3_endpoint if "://" in settings.s3_endpoint else f"http://{settings.s3_endpoint}"
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.netloc or address.path.strip("/"):
        raise InputError(f"CSM_S3_ENDPOINT={settings.s3_endpoint!r}: must be http(s)://host:port")
    return Minio(
        endpoint=address.netloc,
        credentials=_credentials(settings),
        secure=address.scheme == "https",
        region=settings.s3_region,
        http_client=connections(
            endpoint,
            timeout=urllib3.Timeout(connect=5, read=300),
            maxsize=TRANSFERS,
            ca_certs=settings.s3_ca,
            retries=urllib3.Retry(total=4, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        ),
    )


def _credentials(settings: Settings) -> Provider:
    """What signs requests: the keys of the settings, or those that this pod or machine is lent as itself."""
    import urllib3
    from minio.credentials.providers import IamAwsProvider, Provider, StaticProvider

    if settings.s3_credentials == "keys":
        secret, token = settings.s3_secret_key, settings.s3_session_token
        return StaticProvider(
            settings.s3_access_key or "",
            secret.get_secret_value() if secret else "",
            token.get_secret_value() if token else None,
        )
    # Where there is no identity nobody answers: that is to be said soon.
    patience = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=10), retries=urllib3.Retry(total=2))

    class Identity(Provider):
        """minio's own provider, its errors in our words."""

        def __init__(self) -> None:
            self._lent = IamAwsProvider(http_client=patience, region=settings.s3_region)

        def retrieve(self) -> Any:
            try:
                return self._lent.retrieve()
            except (OSError, ValueError, KeyError, urllib3.exceptions.HTTPError) as error:
                raise MissingDependencyError(
                    f"nothing lends this machine keys for S3 ({error}); give its pod or instance a role, or set "
                    "CSM_S3_CREDENTIALS=keys"
                ) from None

    return Identity()


@contextmanager
def plain_errors(storage: S3Storage, key: str) -> Iterator[None]:
    """Turns what the client raises into errors that name the address and the cure."""
    from minio.error import MinioException, S3Error
    from urllib3.exceptions import HTTPError

    where = f"s3://{storage.bucket}/{storage._key(key)}"
    try:
        yield
    except S3Error as error:
        if error.code in ("NoSuchKey", "NoSuchBucket", "NoSuchObject"):
            raise NotFoundError(f"{where}: no such object") from None
        if error.code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            raise InputError(
                f"{where}: refused ({error.code}); check CSM_S3_ACCESS_KEY and CSM_S3_SECRET_KEY, or the role"
            ) from None
        raise ArtifactError(f"{where}: the S3 service says {error.code} ({error.message})") from None
    except HTTPError as error:
        why = str(getattr(error, "reason", None) or error).rpartition(": ")[2].rstrip(")")
        raise MissingDependencyError(
            f"{where}: the S3 service does not answer as it should ({why}); check CSM_S3_ENDPOINT and that it runs"
        ) from None
    except MinioException as error:
        raise ArtifactError(f"{where}: {error}") from None
