"""Signs of life of the served model, for the program that started its server.

Triton 2.51 does not notice that a model's process has died: its ports stay open, its readiness stays green, and every
call fails. So each version of the model keeps a file while it serves, and touches it as long as its engine goes round:

    <folder>/life/<version>     process and its start; away when the version has ended well
    <folder>/life/stop          made by who started the server: take no more streams, and end those that are live

The folder is there where `csm serve` started the server; without it none of this is done.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = "life"
STOP: Final = "stop"
_PERIOD_S: Final = 0.5
_START: Final = 19
"""`starttime` among the fields of /proc/PID/stat that follow the program's name and the state."""


class SignOfLife:
    """The file of one version; its methods may be called from any thread.

    Args:
        folder: where signs of life are looked for; nothing is done where there is none.
        version: of the model.
    """

    def __init__(self, folder: Path, version: str) -> None:
        self._path = folder / version
        self._stop = folder / STOP
        self._lock = threading.Lock()
        self._begun = False
        self._beaten = 0.0

    def begin(self) -> None:
        """The version serves."""
        with self._lock, contextlib.suppress(OSError):
            if self._path.parent.is_dir():
                self._path.write_text(f"{os.getpid()} {started(os.getpid())}\n", encoding="ascii")
                self._begun = True

    def beat(self) -> None:
        """Its engine goes round."""
        now = time.monotonic()
        if now - self._beaten < _PERIOD_S:
            return
        with self._lock, contextlib.suppress(OSError):
            self._beaten = now
            if self._begun:
                os.utime(self._path)

    def end(self) -> None:
        """It has ended well."""
        with self._lock, contextlib.suppress(OSError):
            self._begun = False
            self._path.unlink(missing_ok=True)

    def is_told_to_stop(self) -> bool:
        """Whether who started the server wants it to take no more streams."""
        return self._begun and self._stop.exists()


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What a version's file says."""

    version: str
    pid: int
    start: int
    touched: int
    """When, in nanoseconds."""

    @property
    def lives(self) -> bool:
        """Whether its process is there."""
        return started(self.pid) == self.start


def signs_in(folder: Path) -> Iterator[Sign]:
    """The versions that serve, or have died."""
    for path in sorted(folder.glob("*")):
        if not path.name.isdecimal():
            continue
        with contextlib.suppress(OSError, ValueError):
            pid, start = path.read_text(encoding="ascii").split()
            yield Sign(
                version=path.name,
                pid=int(pid),
                start=int(start),
                touched=path.stat().st_mtime_ns,
            )


def started(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; None where it is gone, or dead and not yet buried."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[_START - 1])
