"""One stream in the engine: what was asked, where it goes, what is counted of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from csm_model.errors import CsmError, InputError, words_of
from csm_model.frames import FRAME_SECONDS, seconds_of
from csm_model.inference.batch import Frame
from csm_model.inference.jobs import Late, StreamJob
from csm_model.inference.safety import Reason
from csm_serving.server import metrics as names
from csm_serving.server.metrics import Metrics
from csm_serving.server.source import ResolvedRequest
from csm_serving.wire.errors import BusyError, DeadlineError, ServingError
from csm_serving.wire.protocol import MAX_LEFT_OUT_TEXT, Chunk, End, SpeechRequest
from csm_serving.wire.tensors import Array

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where a stream goes. Exactly one of `end`, `fail` and `drop` is called, last."""

    def chunk(self, chunk: Chunk) -> None:
        """Takes a frame away."""
        ...

    def end(self, end: End) -> None:
        """The stream is complete."""
        ...

    def fail(self, error: Exception) -> None:
        """The stream broke; nothing follows."""
        ...

    def drop(self) -> None:
        """The stream was cancelled; nothing follows."""
        ...

    def cancelled(self) -> bool:
        """Whether the caller has gone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a stream came to; its text is not in it."""

    request: SpeechRequest
    asked: ResolvedRequest | None
    """None where it was never found out who was to speak."""
    characters: int
    frames: int
    outcome: str
    """A value of `csm_streams_total`'s label."""
    waited_s: float | None
    """Until it got a slot; None where it got none."""
    first_audio_s: float | None
    """Until its first frame."""
    took_s: float
    error: str = ""
    """The kind of what broke it."""
    caller: str | None = None
    """Who asked for it, where the server knows."""


