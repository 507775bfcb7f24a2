"""What Triton says: in a file, or passed on line by line to this process's standard error, as a container's log.

A file grows with every stream, by the line of its audit; in a container nobody would look for it either.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO, Final, Literal

KEPT: Final = 500
"""Lines that are kept of a log that is passed on; Triton's words on a model that does not load are some 100."""
_LONGEST: Final = 300
"""Characters of a line that are said again."""
_NO_REASON: Final = re.compile(r"I\d{4} |[|+]|.*audit \{")
"""Lines of information, of tables, and of streams that are over."""


class ServerLog:
    """The log of one Triton: `follow` it, read its `lines`."""

    def __init__(self, path: Path, to: Literal["file", "stderr"]) -> None:
        self.path = path if to == "file" else None
        self._end: deque[str] = deque(maxlen=KEPT)
        self._reader: threading.Thread | None = None

    def __str__(self) -> str:
        """Where a person finds it."""
        return str(self.path or "standard error")

    def popen(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Starts Triton in a session of its own, with all that it says in the log."""
        if self.path is not None:
            with self.path.open("wb") as log:
                return self._start(command, environment, log)
        if self._reader is not None:
            self._reader.join(timeout=1)  # of a Triton that is gone
        self._end.clear()
        process = self._start(command, environment, subprocess.PIPE)
        self._reader = threading.Thread(target=self._pass_on, args=(process.stdout,), daemon=True)
        self._reader.start()
        return process

    @staticmethod
    def _start(command: list[str], environment: dict[str, str], out: IO[bytes] | int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _pass_on(self, out: IO[bytes]) -> None:
        with out:
            for line in out:
                text = line.decode(errors="replace")
                self._end.append(text.rstrip("\n"))
                sys.stderr.write(text)
                sys.stderr.flush()

    @property
    def begun(self) -> bool:
        """Whether the Triton that was started last has said anything."""
        return bool(self._end) if self.path is None else self.path.stat().st_size > 0

    def lines(self) -> list[str]:
        """What was said, or the last `KEPT` lines of it where it was passed on."""
        if self.path is not None:
            return self.path.read_text(errors="replace").splitlines()
        if self._reader is not None:
            self._reader.join(timeout=1)  # a Triton that is dead has said all
        return list(self._end)

    def last_words(self, lines: int = 5) -> str:
        """Triton's errors, or else the end of what could be a reason, in one line."""
        told = map(str.strip, self.lines())
        said = [line[:_LONGEST] for line in told if line and not _NO_REASON.match(line)]
        errors = [line for line in said if line.startswith("error:")]
        return " / ".join(errors or said[-lines:]) or "(none)"
