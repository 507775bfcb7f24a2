"""Errors of a served stream, beside those of `csm_model.errors`.

CsmError
└── ServingError          the server failed; the request itself was sound
    ├── BusyError         every slot holds a live stream: try again, or try another server
    └── UnavailableError  no server answers, it is stopping, or the connection broke
"""

from __future__ import annotations

from csm_model.errors import CsmError


class ServingError(CsmError):
    """The server failed; the request itself was sound."""


class BusyError(ServingError):
    """Every slot of the server holds a live stream."""


class UnavailableError(ServingError):
    """No server answers, it is stopping, or the connection broke."""
