"""From the last lines of another process back to an error that a person can act on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from csm_model import errors
from csm_model.errors import CsmError

_HEAD = "Traceback (most recent call last):"
_LAST = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(?:: (?P<text>.*))?$")
_ECHO = re.compile(r"DistBackendError|DistNetworkError|Connection (closed|reset)|ChildFailedError|Broken pipe|TCPStore")


def tracebacks(lines: Sequence[str]) -> list[list[str]]:
    """The tracebacks in `lines`, each from its head to the line that names the error."""
    found: list[list[str]] = []
    current: list[str] | None = None
    for line in lines:
        if line.startswith(_HEAD):
            current = [line]
        elif current is not None:
            current.append(line)
            if line and not line.startswith((" ", "\t")):
                found.append(current)
                current = None
    return found


def cause(lines: Sequence[str]) -> list[str]:
    """The traceback that tells most: the last one that is not the echo of a dead peer; empty where there is none."""
    found = tracebacks(lines)
    own = [block for block in found if not is_echo(block)]
    return (own or found or [[]])[-1]


def is_echo(block: Sequence[str]) -> bool:
    """Whether a traceback only says that another process is gone."""
    return bool(_ECHO.search(block[-1]))


def error_from(lines: Sequence[str]) -> CsmError | None:
    """The `CsmError` that ended the process that printed `lines`, of its own type; None if it died of anything else."""
    block = cause(lines)
    match = _LAST.match(block[-1]) if block else None
    if not match:
        return None
    module, _, name = match["kind"].rpartition(".")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, CsmError):
        return kind(match["text"] or name)
    if module.startswith(("csm_model", "csm_serving", "csm_components", "csm_pipelines")):
        return CsmError(match["text"] or name)  # a type of its own module: the message is what matters
    return None
