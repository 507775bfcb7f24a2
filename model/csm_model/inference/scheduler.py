"""Who gets a slot, and whose turn it is: admission, a bounded queue, priorities, deadlines, the order of the work.

Time is the clock's that is given, and the work is a `Streams`, so that all of it can be followed by hand; there is no
torch here and no thread. `admit` and `append` may be called from any thread, `round` from one.

A stream is admitted at once where a slot is free and the step would not become too long for the live ones; else it may
wait in the queue, as long as it says, or is refused with a hint when to come again.

A request that is not read yet waits in the same queue, bounded and expired as the others, until a reader takes it
(`take_unread`): what nobody waits for any more is not begun. It takes no place from those that are read.

What a stream's own work raises, its listener's among it, ends that stream alone. What a step raises ends all the
streams of the step, and `failed` hears of it.

A round reads some of the prompts of those that have just come, and then steps: first those that nothing was heard of
yet, and with them those that are about to be late; where there are none, all. So the first sound of one does not wait
for the others' lead, and no lead is eaten up for it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Literal

from csm_model.errors import CsmError
from csm_model.frames import FRAME_SECONDS
from csm_model.inference.batch import Frame
from csm_model.inference.faults import fault_of
from csm_model.inference.jobs import (
    Late,
    RefusedError,
    SchedulerPolicy,
    StreamDropped,
    StreamEnded,
    StreamExpired,
    StreamFailed,
    StreamJob,
    StreamOutcome,
    Streams,
)
from csm_model.inference.safety import Reason

log = logging.getLogger(__name__)

_SAMPLES = 16
"""Steps of each size, and streams, whose times are remembered."""
_LONGEST_HINT_S = 30.0
"""Seconds after which one that was refused is told to ask again, at most."""


class StepTimes:
    """How long steps take, by the number of streams in them."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[float]] = {}

    def clear(self) -> None:
        """Forgets all."""
        self._seen.clear()

    def add(self, streams: int, seconds: float) -> None:
        """Learns of a step."""
        self._seen.setdefault(streams, deque(maxlen=_SAMPLES)).append(seconds)

    def of(self, streams: int) -> float:
        """Seconds of a step of so many: as measured, else by proportion from the nearest that were; 0 before any."""
        if not self._seen or streams < 1:
            return 0.0
        if streams in self._seen:
            return median(self._seen[streams])
        below = max((n for n in self._seen if n < streams), default=None)
        if below is not None:
            return median(self._seen[below]) * streams / below
        return median(self._seen[min(self._seen)])


