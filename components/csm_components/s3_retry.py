"""Calls to an S3 service that are tried again: which failures another attempt may cure, and for how long."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_WAIT_S = 0.2
"""Before the second attempt; each further wait is up to twice as long."""
LONGEST_WAIT_S = 10.0
STRANGER_S = 8.0
"""The most that a service is waited for that never answered: it is likelier that its address is wrong."""

RENEWED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
"""What is said of keys that were lent, and are no longer good."""
_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_CODES = frozenset(
    {
        "BadDigest",  # torn on its way
        "IncompleteBody",
        "InternalError",
        "NoSuchUpload",  # ended by an attempt whose answer was lost, or by who clears up
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)

_log = logging.getLogger(__name__)


class TornError(Exception):
    """The bytes that came are not all those, or not those, that were sent."""


def may_pass(error: Exception) -> bool:
    """Whether the same call may succeed when it is made again: the service is busy or away, or the connection broke.

    A certificate that is not known, keys that are refused and an object that is not there stay what they are.
    """
    from minio.error import InvalidResponseError, S3Error, ServerError
    from urllib3.exceptions import HTTPError, SSLError

    if isinstance(error, S3Error):
        return error.code in _CODES or error.response.status in _STATUS
    if isinstance(error, ServerError):
        return error.status_code in _STATUS
    if isinstance(error, InvalidResponseError):
        return error._code in _STATUS
    if isinstance(error, HTTPError):
        return not isinstance(getattr(error, "reason", error), SSLError)
    return isinstance(error, (TornError, ConnectionError))


class Attempts:
    """Makes calls until they succeed, fail for good, or the service has been in trouble for too long.

    Args:
        patience_s: how long one call is tried again, seconds.
        renew: gets new keys, where that can be done; asked once a call.
        waits: how it waits, seconds.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        patience_s: float,
        *,
        renew: Callable[[], None] | None = None,
        waits: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience_s, self._renew, self._waits, self._clock = patience_s, renew, waits, clock
        self._answered = False

    def make(self, call: Callable[[], T], what: str) -> T:
        """What `call`, which may be made twice, returns in the end; raises its last error."""
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        began, wait, renewed = self._clock(), FIRST_WAIT_S, False
        while True:
            try:
                result = call()
            except (MinioException, HTTPError, TornError, ConnectionError) as error:
                self._answered |= isinstance(error, MinioException)
                if self._renew and not renewed and _keys_may_be_old(error):
                    renewed = True
                    self._renew()
                    continue
                left = self._patience_s if self._answered else min(self._patience_s, STRANGER_S)
                left -= self._clock() - began
                if not may_pass(error) or left <= 0:
                    raise
                _log.warning("%s: %s; trying again for up to %.0f s", what, reason_of(error), left)
                self._waits(min(left, wait * random.uniform(0.5, 1)))
                wait = min(2 * wait, LONGEST_WAIT_S)
            else:
                self._answered = True
                return result


def _keys_may_be_old(error: Exception) -> bool:
    """Whether keys are refused as lent ones are when their time is over; the answer to a HEAD has no code."""
    from minio.error import S3Error

    return isinstance(error, S3Error) and (
        error.code in RENEWED or (error.response.status in (400, 403) and not error.response.data)
    )


def reason_of(error: Exception) -> str:
    """What went wrong, in a few words."""
    from minio.error import S3Error

    if isinstance(error, S3Error):
        return f"the S3 service says {error.code}"
    return str(getattr(error, "reason", None) or error).rpartition(": ")[2].rstrip(")")
