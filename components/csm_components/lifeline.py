"""Ends this process soon after the one it works for has gone, and keeps two from working in one folder.

Kubeflow's local runner starts a step through a shell. When the runner is killed with SIGKILL the step hears nothing,
so it asks: once a second, whether the process that it works for is still there.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csm_model.errors import MissingDependencyError

_LAST_WORDS_SECONDS = 20.0


def follow(pid: int, *, every_seconds: float = 1.0) -> None:
    """From now on, SIGTERM to this process when process `pid` has gone; SIGKILL if that does not end it."""

    def watch() -> None:
        while _alive(pid):
            time.sleep(every_seconds)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_LAST_WORDS_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def sole_user(folder: Path, *, name: str = ".lock", wait_seconds: float = 0.0) -> Iterator[None]:
    """Holds `folder` for this process; the kernel lets go of it however the process ends.

    Raises:
        MissingDependencyError: another process holds it for longer than `wait_seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with (folder / name).open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise MissingDependencyError(
                        f"{folder} is in use by process {holder}: wait until it ends, or stop it"
                    ) from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