class Scheduler:
    """Streams in and out of the slots; `round` does a piece of the work.

    Args:
        streams: does the work.
        policy: bounds of what is taken on.
        clock: seconds.
        seen: hears of each step: its streams and its seconds.
        failed: hears of what a step raised, or the reading of a prompt: True where it was the former.
    """

    def __init__(
        self,
        streams: Streams,
        policy: SchedulerPolicy,
        *,
        clock: Callable[[], float],
        seen: Callable[[int, float], None] = lambda streams, seconds: None,
        failed: Callable[[Exception, bool], None] = lambda error, step: None,
    ) -> None:
        self.policy = policy
        self._tell = seen
        self._failed = failed
        self.times = StepTimes()
        self.bounded = True
        """Whether the budget counts; not while steps are measured first."""
        self._streams = streams
        self._clock = clock
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._queue: list[StreamJob] = []
        self._live: dict[int, StreamJob] = {}
        self._lasted: deque[float] = deque(maxlen=_SAMPLES)
        self._hinted = 0.0

    @property
    def live(self) -> int:
        """Streams in slots."""
        return len(self._live)

    @property
    def queued(self) -> int:
        """Streams that have no slot yet."""
        return len(self._queue)

    def admit(self, job: StreamJob) -> None:
        """Takes a stream on, in a slot with the next round or in the queue; raises `RefusedError`."""
        with self._lock:
            ahead = sum(other.asked is not None or job.asked is None for other in self._queue)
            reason = self._no_room(len(self._live) + ahead)
            if reason is not None and (job.max_wait_s <= 0 or ahead >= self.policy.queue):
                raise RefusedError(reason, self._retry_after())
            job.number, job.arrived = next(self._numbers), self._clock()
            self._queue.append(job)

    def take_unread(self) -> StreamJob | None:
        """The stream whose request is to be read next, from now on the caller's to read; None where none waits."""
        with self._lock:
            unread = [job for job in self._queue if job.asked is None and not job.reading]
            job = min(unread, key=lambda job: (-job.priority, job.number), default=None)
            if job is not None:
                job.reading = True
            return job

    @property
    def unread(self) -> int:
        """Streams whose requests are read now, or wait to be."""
        with self._lock:
            return sum(job.asked is None for job in self._queue)

    def append(self, job: StreamJob, text: str, *, more: bool) -> None:
        """More text for a stream, taken up with the next round."""
        with self._lock:
            job.text.append((text, more))

    def fail(self, job: StreamJob, error: Exception) -> None:
        """Fails a stream that has no slot yet."""
        self._leave(job, StreamFailed(error))

    def break_off(self, error: CsmError, *, live: bool) -> None:
        """Fails all that wait, and the live ones too where that is said."""
        with self._lock:
            waiting, self._queue = self._queue, []
        for job in waiting:
            _tell(job, StreamFailed(error))
        for job in list(self._live.values()) if live else ():
            self._leave(job, StreamFailed(error))

    def round(self) -> bool:
        """Does a piece of the work; False where there is none before something changes."""
        self._sweep()
        self._fill()
        with self._lock:
            live = sorted(self._live.values(), key=lambda job: (-job.priority, job.number))
        worked = self._take_text(live) | self._read(live) | self._step(live)
        for job in live:
            self._settle(job)
        return worked

    def _no_room(self, streams: int) -> Literal["busy", "budget"] | None:
        """Why one stream more than so many cannot be taken, or None."""
        if streams >= self._streams.slots:
            return "busy"
        budget = self.policy.frame_budget * FRAME_SECONDS if self.bounded else 0.0
        return "budget" if budget and streams and self.times.of(streams + 1) > budget else None

    def _retry_after(self) -> float:
        """Seconds after which a slot may be free: one of n streams ends every n-th part of how long they last.

        Those that are refused one after the other are told one slot after the other: else all came back for the first.
        """
        now = self._clock()
        lasts = sum(self._lasted) / len(self._lasted) if self._lasted else 1.0
        streams = len(self._live) + len(self._queue)
        every = lasts / min(max(1, streams), self._streams.slots)
        ahead = max(0, streams - self._streams.slots) + 1
        self._hinted = max(now + every * ahead, min(self._hinted + every, now + _LONGEST_HINT_S))
        return max(FRAME_SECONDS, self._hinted - now)

    def _sweep(self) -> None:
        """Lets go of who has gone or run out of time."""
        now = self._clock()
        with self._lock:
            queued, live = list(self._queue), list(self._live.values())
        for job in (*live, *queued):
            late: Late | None = None
            if job.deadline_s is not None and now - job.arrived >= job.deadline_s:
                late = "deadline"
            elif job.slot is None and self._has_waited(job, now - job.arrived):
                late = "wait"
            elif job.starving is not None and now - job.starving >= self.policy.text_timeout_s:
                late = "text"
            try:
                gone = job.listener.gone()
            except BaseException as error:
                self._leave(job, StreamFailed(fault_of(error)))
                continue
            if gone:
                self._leave(job, StreamDropped())
            elif late is not None:
                self._leave(job, StreamExpired(late))

    def _has_waited(self, job: StreamJob, waited_s: float) -> bool:
        """Whether a queued stream has waited for as long as it may, and has no place in the next round either."""
        if job.asked is None:
            return not job.reading and waited_s >= max(job.max_wait_s, self.policy.reading_s)
        if waited_s < job.max_wait_s:
            return False
        with self._lock:
            room = self._streams.slots - len(self._live)
            ready = self._ready()
            return job in ready and (job not in ready[:room] or self._no_room(len(self._live)) is not None)

    def _ready(self) -> list[StreamJob]:
        """Those that may get a slot, in order."""
        ready = [job for job in self._queue if job.asked is not None]
        return sorted(ready, key=lambda job: (-job.priority, job.number))

    def _fill(self) -> None:
        """Gives free slots to those that wait."""
        while True:
            with self._lock:
                ready = self._ready()
                if not ready or self._no_room(len(self._live)) is not None:
                    return
                job = ready[0]
                self._queue.remove(job)
                job.slot = next(slot for slot in range(self._streams.slots) if slot not in self._live)
                self._live[job.slot] = job
            assert job.asked is not None
            try:
                job.listener.begin(self._clock() - job.arrived)
                self._streams.open(job.slot, job.asked)
            except BaseException as error:
                self._leave(job, StreamFailed(fault_of(error)), opened=False)

    def _take_text(self, live: Iterable[StreamJob]) -> bool:
        worked = False
        for job in live:
            while job.slot is not None and job.text:
                with self._lock:
                    text, more = job.text.popleft()
                worked = True
                try:
                    self._streams.add(job.slot, text, more=more)
                except BaseException as error:
                    self._leave(job, StreamFailed(fault_of(error)))
        return worked

    def _read(self, live: Iterable[StreamJob]) -> bool:
        """Some rows of each prompt, and some frames of those that go on.

        Where somebody is about to be late, no more than takes as long as for one: of the first prompt, or, where the
        first is one that goes on, fewer frames of all of those, so that none of them waits for the others.
        """
        now, late = self._clock(), self._margin()
        reading = [job for job in live if job.slot is not None and self._streams.reads(job.slot)]
        going_on = [job for job in reading if job.slot is not None and self._streams.leads(job.slot)]
        short = any(job.slack(now) < late for job in live if job.slot is not None and self._streams.sounds(job.slot))
        if short and reading[:1] == going_on[:1]:
            reading = going_on
        elif short:
            reading, going_on = reading[:1], []
        if going_on:
            slots = [job.slot for job in going_on if job.slot is not None]
            self._guarded(going_on, lambda: self._streams.lead(slots, short=short), step=True)
        for job in reading:
            if job.slot is not None and job not in going_on:
                self._guarded([job], functools.partial(self._streams.prefill, job.slot), step=False)
        return bool(reading)

    def _step(self, live: Iterable[StreamJob]) -> bool:
        now, late = self._clock(), self._margin()
        ready = [job for job in live if job.slot is not None and self._streams.sounds(job.slot)]
        if self.policy.lead_s is not None and len(self._live) > 1:
            ready = [job for job in ready if job.first is None or job.slack(now) < self.policy.lead_s]
        if any(job.first is None for job in ready):
            ready = [job for job in ready if job.first is None or job.slack(now) < late]
        if not ready:
            return False
        slots = [job.slot for job in ready if job.slot is not None]
        if not self._guarded(ready, lambda: self._streams.step(slots, self._emit), step=True):
            return True
        took = self._clock() - now
        self.times.add(len(slots), took)
        self._tell(len(slots), took)
        return True

    def _margin(self) -> float:
        """A stream with less slack than this is about to be late: it may have to wait for two steps."""
        return 2 * self.times.of(len(self._live))

    def _emit(self, slot: int, frame: Frame) -> None:
        job = self._live[slot]
        try:
            job.listener.frame(frame)
        except BaseException as error:
            job.broken = fault_of(error)
        job.frames += 1
        if job.first is None:
            job.first = self._clock()

    def _settle(self, job: StreamJob) -> None:
        """Ends a stream that is over, and notes when one begins to wait for text."""
        if job.slot is None:
            return
        try:
            over = job.broken or self._streams.over(job.slot)
            dropped, left_out = self._streams.dropped(job.slot), self._streams.left_out(job.slot)
            waits = self._streams.waits(job.slot)
        except BaseException as error:
            over, dropped, left_out, waits = fault_of(error), 0, "", False
        if isinstance(over, Reason):
            self._leave(job, StreamEnded(over, dropped, left_out))
        elif over is not None:
            self._leave(job, StreamFailed(over))
        elif waits and not job.text:
            job.starving = self._clock() if job.starving is None else job.starving
        else:
            job.starving = None

    def _guarded(self, jobs: Sequence[StreamJob], work: Callable[[], None], *, step: bool) -> bool:
        """Work that must not take the others down: what it raises fails the streams it was about. Whether it worked."""
        try:
            work()
        except BaseException as broken:
            error = fault_of(broken)
            if step or not isinstance(error, CsmError):
                self._failed(error, step)
            for job in jobs:
                self._leave(job, StreamFailed(error))
            return False
        return True

    def _leave(self, job: StreamJob, outcome: StreamOutcome, *, opened: bool = True) -> None:
        """Frees the slot before the listener hears of it, so that its next request finds the slot free."""
        with self._lock:
            if job in self._queue:
                self._queue.remove(job)
            elif job.slot is not None:
                if opened:
                    self._streams.close(job.slot)
                del self._live[job.slot]
                job.slot = None
                if job.frames:
                    self._lasted.append(self._clock() - job.arrived)
            else:
                return
        _tell(job, outcome)


def _tell(job: StreamJob, outcome: StreamOutcome) -> None:
    """Tells a listener how its stream ended; one that cannot be told is left alone."""
    try:
        outcome.tell(job.listener)
    except BaseException as error:
        log.error("a listener could not be told of %s", type(outcome).__name__, exc_info=fault_of(error))