class LiveStream:
    """A stream from its request to its end: the scheduler's listener, and what more text is held against.

    Args:
        request: what was asked.
        sink: where it goes.
        caller: who asks for it, where the server knows.
        metrics: where measurements go; None for a stream that nobody hears.
        over: is told when it is over, before the sink is.
        clock: seconds.
    """

    def __init__(
        self,
        request: SpeechRequest,
        sink: Sink,
        *,
        caller: str | None,
        metrics: Metrics | None,
        over: Callable[[LiveStream, Account], None],
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self.caller = caller
        self.job = StreamJob(listener=self, priority=request.priority, deadline_s=request.deadline_s)
        self.measured = metrics is not None
        self._sink = sink
        self._metrics = metrics
        self._over = over
        self._clock = clock
        self._asked: ResolvedRequest | None = None
        self._characters = 0
        self._more = True
        self._came = clock()
        self._waited: float | None = None
        self._first: float | None = None
        self._frames = 0

    def read(self, asked: ResolvedRequest) -> None:
        """The request was read: it may get a slot. What sound it brought is needed no more."""
        self.request = _with_sound(self.request, lambda sound: None)
        self._asked = asked
        self.job.asked = asked.utterance

    def keep(self) -> None:
        """The request is read later: its sound is kept in memory of its own, not of the connection that it came by."""
        self.request = _with_sound(self.request, np.array)

    def check_length(self, most: int) -> None:
        """Raises `InputError` where the text with all that follows is too much, as far as the request says."""
        length = self.request.text_length or 0
        if length > most:
            raise InputError(
                f"the text has {length} characters: at most {most} go into a stream; "
                "speak the rest in a second one (go_on=True, csm say --go-on)"
            )

    def check_part(self, text: str, most: int) -> None:
        """Raises `InputError` where a part of the text is too much, or comes after the last."""
        if not self._more:
            raise InputError("the stream's text has ended: no part may follow the one without TEXT_MORE")
        if self._characters + len(text) > most:
            raise InputError(
                f"the stream's text has {self._characters + len(text)} characters with this part: at most {most}; "
                "begin another stream"
            )

    def take_part(self, text: str, *, more: bool) -> None:
        """Counts a part of the text."""
        self._characters += len(text)
        self._more = more

    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self._sink.cancelled()

    # What the scheduler tells.

    def begin(self, waited_s: float) -> None:
        """See `Listener`."""
        self._waited = waited_s
        if self._metrics is not None:
            self._metrics.observe(names.QUEUE_WAIT, waited_s)

    def frame(self, frame: Frame) -> None:
        """See `Listener`."""
        assert self._asked is not None
        self._sink.chunk(self._asked.chunk(frame))
        now = self._clock()
        self._frames += 1
        if self._first is None:
            self._first = now
        if self._metrics is None:
            return
        if self._frames == 1:
            self._metrics.observe(names.FIRST_AUDIO, now - self._came)
        elif now > self._first + (self._frames - 1) * FRAME_SECONDS:
            self._metrics.add(names.UNDERRUNS)
        self._metrics.add(names.FRAMES)

    def end(self, reason: Reason, dropped: int, left_out: str) -> None:
        """See `Listener`."""
        end = end_of(reason, ended=reason is Reason.ENDED, dropped=dropped, left_out=left_out)
        if self._metrics is not None and end.left_out:
            self._metrics.add(names.LEFT_OUT, end.left_out)
        self._finish(reason.value, lambda: self._sink.end(end))

    def fail(self, error: Exception) -> None:
        """See `Listener`."""
        if not isinstance(error, CsmError):
            log.error("a stream broke", exc_info=error)
            error = ServingError(f"the model failed with {type(error).__name__}: {words_of(error)}")
        if isinstance(error, InputError) and not self._frames:
            self._refused("invalid_input")
        self._finish("failed", lambda: self._sink.fail(error), error)

    def expire(self, late: Late) -> None:
        """See `Listener`."""
        error: ServingError
        if late == "wait":
            self._refused("wait")
            error = BusyError(f"no slot was free within {self.job.max_wait_s:g} s; try again, or try another server")
        elif late == "deadline":
            error = DeadlineError(
                f"the stream was not over within its {self.job.deadline_s:g} s, {self._frames} frames are; ask for less"
            )
        else:
            error = DeadlineError("no more text came for too long; begin another stream, or send its last part earlier")
        self._finish("expired", lambda: self._sink.fail(error), error)

    def drop(self) -> None:
        """See `Listener`."""
        self._finish("cancelled", self._sink.drop)

    def gone(self) -> bool:
        """See `Listener`."""
        return self._sink.cancelled()

    def _refused(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.add(names.REFUSALS, label=reason)

    def _finish(self, outcome: str, tell: Callable[[], None], error: Exception | None = None) -> None:
        took = self._clock() - self._came
        account = Account(
            request=self.request,
            asked=self._asked,
            characters=self._characters,
            frames=self._frames,
            outcome=outcome,
            waited_s=self._waited,
            first_audio_s=None if self._first is None else self._first - self._came,
            took_s=took,
            error="" if error is None else type(error).__name__,
            caller=self.caller,
        )
        if self._metrics is not None and (self._frames or not isinstance(error, InputError | BusyError)):
            sound = seconds_of(self._frames)
            self._metrics.add(names.STREAMS, label=outcome)
            self._metrics.add(names.STREAM_SECONDS, took)
            self._metrics.add(names.AUDIO_SECONDS, sound)
            if sound:
                self._metrics.set(names.REAL_TIME_FACTOR, took / sound)
        try:
            self._over(self, account)
        finally:
            try:
                tell()
            except Exception:
                log.exception("the caller could not be told how the stream ended: %s", error or outcome)


def _with_sound(request: SpeechRequest, change: Callable[[Array], Array | None]) -> SpeechRequest:
    """The request with its context's sound changed."""
    if all(turn.audio is None for turn in request.context):
        return request
    turns = (turn if turn.audio is None else replace(turn, audio=change(turn.audio)) for turn in request.context)
    return replace(request, context=tuple(turns))


def end_of(reason: Reason, *, ended: bool, dropped: int, left_out: str) -> End:
    """The last response of a stream, with what was left out of it."""
    shown = left_out[:MAX_LEFT_OUT_TEXT]
    return End(ended=ended, reason=reason.value, dropped=dropped, left_out=len(left_out), left_out_text=shown)


class Nobody:
    """A sink that keeps nothing."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.error: Exception | None = None

    def chunk(self, chunk: Chunk) -> None:
        """See `Sink`."""

    def end(self, end: End) -> None:
        """See `Sink`."""
        self.over.set()

    def fail(self, error: Exception) -> None:
        """See `Sink`."""
        self.error = error
        self.over.set()

    def drop(self) -> None:
        """See `Sink`."""
        self.over.set()

    def cancelled(self) -> bool:
        """See `Sink`."""
        return False
