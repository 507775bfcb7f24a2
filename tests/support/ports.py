"""Ports of loopback that nobody listens on."""

from __future__ import annotations

import socket
from contextlib import ExitStack

HIGHEST = 55_000
"""SeaweedFS opens a gRPC port 10,000 above each of its own."""


def free_ports(count: int) -> list[int]:
    """So many, no two the same."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            claim = held.enter_context(socket.socket())
            claim.bind(("127.0.0.1", 0))
            port = int(claim.getsockname()[1])
            if port < HIGHEST:
                found.append(port)
    return found


def free_port() -> int:
    """One."""
    return free_ports(1)[0]
