"""What ended a training: each of its processes says it itself, in a record at a place that its starter reads.

The place is a folder here, or `jobs/JOB/errors` of the storage on a cluster; `CSM_GUARD_ERRORS` names it. A worker
leaves the exception that it died of, an agent the exit codes of its workers, which also tells of one that was killed.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from csm_components.events import describe, restored
from csm_components.storage import open_storage
from csm_model.errors import CsmError

# A worker whose peer is gone, and an agent whose peer held the rendezvous: neither is why the training ended.
_ECHO = re.compile(
    r"DistBackendError|DistNetworkError|Rendezvous\w*Error|Connection (closed|reset)|Broken pipe|TCPStore"
)
_TAIL = 40


class LaunchError(CsmError):
    """The trainer failed; `tail` holds the last lines of its traceback, `logs` is the folder of all that it printed."""

    def __init__(self, message: str, *, tail: list[str], logs: Path) -> None:
        super().__init__(message)
        self.tail = tail
        self.logs = logs


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What one process died of; JSON-able."""

    type: str = ""
    message: str = ""
    own: bool = False
    """Whether it is an error of this program, which a caller can act on."""
    code: int = 1
    exits: dict[str, int] = field(default_factory=dict)
    """Of an agent: exit codes of its workers by rank; negative is the signal that ended one."""
    traceback: list[str] = field(default_factory=list)
    at: float = 0.0

    @property
    def words(self) -> str:
        """The error in one line."""
        return f"{self.type}: {self.message}" if self.message else self.type

    @property
    def is_echo(self) -> bool:
        """Whether it only says that another process is gone."""
        return bool(_ECHO.search(self.words))


def leave(place: str, error: BaseException) -> None:
    """Leaves the record of this process, which `error` ends; an agent's says how its workers ended."""
    workers = getattr(error, "failures", None)
    if isinstance(workers, dict):  # torchrun's ChildFailedError
        failure = Failure(exits={str(rank): int(row.exitcode) for rank, row in workers.items()}, at=time.time())
    else:
        lines = [line for part in traceback.format_exception(error) for line in part.rstrip().splitlines()]
        failure = Failure(**describe(error), traceback=lines[-_TAIL:], at=time.time())
    open_storage(place).put_json(asdict(failure), f"{socket.gethostname()}-{os.getpid()}.json")


def forget(place: str) -> None:
    """Removes the records of an earlier attempt."""
    storage = open_storage(place)
    for key in storage.list():
        storage.delete(key)


def left(place: str) -> list[Failure]:
    """The records at a place, the oldest first."""
    storage = open_storage(place)
    return sorted((Failure(**storage.get_json(key)) for key in storage.list()), key=lambda each: each.at)


def cause(failures: Sequence[Failure], folder: Path, last_words: str = "") -> CsmError:
    """The error that a training died of.

    Args:
        failures: what its processes left, the oldest first.
        folder: where all is that they printed.
        last_words: said where none left anything.
    """
    workers = [failure for failure in failures if failure.type]
    first = next((failure for failure in workers if not failure.is_echo), None)
    if first is not None and (own := restored(asdict(first))) is not None:
        return own
    exits = [(int(rank), code) for failure in failures for rank, code in failure.exits.items()]
    killed = [(rank, -code) for rank, code in exits if code < 0 and -code != signal.SIGTERM]
    shown = first
    if first is not None:
        last = first.words
    elif killed:
        rank, number = killed[0]
        last = f"rank {rank} was killed by {signal.Signals(number).name}" + (
            " (out of memory, or by hand)" if number == signal.SIGKILL else ""
        )
    elif workers:
        shown, last = workers[-1], workers[-1].words
    elif exits:
        last = "rank {} ended with exit code {}".format(*exits[0])
    else:
        last = last_words or "it printed nothing"
    return LaunchError(
        f"training failed: {last.strip()}; all that it printed is in {folder}",
        tail=shown.traceback if shown else [],
        logs=folder,
    )
