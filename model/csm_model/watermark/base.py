"""What the rest of the program asks of a watermark.

Shapes: M slots that are stepped together, S samples of 24 kHz sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class SlotMarker(Protocol):
    """Marks live streams, each in a slot, a frame at a time; what comes out of a slot, joined, is `Watermark.mark`."""

    def reset(self, slot: int) -> None:
        """Forgets the stream that was in `slot`; the next one begins in silence."""
        ...

    def step(self, audio: Tensor, slots: Sequence[int]) -> Tensor:
        """Takes the next frame `[M, 1920]` (float32) of each of `slots`; returns it marked, as long and not late."""
        ...


class Watermark(Protocol):
    """A mark that lies in sound and is not heard."""

    @property
    def kind(self) -> str:
        """Its name, as the audit writes it."""
        ...

    def slot_marker(self, slots: int) -> SlotMarker:
        """Fresh states of `slots` streams; raises `InputError` for a kind that needs the whole sound."""
        ...

    def mark(self, audio: Tensor) -> Tensor:
        """The whole sound `[S]` (float32, -1 to 1) marked, as long as before."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found in a part of a sound."""

    begin: float
    """Seconds from the start."""
    end: float
    marked: bool
    presence: float
    """How sure the network is that there is a mark, 0 to 1; above 0.5 it says so."""
    chance: float
    """Bound on the probability that an unmarked sound has a payload so clearly; 1 for a kind that does not tell."""
    payload: int | None
    """What the mark says; None where it cannot be read."""
    speed: float = 1.0
    """How much faster than it was spoken the sound runs, as far as the mark tells."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a whole sound."""

    whole: Finding
    """All of it together."""
    windows: tuple[Finding, ...]
    """Parts of it, in order; they overlap."""

    @property
    def marked(self) -> bool:
        """Whether any of it carries the mark."""
        return self.whole.marked or any(window.marked for window in self.windows)

    @property
    def payload(self) -> int | None:
        """The payload that was read most clearly; None where none was."""
        readable = [found for found in (self.whole, *self.windows) if found.payload is not None]
        return min(readable, key=lambda found: found.chance).payload if readable else None


class Detector(Protocol):
    """Looks for a mark."""

    def find(self, audio: Tensor) -> Report:
        """Looks through `[S]` (float32, 24 kHz); raises `AudioError` for a sound that is too short."""
        ...
