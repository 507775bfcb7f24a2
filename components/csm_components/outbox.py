"""What is to be sent to a service that may be away: it waits in a file, and goes beside the work that it tells of.

An `Outbox` is the file: a line of JSON an entry, on the disk before `put` returns, taken away once it is sent. A
`Courier` sends it from a thread of its own, in the order in which it was put, and tries again while the service does
not answer. Whoever puts never waits for the service; a kill between the sending of an entry and its taking away sends
it twice, so a delivery must be one that may be repeated. Several processes may share an outbox.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from csm_model.files import sync, write_bytes

Entry = Mapping[str, Any]
"""Anything that JSON holds."""
AGAIN_S = 10.0
"""Before a service that failed is asked again."""
_MOST_BYTES = 2**20
"""Of what waits, read at once."""


@dataclass(kw_only=True)
class Delivered:
    """What became of some entries."""

    taken: int = 0
    """How many of them, from the first on, need not be kept where they are."""
    later: list[Entry] = field(default_factory=list)
    """Which of those taken are to be sent again, after all others."""
    error: Exception | None = None
    """Why not all were sent."""


@dataclass(frozen=True)
class Outbox:
    """Entries that wait in the file `path`; there is no file where none waits."""

    path: Path

    def put(self, *entries: Entry) -> None:
        """Adds entries at the end."""
        data = _lines(entries)
        with self._held() as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # a kill or a power cut has left half a line
                    data = b"\n" + data
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if not size:
                sync(self.path.parent)

    def read(self) -> tuple[list[Entry], list[bytes]]:
        """What waits longest: entries, and what of the file each takes, with the lines before it that are none."""
        while self.path.exists():
            with self._held() as file:
                file.seek(0)
                data = file.read(_MOST_BYTES) + file.readline()
            entries, parts, skipped = _parsed(data)
            if entries:
                return entries, parts
            self.take(skipped)
        return [], []

    def take(self, head: bytes, *, later: Sequence[Entry] = ()) -> None:
        """Takes what the file begins with away, and adds `later` at its end; nothing where another has taken it."""
        with self._held() as file:
            file.seek(0)
            data = file.read()
            if not data.startswith(head):
                if not data:
                    self.path.unlink()
                return
            rest = data[len(head) :] + _lines(later)
            if rest.strip():
                write_bytes(self.path, rest)
            else:
                self.path.unlink()

    @contextmanager
    def sole_sender(self) -> Iterator[None]:
        """No other sends meanwhile what waits here: two at once would each make what they do not find."""
        with self.path.with_name(f".{self.path.name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _held(self) -> Iterator[BinaryIO]:
        """The file, which no other process or thread changes meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    current = os.path.samestat(os.fstat(file.fileno()), self.path.stat())
                except FileNotFoundError:
                    current = False
                if current:  # else it was taken away, or another put in its place, before the lock was ours
                    yield file
                    return


class Courier:
    """Sends an outbox's entries beside the work.

    Args:
        outbox: what waits.
        deliver: sends entries, in order, and says what became of them; called in the courier's thread alone.
        warn: called with the reason, the first time that the service does not take what is sent.
        stubborn: whether `flush` tries again while its time lasts; else one failure is enough.
    """

    def __init__(
        self,
        outbox: Outbox,
        deliver: Callable[[Sequence[Entry]], Delivered],
        *,
        warn: Callable[[str], None],
        stubborn: bool = False,
    ) -> None:
        self.outbox = outbox
        self._deliver, self._warn, self._stubborn = deliver, warn, stubborn
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._put = 1 if outbox.path.exists() else 0
        self._sent = self._tries = 0
        self._asked = self._trying = self._failed = self._warned = False
        self._again = 0.0

    def put(self, *entries: Entry) -> None:
        """Has entries sent soon. What the disk does not take is lost, with a warning: it is but a record of work."""
        try:
            self.outbox.put(*entries)
        except OSError as error:
            self._tell(f"{error.strerror}: {self.outbox.path}")
            return
        with self._changed:
            self._put += 1
            self._start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Waits until all that was put is sent, but not longer than `seconds`; whether it is."""
        deadline = time.monotonic() + seconds
        with self._changed:
            wanted = self._put
        while not (sent := self._try_now(wanted, deadline)):
            left = deadline - time.monotonic()
            if left <= 0 or (self._failed and not self._stubborn):
                break
            if self._failed:
                time.sleep(min(AGAIN_S, left))
        if not sent:
            self._tell(f"no answer in {seconds:.0f} s")
        return sent

    def _try_now(self, wanted: int, deadline: float) -> bool:
        """Has what waits sent at once, and waits for one try that begins now; whether all that is wanted is sent."""
        with self._changed:
            tries = self._tries + (2 if self._trying else 1)
            if self._sent < wanted:
                self._asked = True
                self._start()
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: self._sent >= wanted or self._tries >= tries, max(0.0, deadline - time.monotonic())
                )
            return self._sent >= wanted

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
            self._thread.start()

    def _due(self) -> bool:
        return self._asked or (self._put > self._sent and time.monotonic() >= self._again)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._due():
                    self._changed.wait(max(0.0, self._again - time.monotonic()) if self._put > self._sent else None)
                self._asked, self._trying, covered = False, True, self._put
            error = self._try()
            if error is not None:
                self._tell(first_line(error))
            with self._changed:
                self._trying, self._failed = False, error is not None
                if error is None:
                    self._sent = covered
                else:
                    self._again = time.monotonic() + AGAIN_S
                self._tries += 1
                self._changed.notify_all()

    def _try(self) -> Exception | None:
        """Sends all that waits; why not, where it could not."""
        try:
            if not self.outbox.path.exists():
                return None
            with self.outbox.sole_sender():
                while True:
                    entries, parts = self.outbox.read()
                    if not entries:
                        return None
                    done = self._deliver(entries)
                    self.outbox.take(b"".join(parts[: done.taken]), later=done.later)
                    if done.error is not None or not done.taken:
                        return done.error
        except Exception as error:  # of the disk, or a fault of the one who delivers: it is no reason to stop the work
            return error

    def _tell(self, reason: str) -> None:
        with self._changed:
            told, self._warned = self._warned, True
        if not told:
            self._warn(reason)


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__


def _lines(entries: Sequence[Entry]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def _parsed(data: bytes) -> tuple[list[Entry], list[bytes], bytes]:
    """Entries, the bytes of each with those of the lines before it that are none, and what comes after the last."""
    entries: list[Entry] = []
    parts: list[bytes] = []
    skipped = b""
    for line in data.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            entries.append(entry)
            parts.append(skipped + line)
            skipped = b""
        else:
            skipped += line
    return entries, parts, skipped
