"""What the scheduler is told and asked: bounds, streams that were asked for, who does the work, who hears of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from csm_model.errors import InputError
from csm_model.frames import FRAME_SECONDS
from csm_model.inference.batch import Frame
from csm_model.inference.narration import Utterance
from csm_model.inference.safety import Reason

Late = Literal["deadline", "wait", "text"]
"""What a stream ran out of: its own deadline, its time in the queue, its time without more text."""


@dataclass(frozen=True, kw_only=True)
class SchedulerPolicy:
    """Bounds of what is taken on."""

    queue: int = 16
    """Streams that may wait for a slot; 0 refuses all that find none."""
    frame_budget: float = 0.9
    """Share of a frame's 80 ms that a step may take with one stream more; above it that one is refused. 0: no bound."""
    lead_s: float | None = 1.0
    """Seconds of sound that a stream may be ahead of its player where it is not alone; None: as many as there is time
    for. What is made further ahead delays others' first sound, and is thrown away when its listener interrupts."""
    text_timeout_s: float = 30.0
    """Seconds that a stream waits for more of its text."""
    reading_s: float = 10.0
    """Seconds that a request may wait until somebody begins to read it, where it asks for no longer wait."""

    def __post_init__(self) -> None:
        rules = (
            ("queue", self.queue, self.queue >= 0, "0 or more"),
            ("frame_budget", self.frame_budget, 0.0 <= self.frame_budget <= 10.0, "from 0 (no bound) to 10"),
            ("lead_s", self.lead_s, self.lead_s is None or self.lead_s > 0, "more than 0, or None"),
            ("text_timeout_s", self.text_timeout_s, self.text_timeout_s > 0, "more than 0"),
            ("reading_s", self.reading_s, self.reading_s > 0, "more than 0"),
        )
        for name, value, holds, rule in rules:
            if not holds:
                raise InputError(f"{name} {value}: must be {rule}")


class Streams(Protocol):
    """What does the work: `SpeechBatch`. What `step` raises is a failure of the model, not of a stream."""

    slots: int

    def open(self, slot: int, asked: Utterance) -> None:
        """Begins a stream; raises `CsmError` for what cannot be said."""
        ...

    def close(self, slot: int) -> None:
        """Frees a slot."""
        ...

    def add(self, slot: int, text: str, *, more: bool) -> None:
        """Takes the next part of a stream's text."""
        ...

    def reads(self, slot: int) -> bool:
        """Whether a stream has rows to read before it can speak."""
        ...

    def sounds(self, slot: int) -> bool:
        """Whether a stream's next frame can be made."""
        ...

    def waits(self, slot: int) -> bool:
        """Whether a stream can do nothing before more text is there."""
        ...

    def prefill(self, slot: int) -> None:
        """Reads some of a stream's prompt."""
        ...

    def leads(self, slot: int) -> bool:
        """Whether a stream that goes on is still to be led through frames that its caller has heard."""
        ...

    def lead(self, slots: Sequence[int], *, short: bool = False) -> None:
        """Leads streams through some of those frames, or few, where it is to be `short`; raises as `step` does."""
        ...

    def step(self, slots: Sequence[int], emit: Callable[[int, Frame], None]) -> None:
        """Makes the next frame of some slots."""
        ...

    def over(self, slot: int) -> Reason | Exception | None:
        """Why a stream is over, or what its own work broke on; None while it is not."""
        ...

    def dropped(self, slot: int) -> int:
        """Turns said before that a stream had no room for."""
        ...

    def left_out(self, slot: int) -> str:
        """Signs of a stream's text that could not be said."""
        ...


class Listener(Protocol):
    """Who asked for a stream. Exactly one of `end`, `fail`, `expire` and `drop` is called, last."""

    def begin(self, waited_s: float) -> None:
        """The stream has a slot."""
        ...

    def frame(self, frame: Frame) -> None:
        """Takes a frame."""
        ...

    def end(self, reason: Reason, dropped: int, left_out: str) -> None:
        """The stream is over; so many turns and signs were left out."""
        ...

    def fail(self, error: Exception) -> None:
        """The stream broke."""
        ...

    def expire(self, late: Late) -> None:
        """The stream ran out of time."""
        ...

    def drop(self) -> None:
        """The listener has gone."""
        ...

    def gone(self) -> bool:
        """Whether the listener has gone."""
        ...


@dataclass(frozen=True)
class StreamEnded:
    """A stream that was spoken, or cut."""

    reason: Reason
    dropped: int
    """Turns said before that it had no room for."""
    left_out: str = ""
    """Signs of its text that could not be said."""

    def tell(self, listener: Listener) -> None:
        """Says so."""
        listener.end(self.reason, self.dropped, self.left_out)


@dataclass(frozen=True)
class StreamFailed:
    """A stream that broke."""

    error: Exception

    def tell(self, listener: Listener) -> None:
        """Says so."""
        listener.fail(self.error)


@dataclass(frozen=True)
class StreamExpired:
    """A stream that ran out of time."""

    late: Late

    def tell(self, listener: Listener) -> None:
        """Says so."""
        listener.expire(self.late)


@dataclass(frozen=True)
class StreamDropped:
    """A stream whose listener has gone."""

    def tell(self, listener: Listener) -> None:
        """Says so."""
        listener.drop()


StreamOutcome = StreamEnded | StreamFailed | StreamExpired | StreamDropped
"""How a stream left."""


@dataclass(eq=False, kw_only=True)
class StreamJob:
    """A stream that was asked for, and how far it is."""

    listener: Listener
    asked: Utterance | None = None
    """None until the request was read; till then it gets no slot."""
    priority: int = 0
    """Higher goes first."""
    max_wait_s: float = 0.0
    """Seconds it may wait for a slot."""
    deadline_s: float | None = None
    """Seconds after its arrival at which it must be over."""
    reading: bool = False
    """Whether somebody reads the request now."""
    number: int = 0
    arrived: float = 0.0
    slot: int | None = None
    text: deque[tuple[str, bool]] = field(default_factory=deque)
    first: float | None = None
    frames: int = 0
    starving: float | None = None
    broken: Exception | None = None

    def slack(self, now: float) -> float:
        """Seconds until a player that began with the first frame needs the next one."""
        return float("inf") if self.first is None else self.first + self.frames * FRAME_SECONDS - now


class RefusedError(Exception):
    """No place for a stream, and when there may be one: `retry_after_s`."""

    def __init__(self, reason: Literal["busy", "budget"], retry_after_s: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
