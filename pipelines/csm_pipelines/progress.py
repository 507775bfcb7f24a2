"""What a person sees of a run: one row a step, in place on a terminal, one line an event elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

_STATES = {
    "waiting": "dim",
    "running": "bold cyan",
    "done": "green",
    "reused": "blue",
    "skipped": "blue",
    "failed": "bold red",
}
_QUIET_SECONDS = 30.0
"""A step that says where it is does so in a log this often at most."""
_SILENT_SECONDS = 60.0
"""A log says at least this often which step is running."""


@dataclass
class Row:
    """One step as it stands."""

    name: str
    state: str = "waiting"
    began: float = 0.0
    seconds: float = 0.0
    note: str = ""

    @property
    def clock(self) -> str:
        """Time it has taken, or takes so far."""
        seconds = time.monotonic() - self.began if self.state == "running" else self.seconds
        return "" if self.state == "waiting" else f"{int(seconds) // 60}:{int(seconds) % 60:02}"


@dataclass
class StepBoard:
    """The steps of a run, shown while they run.

    `note` tells how a finished step ended: whether it was reused, and a few words. Where there is no terminal, and no
    step has said anything for `silent_s` seconds, the line of the running one is printed again, with the time so far.
    """

    console: Console
    steps: Sequence[str]
    note: Callable[[str], tuple[bool, str]]
    silent_s: float = _SILENT_SECONDS
    rows: dict[str, Row] = field(init=False)
    _live: Live | None = field(init=False, default=None)
    _spoke: float = field(init=False, default=0.0)
    _over: threading.Event = field(init=False, default_factory=threading.Event)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _beating: threading.Thread | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.rows = {step: Row(name=step) for step in self.steps}

    @property
    def _width(self) -> int:
        return max(10, *map(len, self.rows))

    def __enter__(self) -> StepBoard:
        if self.console.is_terminal:
            self._live = Live(get_renderable=self.table, console=self.console, refresh_per_second=4, transient=False)
            self._live.start()
        else:
            self._over.clear()
            self._beating = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._beating.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._beating is not None:
            self._over.set()
            self._beating.join()

    def _beat(self) -> None:
        """Says which step is running, where it has been silent for long."""
        while not self._over.wait(min(1.0, self.silent_s)):
            if time.monotonic() - self._spoke < self.silent_s:
                continue
            with self._lock:
                for row in list(self.rows.values()):
                    if row.state == "running":
                        self._say(row, "running")  # should it end now, its last line comes after this one

    def table(self) -> RenderableType:
        """The rows as they stand."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for width in (self._width, 8, 6):
            table.add_column(width=width, no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for row in self.rows.values():
            style = _STATES[row.state]
            table.add_row(f"[{style}]{row.name}", f"[{style}]{row.state}", row.clock, f"[dim]{_plain(row.note)}")
        return table

    def started(self, step: str) -> None:
        """A step begins."""
        row = self.rows.setdefault(step, Row(name=step))
        row.state, row.began = "running", time.monotonic()
        self._event(row)

    def printed(self, step: str, line: str) -> None:
        """A step says where it is."""
        row = self.rows[step]
        row.note = line
        if self._live is None and time.monotonic() - self._spoke >= _QUIET_SECONDS:
            self._event(row)

    def ended(self, step: str, *, well: bool) -> None:
        """A step is over."""
        row = self.rows[step]
        row.seconds = time.monotonic() - row.began
        reused, words = self.note(step) if well else (False, row.note)
        row.state = ("reused" if reused else "done") if well else "failed"
        row.note = words
        self._event(row)

    def put(self, step: str, *, state: str, seconds: float, note: str) -> None:
        """A step as someone else reports it, who also says how long it has taken, seconds."""
        row = self.rows.setdefault(step, Row(name=step))
        changed = (row.state, row.note) != (state, note)
        row.state, row.note, row.seconds, row.began = state, note, seconds, time.monotonic() - seconds
        if changed and state != "waiting":
            self._event(row)

    def _event(self, row: Row) -> None:
        if self._live is None:
            with self._lock:
                self._say(row, row.state)

    def _say(self, row: Row, state: str) -> None:
        self._spoke = time.monotonic()
        text = f"{row.name:<{self._width}} {state:<8} {row.clock:>6}  {row.note}"
        self.console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)


def console_for(stream: TextIO) -> Console:
    """A console that writes to `stream`: as wide as the terminal, or wide enough for tables where there is none."""
    return Console(file=stream) if stream.isatty() else Console(file=stream, width=120)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
