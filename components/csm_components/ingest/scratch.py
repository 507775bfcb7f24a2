"""16-bit sound kept aside while a recording is read: many lanes that grow side by side, in memory or in one file."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from csm_components.ingest.audio import Pcm

IN_MEMORY = 32 << 20
"""Bytes up to which no file is made."""
_JOINED = 1 << 16
"""Samples that a lane gathers before they are written."""


class Lane:
    """Mono sound at 24 kHz that is added to at its end, and read anywhere.

    Args:
        file: where all lanes are written.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._starts: list[int] = []
        self._places: list[int] = []
        self._written = 0
        self._tail: list[Pcm] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, pcm: Pcm) -> None:
        """Adds samples `[S]`."""
        if not len(pcm):
            return
        self._tail.append(pcm)
        self._length += len(pcm)
        if self._length - self._written >= _JOINED:
            self._write()

    def _write(self) -> None:
        if not self._tail:
            return
        self._starts.append(self._written)
        self._places.append(self._file.seek(0, 2))
        self._file.write(np.concatenate(self._tail).tobytes())
        self._tail = []
        self._written = self._length

    def read(self, start: int, stop: int) -> Pcm:
        """The samples from `start` up to `stop`; silence beyond the end."""
        self._write()
        found = np.zeros(stop - start, np.int16)
        at = start
        index = bisect_right(self._starts, at) - 1
        while at < min(stop, self._length):
            until = self._starts[index + 1] if index + 1 < len(self._starts) else self._length
            count = min(until, stop) - at
            self._file.seek(self._places[index] + 2 * (at - self._starts[index]))
            found[at - start : at - start + count] = np.frombuffer(self._file.read(2 * count), np.int16)
            at += count
            index += 1
        return found


class LaneScratch:
    """Where lanes lie."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def lane(self) -> Lane:
        """A new lane."""
        return Lane(self._file)


@contextmanager
def open_scratch(folder: Path) -> Iterator[LaneScratch]:
    """Room for lanes; a file in `folder` where they are many, which has no name and is gone when this process is."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder)) as file:
        yield LaneScratch(file)
