"""Objects in a bucket of any S3 service: the storage of a cluster."""

from __future__ import annotations

import configparser
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from csm_components.proxies import connections
from csm_components.s3_retry import RENEWED, Attempts, TornError, reason_of
from csm_components.settings import Settings
from csm_components.shared_storage import TRANSFERS, SharedStorage
from csm_model.errors import ArtifactError, CsmError, InputError, MissingDependencyError, NotFoundError
from csm_model.files import atomic_path, digest_of_file

if TYPE_CHECKING:
    from minio import Minio
    from minio.credentials.providers import Provider

T = TypeVar("T")
_BLOCK = 2**20
_MULTIPART = 5 * 2**20
"""A longer file travels in parts."""
_SKEW = timedelta(seconds=30)
"""By which the clocks of this machine and the service may differ."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")

_log = logging.getLogger(__name__)


class S3Storage(SharedStorage):
    """Objects in a bucket of any S3 service. The SHA-256 of each is kept as its metadata `sha256`.

    Every call is tried again while another attempt may help (`csm_components.s3_retry`).
    """

    def __init__(self, client: Minio, bucket: str, prefix: str = "", *, attempts: Attempts) -> None:
        self._client = client
        self._attempts = attempts
        self.bucket = bucket
        self.prefix = prefix.strip("/")

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def call(self, key: str, request: Callable[[Minio], T]) -> T:
        """What a request returns that may be made again; errors name the address and the cure."""
        with plain_errors(self, key):
            return self._attempts.make(lambda: request(self._client), f"s3://{self.bucket}/{self._key(key)}")

    def put_file(self, path: Path, key: str) -> None:
        """See `Storage.put_file`; makes the bucket where there is none, and leaves no part of what did not succeed.

        The bucket is not asked for first: keys that may write under a prefix need not be allowed to look at all of it.
        """
        from minio.error import S3Error

        put: dict[str, Any] = {
            "bucket_name": self.bucket,
            "object_name": self._key(key),
            "file_path": str(path),
            "metadata": {"sha256": digest_of_file(path)},
        }
        began, failures = datetime.now(UTC), 0

        def send(client: Minio) -> None:
            nonlocal failures
            failures += 1
            try:
                client.fput_object(**put)
            except S3Error as error:
                if error.code != "NoSuchBucket":
                    raise
                client.make_bucket(bucket_name=self.bucket)
                client.fput_object(**put)
            failures -= 1

        try:
            self.call(key, send)
        finally:
            if failures and path.stat().st_size > _MULTIPART:
                self._abort_uploads(key, since=began)

    def _abort_uploads(self, key: str, *, since: datetime) -> None:
        """Ends uploads of an object that were begun and whose answers were lost: their parts would be kept for ever."""
        from minio.error import S3Error

        def abort(client: Minio) -> None:
            listed = client._list_multipart_uploads(bucket_name=self.bucket, prefix=self._key(key))
            for upload in listed.uploads:
                begun = upload.initiated_time
                if upload.object_name == self._key(key) and (begun is None or begun >= since - _SKEW):
                    try:
                        client._abort_multipart_upload(self.bucket, self._key(key), upload.upload_id or "")
                    except S3Error as error:
                        if error.code != "NoSuchUpload":
                            raise

        try:
            self.call(key, abort)
        except CsmError as error:
            _log.warning("parts of an upload may be left: %s", error)

    def get_file(self, key: str, path: Path) -> None:
        """See `Storage.get_file`."""
        with atomic_path(path) as partial:
            self.call(key, lambda client: self._fetch(client, key, partial))

    def _fetch(self, client: Minio, key: str, path: Path) -> None:
        answer = client.get_object(bucket_name=self.bucket, object_name=self._key(key))
        try:
            with path.open("wb") as file:
                size = sum(file.write(block) for block in answer.stream(_BLOCK))
        finally:
            answer.close()
            answer.release_conn()
        if size != int(answer.headers.get("content-length", size)):
            raise TornError(f"{size} bytes came of {answer.headers['content-length']}")

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        return self._metadata(key) is not None

    def digest(self, key: str) -> str | None:
        """See `Storage.digest`; an object that was not stored by this program has none either."""
        return (self._metadata(key) or {}).get("x-amz-meta-sha256")

    def _metadata(self, key: str) -> dict[str, str] | None:
        try:
            stat = self.call(
                key, lambda client: client.stat_object(bucket_name=self.bucket, object_name=self._key(key))
            )
        except NotFoundError:
            return None
        return {name.lower(): value for name, value in (stat.metadata or {}).items()}

    def list(self, prefix: str = "") -> list[str]:
        """See `Storage.list`."""
        start = len(self.prefix) + 1 if self.prefix else 0

        def names(client: Minio) -> list[str]:
            rows = client.list_objects(bucket_name=self.bucket, prefix=self._key(prefix), recursive=True)
            return sorted(str(row.object_name)[start:] for row in rows)

        try:
            return self.call(prefix, names)
        except NotFoundError:
            return []

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        if self.exists(key):
            with suppress(NotFoundError):
                self.call(key, lambda client: client.remove_object(bucket_name=self.bucket, object_name=self._key(key)))


def open_s3(settings: Settings, url: str) -> S3Storage:
    """The storage `s3://bucket/prefix`, in which every character after the bucket is the key's own.

    Raises:
        InputError: no such address, or the service's address or keys are missing.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InputError(
            f"storage {url!r}: the bucket {bucket!r} is no name (3 to 63 of letters, digits, dot, - and _); write "
            "s3://bucket/prefix"
        )
    endpoint = _endpoint(settings, url)
    provider = _credentials(settings)
    attempts = Attempts(settings.s3_patience_s, renew=getattr(provider, "renew", None))
    return S3Storage(_client(settings, endpoint, provider), bucket, prefix, attempts=attempts)


