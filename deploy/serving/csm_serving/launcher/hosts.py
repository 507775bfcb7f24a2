"""The address that a server binds, as each part of Triton wants it written: names, IPv4, IPv6, all addresses."""

from __future__ import annotations

import socket


def for_grpc(host: str) -> str:
    """As gRPC takes it, which puts `:port` behind."""
    return f"[{host}]" if ":" in host else host


def for_http(host: str) -> str:
    """As Triton's HTTP library (libevhtp) takes it, for health and for metrics."""
    return f"ipv6:{host}" if ":" in host else host


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on a port of a host, 0 for a free one; raises `OSError` where that cannot be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        held.listen()
    except BaseException:
        held.close()
        raise
    return held
