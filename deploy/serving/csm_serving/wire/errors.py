"""Errors of a served stream, beside those of `csm_model.errors`.

CsmError
├── AccessError           the caller is nobody that the server knows, or may not do this
├── InputError
│   └── UnknownStreamError  more text for a stream that is not live
└── ServingError          the server failed; the request itself was sound
    ├── BusyError         no room for one more stream: try again, or try another server
    │   └── QuotaError    this caller has used up what it may use at once, or in a minute
    ├── DeadlineError     the stream was not over by the deadline that its caller gave
    └── UnavailableError  no server answers, it is stopping, or the connection broke
"""

from __future__ import annotations

from csm_model.errors import CsmError, InputError


class ServingError(CsmError):
    """The server failed; the request itself was sound."""


class BusyError(ServingError):
    """The server has no room for one more stream."""

    def __init__(self, line: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(line)
        self.retry_after_s = retry_after_s
        """Seconds after which a place may be free, where the server can tell."""


class QuotaError(BusyError):
    """The caller has used up what it may use at once, or in a minute."""


class AccessError(CsmError):
    """The caller is nobody that the server knows, or may not do what it asks; asking again does not help."""


class DeadlineError(ServingError):
    """The stream was not over by the deadline that its caller gave."""


class UnavailableError(ServingError):
    """No server answers, it is stopping, or the connection broke."""


class UnknownStreamError(InputError):
    """More text for a stream that is not live here."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(
            f"stream {stream_id!r} is not live here: it is over, or its first request went to another server"
        )
