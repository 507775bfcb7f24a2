"""Which of Triton's calls answer to whom: everybody may speak and ask for health, only who has a secret may control.

Triton answers on the ports of streams and of health whatever its protocol knows, the loading of models among it, and a
model of its Python backend is code: who may load one runs programs as the server. So all but what streams need is
closed behind a secret that is drawn for each server. It stands in the server's `server.json`, which only its user may
read, for `csm swap` and for what watches over the server.

Triton 2.51 takes the secret from its command line alone, which all users of a machine can read: `hide` covers it there
as soon as Triton has read it.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

HEADER: Final = "csm-control"
"""HTTP's header of the secret; Triton's gRPC puts `triton-grpc-protocol-` in front of it."""
GRPC_OPEN: Final = ("health", "metadata", "inference")
"""Groups of calls that answer everybody on the port of the streams."""
HTTP_OPEN: Final = ("health",)
"""And on the port of health; streams go over gRPC alone."""
GROUPS: Final = (
    *("health", "metadata", "inference", "shared-memory", "model-config"),
    *("model-repository", "statistics", "trace", "logging"),
)
"""All that Triton 2.51 has; it refuses to start for one that it does not know."""

_ARGUMENTS: Final = slice(45, 47)
"""`arg_start` and `arg_end` among the fields of /proc/PID/stat that follow the program's name."""


def draw_secret() -> str:
    """A secret for one server's life."""
    return secrets.token_hex(32)


def closing(secret: str) -> list[str]:
    """Triton's options that close every call but those that are open to all."""
    return [
        f"--grpc-restricted-protocol={_all_but(GRPC_OPEN)}:{HEADER}={secret}",
        f"--http-restricted-api={_all_but(HTTP_OPEN)}:{HEADER}={secret}",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",  # else AIP_MODE of the environment opens a port of its own
    ]


def _all_but(left: tuple[str, ...]) -> str:
    return ",".join(group for group in GROUPS if group not in left)


def hide(secret: str, pid: int) -> None:
    """Covers `secret` in the command line of `pid`, a process of this user that has read it.

    Raises `OSError` where this system does not let a process write to its child.
    """
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    start, end = (int(field) for field in stat.rpartition(")")[2].split()[_ARGUMENTS])
    sought = secret.encode()
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        arguments = memory.read(end - start)
        found = arguments.find(sought)
        while found >= 0:
            memory.seek(start + found)
            memory.write(b"*" * len(sought))
            found = arguments.find(sought, found + len(sought))
