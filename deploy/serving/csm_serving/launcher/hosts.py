"""The address that a server binds, as each part of Triton wants it written: names, IPv4, IPv6, all addresses."""

from __future__ import annotations

import socket
from typing import Any


def for_grpc(host: str) -> str:
    """As gRPC takes it, which puts `:port` behind."""
    return f"[{host}]" if ":" in host else host


def for_http(host: str) -> str:
    """As Triton's HTTP library (libevhtp) takes it, for health and for metrics: an address; it knows no names."""
    family, *_, address = _resolved(host, 0)
    return f"ipv6:{address[0]}" if family is socket.AF_INET6 else str(address[0])


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on a port of a host, 0 for a free one; raises `OSError` where that cannot be had."""
    family, kind, protocol, _, address = _resolved(host, port)
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        held.listen()
    except BaseException:
        held.close()
        raise
    return held


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]:
    """The first address of a host; raises `OSError` where it has none."""
    return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