def _endpoint(settings: Settings, url: str) -> str:
    """The address of the service, `http(s)://host:port`, where all is there that reaches it."""
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
    return endpoint


def _client(settings: Settings, endpoint: str, provider: Provider) -> Minio:
    import urllib3
    from minio import Minio

    address = urlsplit(endpoint)
    return Minio(
        endpoint=address.netloc,
        credentials=provider,
        secure=address.scheme == "https",
        region=settings.s3_region,
        http_client=connections(
            endpoint,
            timeout=urllib3.Timeout(connect=5, read=300),
            maxsize=TRANSFERS,
            ca_certs=settings.s3_ca,
            retries=urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=4),  # see Attempts
        ),
    )


def _credentials(settings: Settings) -> Provider:
    """What signs requests: the keys of the settings, or those that this process is lent."""
    import urllib3
    from minio.credentials.providers import (
        AWSConfigProvider,
        EnvAWSProvider,
        IamAwsProvider,
        Provider,
        StaticProvider,
    )

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
        """minio's own providers in the order that the tools of AWS ask them, their errors in our words."""

        def __init__(self) -> None:
            self.renew()

        def renew(self) -> None:
            """What is lent is asked for anew at the next request."""
            self._lent = IamAwsProvider(http_client=patience, region=settings.s3_region)

        def retrieve(self) -> Any:
            for named in (EnvAWSProvider(), AWSConfigProvider()):
                with suppress(ValueError, configparser.Error):
                    return named.retrieve()
            try:
                return self._lent.retrieve()
            except (OSError, ValueError, KeyError, urllib3.exceptions.HTTPError) as error:
                raise MissingDependencyError(
                    f"nothing lends this machine keys for S3 ({error}); give its pod or instance a role, set "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set CSM_S3_CREDENTIALS=keys"
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
        if error.code in RENEWED:
            raise InputError(
                f"{where}: refused ({error.code}); the keys were lent and are no longer good: set CSM_S3_ACCESS_KEY, "
                "CSM_S3_SECRET_KEY and CSM_S3_SESSION_TOKEN anew, or use CSM_S3_CREDENTIALS=identity, which renews them"
            ) from None
        if error.code == "RequestTimeTooSkewed":
            raise InputError(f"{where}: refused ({error.code}); this machine's clock is wrong: set it") from None
        raise ArtifactError(f"{where}: the S3 service says {error.code} ({error.message})") from None
    except (HTTPError, ConnectionError, TornError) as error:
        raise MissingDependencyError(
            f"{where}: the S3 service does not answer as it should ({reason_of(error)}); check CSM_S3_ENDPOINT and "
            "that it runs"
        ) from None
    except MinioException as error:
        raise ArtifactError(f"{where}: {error}") from None
