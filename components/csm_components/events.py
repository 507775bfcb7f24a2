"""What a step tells the one who started it: lines of JSON on a channel of their own, apart from all that it prints.

| event | fields |
| --- | --- |
| `started` | `step` |
| `progress` | `words`: where it is, in a line |
| `result` | `result`: as the step returned it |
| `error` | `type`, `message`, `code`: what ended it, and its exit status |

The channel is a file descriptor that the step inherits; `open_channel` says which. Without one nothing is told; in a
pod, `use_log` has the log say from time to time where the step is.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from csm_model import errors
from csm_model.errors import CsmError
from csm_model.files import measured

ERRORS: dict[str, type[CsmError]] = {
    kind.__name__: kind
    for kind in (
        errors.InputError,
        errors.AudioError,
        errors.NotFoundError,
        errors.ArtifactError,
        errors.DigestError,
        errors.CheckpointError,
        errors.MissingDependencyError,
    )
}
"""Errors that come out of another process as what they were; a `CsmError` of another type comes as its base."""
_lock = threading.Lock()
_channel: list[int] = []
_log: list[Callable[[str], None]] = []


def open_channel(descriptor: int) -> None:
    """From now on events of this process go to this file descriptor, and its children do not inherit it."""
    os.set_inheritable(descriptor, False)
    _channel[:] = [descriptor]


def emit(event: str, **fields: Any) -> None:
    """Tells an event; nothing happens without a channel, or where nobody listens any more."""
    if not _channel:
        return
    line = json.dumps(measured({"event": event, **fields}), default=str).encode() + b"\n"
    with _lock:
        try:
            while line:
                line = line[os.write(_channel[0], line) :]
        except OSError:  # the one who listened has gone; the step's end is not for this
            _channel.clear()


def use_log(clock: Callable[[], float] = time.monotonic, *, every_s: float = 30.0) -> None:
    """From now on the log, standard error, says where the step is: a line at most every `every_s` seconds."""
    spoke = clock()

    def say(words: str) -> None:
        nonlocal spoke
        if clock() - spoke >= every_s:
            spoke = clock()
            sys.stderr.write(f"{words}\n")
            sys.stderr.flush()

    _log[:] = [say]


def progress(words: str) -> None:
    """Tells where the step is."""
    emit("progress", words=words)
    if _log and not _channel:
        _log[0](words)


def describe(error: BaseException) -> dict[str, Any]:
    """An error as it goes to another process."""
    own = isinstance(error, CsmError)
    known = next((kind.__name__ for kind in type(error).__mro__ if ERRORS.get(kind.__name__) is kind), "CsmError")
    return {
        "type": known if own else type(error).__name__,
        "message": " ".join(str(error).split()),
        "own": own,
        "code": 2 if own else 1,
    }


def restored(described: dict[str, Any]) -> CsmError | None:
    """The error that another process described, of its own type; None where it was no `CsmError`."""
    if not described.get("own"):
        return None
    return ERRORS.get(described["type"], CsmError)(described["message"])
