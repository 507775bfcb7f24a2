"""Buckets and how long what lies in them stays: what an administrator of the S3 service does before anybody stores.

A tenant's keys may read and write under its own prefix, and make no buckets.

    make_bucket("s3://csm/research")
    expire("s3://csm/research/checkpoints", 30)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from csm_components.s3 import S3Storage, open_s3
from csm_components.settings import Settings, load_settings
from csm_model.errors import InputError

if TYPE_CHECKING:
    from minio import Minio


def make_bucket(url: str, settings: Settings | None = None) -> bool:
    """Makes the bucket of an address and says whether it did; one that is there stays as it is.

    Raises:
        InputError: the address is not `s3://bucket...`, or the keys may not make buckets.
    """
    from minio.error import S3Error

    storage = _storage(url, settings)

    def make(client: Minio) -> bool:
        try:
            client.make_bucket(bucket_name=storage.bucket)
        except S3Error as error:
            if error.code == "BucketAlreadyOwnedByYou":
                return False
            if error.code == "BucketAlreadyExists":
                raise InputError(
                    f"s3://{storage.bucket}: the bucket belongs to somebody else; choose another name"
                ) from None
            raise
        return True

    return storage.call("", make)


def expire(url: str, days: int, settings: Settings | None = None) -> None:
    """Has the service remove objects under `s3://bucket/prefix` that are `days` days old; 0 keeps them for ever.

    The bucket's other rules stay. There is one rule a prefix, so that a repeated call changes nothing.
    """
    from minio.commonconfig import ENABLED, Filter
    from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

    storage = _storage(url, settings)
    if days < 0:
        raise InputError(f"{days} days: must be 0 (for ever) or more")
    if not storage.prefix:
        raise InputError(
            f"{url}: names a whole bucket; name the prefix whose objects are to be removed, s3://bucket/prefix"
        )
    prefix = f"{storage.prefix}/"

    def change(client: Minio) -> None:
        found = client.get_bucket_lifecycle(bucket_name=storage.bucket)
        rules = [
            rule
            for rule in (found.rules if found else [])
            if rule.rule_filter is None or rule.rule_filter.prefix != prefix
        ]
        if days:
            rules.append(
                Rule(
                    status=ENABLED,
                    rule_filter=Filter(prefix=prefix),
                    rule_id=f"expire {prefix}",
                    expiration=Expiration(days=days),
                )
            )
        if rules:
            client.set_bucket_lifecycle(bucket_name=storage.bucket, config=LifecycleConfig(rules=rules))
        elif found:
            client.delete_bucket_lifecycle(bucket_name=storage.bucket)

    storage.call("", change)


def _storage(url: str, settings: Settings | None) -> S3Storage:
    if not url.startswith("s3://"):
        raise InputError(f"{url!r}: must be s3://bucket or s3://bucket/prefix")
    return open_s3(settings or load_settings(), url)
