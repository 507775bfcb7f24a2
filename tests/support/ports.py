"""Ports of loopback that nobody listens on.

They lie below those that the kernel gives to outgoing calls (32,768 and up), and tests that run side by side take
theirs from ranges of their own: none is taken by somebody else between being found and being used.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator

LOWEST, HIGHEST = 10_000, 20_000
"""SeaweedFS opens a gRPC port 10,000 above each of its own: nobody else is told of those."""


def _own_range() -> Iterator[int]:
    """All ports of this process's share, over and over, from anywhere among them."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (HIGHEST - LOWEST) // workers
    ports = range(LOWEST + number * size, LOWEST + (number + 1) * size)
    begin = random.randrange(size)
    return itertools.chain.from_iterable((*ports[begin:], *ports[:begin]) for _ in itertools.count())


_PORTS = _own_range()


def is_free(port: int) -> bool:
    """Whether it can be bound now."""
    with socket.socket() as claim:
        try:
            claim.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """So many, no two the same, and none that was given before if it can be helped."""
    return list(itertools.islice((port for port in _PORTS if is_free(port)), count))


def free_port() -> int:
    """One."""
    return free_ports(1)[0]
