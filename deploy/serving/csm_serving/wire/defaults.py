"""Where a server is expected, and how long a client waits for it, unless either is told otherwise."""

from __future__ import annotations

from typing import Final

HOST: Final = "127.0.0.1"
GRPC_PORT: Final = 8001
CONNECT_TIMEOUT_S: Final = 5.0
"""Seconds that a client waits for a server to answer at all."""
CHUNK_TIMEOUT_S: Final = 60.0
"""Seconds that a client waits for the next chunk of a stream."""


def address_of(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
