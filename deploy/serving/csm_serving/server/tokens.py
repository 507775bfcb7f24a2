"""Tokens: how a client gives speech back, as context or to go on from, and can bring no voice of its own that way.

Every chunk of a stream carries a token. It says that all frames of the stream up to this one were spoken here, as one
speaker or voice. A client that gives frames back gives the last one's token with them; frames that were spoken
elsewhere, by somebody else, or were changed have none that fits.

A token is HMAC-SHA256 (RFC 2104), cut to 16 bytes, of who speaks and a running SHA-256 of the frames: it costs the same
at the thousandth frame as at the first. Servers that share a key take each other's tokens.

Shapes: K codebooks, F frames.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from csm_model.errors import InputError

TOKEN_BYTES: Final = 16
KEY_BYTES: Final = 32
_LEAST_KEY_BYTES: Final = 16
_PURPOSE: Final = b"csm turn token 1"

Codes = npt.NDArray[Any]


class TurnKey:
    """The secret that tokens are made with; it does not show when it is printed.

    Args:
        secret: at least 16 bytes; None draws 32 random ones, which no other process knows.

    Raises:
        InputError: a secret that is too short.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        if secret is not None and len(secret) < _LEAST_KEY_BYTES:
            raise InputError(
                f"turn key of {len(secret)} bytes: must have {_LEAST_KEY_BYTES} at least; openssl rand -hex {KEY_BYTES}"
            )
        self.random = secret is None
        """Whether it was drawn here, so that tokens of other servers, and of this one's last start, are unknown."""
        # One keyed state that every token copies: the key's own two blocks are hashed once.
        self._keyed = hmac.new(secret or secrets.token_bytes(KEY_BYTES), _PURPOSE, hashlib.sha256)

    @classmethod
    def from_hex(cls, text: str | None) -> TurnKey:
        """The key of a setting: hexadecimal digits, or None for a random one; raises `InputError`, which hides it."""
        if text is None:
            return cls()
        try:
            return cls(bytes.fromhex(text))
        except ValueError:
            raise InputError(
                f"turn key of {len(text)} characters is not hexadecimal; make one: openssl rand -hex {KEY_BYTES}"
            ) from None

    def begin(self, who: str, codes: Codes | None = None) -> TurnChain:
        """The tokens of a stream in which `who` speaks (`Voice.identity`), after the frames `codes` [K, F], if any."""
        chain = TurnChain(self._keyed.copy(), who)
        if codes is not None:
            chain.skip(codes)
        return chain

    def verify(self, who: str, codes: Codes, token: bytes) -> bool:
        """Whether `token` is that of the last of `codes` [K, F], spoken here by `who`; compared in constant time."""
        if codes.ndim != 2 or codes.shape[1] == 0:
            return False
        return hmac.compare_digest(self.begin(who, codes).token(), bytes(token))

    def __repr__(self) -> str:
        return "TurnKey(********)"


class TurnChain:
    """The tokens of one stream, frame after frame."""

    def __init__(self, keyed: hmac.HMAC, who: str) -> None:
        self._keyed = keyed
        name = who.encode()
        self._keyed.update(len(name).to_bytes(4, "little") + name)
        self._frames = hashlib.sha256()
        self._count = 0

    def next(self, codes: Codes) -> bytes:
        """Takes the codes [K] of the next frame and returns its token, 16 bytes."""
        self.skip(codes[:, None])
        return self.token()

    def skip(self, codes: Codes) -> None:
        """Takes the next frames [K, F] without making their tokens."""
        if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
            raise InputError(f"codes are {codes.dtype}{list(codes.shape)}; a token is made of integers [K, F]")
        head = codes.shape[0].to_bytes(4, "little")
        for frame in np.ascontiguousarray(codes.T, "<i4"):
            self._frames.update(head + frame.tobytes())
        self._count += codes.shape[1]

    def token(self) -> bytes:
        """The token of all frames up to now."""
        made = self._keyed.copy()
        made.update(self._count.to_bytes(8, "little") + self._frames.digest())
        return made.digest()[:TOKEN_BYTES]
