"""Who gets a slot and whose turn it is, followed by hand: a clock that stands still, and work that is only counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from csm_model.errors import CsmError, InputError
from csm_model.frames import FRAME_SAMPLES, FRAME_SECONDS
from csm_model.inference.batch import Frame
from csm_model.inference.jobs import Late, RefusedError, SchedulerPolicy, StreamJob
from csm_model.inference.narration import Heard, Utterance
from csm_model.inference.safety import Reason
from csm_model.inference.scheduler import Scheduler, StepTimes

STEP = 0.01


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Talk:
    reads: int
    frames: int
    text: str
    open: bool
    leads: bool


class Work:
    """Streams of as many frames as their text has characters, after as many chunks of prompt as their speaker says."""

    def __init__(self, slots: int, clock: Clock) -> None:
        self.slots = slots
        self.clock = clock
        self.step_s = STEP
        self.talks: dict[int, Talk] = {}
        self.steps: list[list[int]] = []
        self.prefills: list[int] = []
        self.led: list[list[int]] = []
        self.short: list[bool] = []
        self.breaks: Exception | None = None

    def open(self, slot: int, asked: Utterance) -> None:
        assert slot not in self.talks
        if asked.text == "?":
            raise InputError("nothing to say")
        self.talks[slot] = Talk(asked.speaker, 0, asked.text, asked.more, asked.heard is not None)

    def close(self, slot: int) -> None:
        del self.talks[slot]

    def add(self, slot: int, text: str, *, more: bool) -> None:
        self.talks[slot].text += text
        self.talks[slot].open = more

    def reads(self, slot: int) -> bool:
        return self.talks[slot].reads > 0

    def sounds(self, slot: int) -> bool:
        talk = self.talks[slot]
        return not talk.reads and talk.frames < len(talk.text)

    def waits(self, slot: int) -> bool:
        talk = self.talks[slot]
        return talk.open and talk.frames == len(talk.text)

    def prefill(self, slot: int) -> None:
        self.talks[slot].reads -= 1
        self.prefills.append(slot)

    def leads(self, slot: int) -> bool:
        return self.talks[slot].leads and self.talks[slot].reads > 0

    def lead(self, slots: Sequence[int], *, short: bool = False) -> None:
        self.led.append(list(slots))
        self.short.append(short)
        for slot in slots:
            self.talks[slot].reads -= 1

    def step(self, slots: Sequence[int], emit: Callable[[int, Frame], None]) -> None:
        if self.breaks is not None:
            raise self.breaks
        self.clock.now += self.step_s
        self.steps.append(list(slots))
        for slot in slots:
            talk = self.talks[slot]
            talk.frames += 1
            emit(slot, Frame(torch.zeros(1), np.zeros(FRAME_SAMPLES, np.float32), talk.frames - 1, 0))

    def over(self, slot: int) -> Reason | CsmError | None:
        talk = self.talks[slot]
        return Reason.ENDED if talk.frames == len(talk.text) and not talk.open and not talk.reads else None

    def dropped(self, slot: int) -> int:
        return 3

    def left_out(self, slot: int) -> str:
        return "好"


@dataclass
class Ear:
    heard: list[str] = field(default_factory=list)
    leaves: bool = False
    breaks: bool = False

    def begin(self, waited_s: float) -> None:
        self.heard.append(f"begin {waited_s:.2f}")

    def frame(self, frame: Frame) -> None:
        if self.breaks:
            raise OSError("the line is cut")
        self.heard.append("frame")

    def end(self, reason: Reason, dropped: int, left_out: str) -> None:
        assert left_out == "好"
        self._last(f"{reason} {dropped}")

    def fail(self, error: Exception) -> None:
        self._last(f"fail {error}")

    def expire(self, late: Late) -> None:
        self._last(f"late {late}")

    def drop(self) -> None:
        self._last("drop")

    def gone(self) -> bool:
        return self.leaves

    def _last(self, what: str) -> None:
        assert not self.over, f"{what} after {self.heard[-1]}"
        self.heard.append(what)

    @property
    def over(self) -> bool:
        return bool(self.heard) and not self.heard[-1].startswith(("begin", "frame"))

    @property
    def frames(self) -> int:
        return self.heard.count("frame")


class Desk:
    """A scheduler, its work and its clock."""

    def __init__(self, slots: int = 2, **policy: object) -> None:
        policy.setdefault("lead_s", None)
        self.clock = Clock()
        self.work = Work(slots, self.clock)
        self.scheduler = Scheduler(self.work, SchedulerPolicy(**policy), clock=self.clock)  # type: ignore[arg-type]

    def ask(
        self, text: str = "abc", *, reads: int = 1, more: bool = False, heard: Heard | None = None, **given: object
    ) -> tuple[StreamJob, Ear]:
        ear = Ear()
        asked = Utterance(text=text, speaker=reads, more=more, heard=heard)
        job = StreamJob(asked=asked, listener=ear, **given)  # type: ignore[arg-type]
        self.scheduler.admit(job)
        return job, ear

    def rounds(self, count: int = 100) -> None:
        for _ in range(count):
            if not self.scheduler.round():
                break


def test_a_stream_is_whole_and_hears_why_it_is_over() -> None:
    desk = Desk()
    _, ear = desk.ask("abc", reads=2)
    desk.rounds()
    assert ear.heard == ["begin 0.00", "frame", "frame", "frame", "ended 3"]
    assert desk.work.prefills == [0, 0]
    assert (desk.scheduler.live, desk.scheduler.queued, desk.work.talks) == (0, 0, {})


def test_live_streams_are_stepped_together() -> None:
    desk = Desk(slots=3)
    ears = [desk.ask("abcd")[1] for _ in range(3)]
    desk.rounds()
    assert desk.work.steps == [[0, 1, 2]] * 4
    assert all(ear.heard[-1] == "ended 3" for ear in ears)


def test_without_a_slot_a_stream_is_refused_at_once_with_a_hint() -> None:
    desk = Desk(slots=2)
    for _ in range(2):
        desk.ask("a" * 50)
    with pytest.raises(RefusedError) as refused:
        desk.ask()
    assert refused.value.reason == "busy"
    assert refused.value.retry_after_s >= FRAME_SECONDS
    desk.rounds()
    first = refused.value.retry_after_s
    for _ in range(2):
        desk.ask("a" * 50)
    with pytest.raises(RefusedError) as refused:
        desk.ask()
    assert refused.value.retry_after_s == pytest.approx(50 * STEP / 2), "one of two that last so long"
    assert first != refused.value.retry_after_s
    desk.rounds()
    desk.ask()


def test_those_who_are_refused_together_are_not_told_to_come_back_together() -> None:
    desk = Desk(slots=2)
    desk.ask("a" * 50)
    desk.rounds()
    for _ in range(2):
        desk.ask("a" * 60)

    def hint() -> float:
        with pytest.raises(RefusedError) as refused:
            desk.ask()
        return refused.value.retry_after_s

    every = 50 * STEP / 2
    assert [hint() for _ in range(4)] == pytest.approx([every, 2 * every, 3 * every, 4 * every])
    desk.clock.now += 2 * every
    assert hint() == pytest.approx(3 * every), "two of them have had their turn"
    for _ in range(2_000):
        last = hint()
    assert last == pytest.approx(30.0), "who asks ever again drives nobody away for ever"
    desk.clock.now += 60.0
    assert hint() == pytest.approx(every)


def test_who_may_wait_gets_a_slot_by_priority_and_then_by_arrival() -> None:
    desk = Desk(slots=1)
    desk.ask("abc")
    waiting = [desk.ask("a", max_wait_s=9.0, priority=priority)[1] for priority in (0, 5, 0, 5)]
    order: list[int] = []
    for _ in range(100):
        if not desk.scheduler.round():
            break
        order += [n for n, ear in enumerate(waiting) if ear.frames and n not in order]
    assert order == [1, 3, 0, 2]


def test_the_queue_is_bounded_and_none_waits_longer_than_it_says() -> None:
    desk = Desk(slots=1, queue=2)
    desk.ask("a" * 100)
    desk.rounds(1)
    _, short = desk.ask(max_wait_s=0.05)
    _, long = desk.ask(max_wait_s=60.0)
    with pytest.raises(RefusedError):
        desk.ask(max_wait_s=60.0)
    desk.rounds(10)
    assert short.heard == ["late wait"]
    assert long.heard == []
    desk.rounds()
    assert long.heard[-1] == "ended 3"


def test_a_deadline_ends_a_stream_where_it_is() -> None:
    desk = Desk(slots=1)
    _, speaking = desk.ask("a" * 100, deadline_s=0.055)
    _, waiting = desk.ask(max_wait_s=9.0, deadline_s=0.02)
    desk.rounds()
    assert speaking.heard == ["begin 0.00", *["frame"] * 6, "late deadline"]
    assert waiting.heard == ["late deadline"]
    assert desk.work.talks == {}


def test_who_leaves_frees_the_slot_before_the_next_frame() -> None:
    desk = Desk(slots=1)
    _, first = desk.ask("a" * 100)
    _, second = desk.ask("ab", max_wait_s=9.0)
    desk.rounds(5)
    first.leaves = True
    desk.rounds(1)
    assert first.heard[-1] == "drop"
    assert first.frames == 5
    assert second.frames == 1, "the slot is taken in the same round"
    desk.rounds()
    assert second.heard[-1] == "ended 3"
    _, third = desk.ask(max_wait_s=9.0)
    third.leaves = True
    desk.rounds()
    assert third.heard == ["drop"]


def test_a_stream_that_would_make_steps_too_long_is_refused() -> None:
    desk = Desk(slots=8, frame_budget=0.9)
    desk.work.step_s = 0.03
    desk.ask("a" * 20)
    desk.rounds(8)
    desk.ask("a" * 20)
    desk.work.step_s = 0.05
    desk.rounds(8)
    with pytest.raises(RefusedError) as refused:
        desk.ask()
    assert refused.value.reason == "budget", "a step of three would take 75 ms, by proportion"
    Desk(slots=8, frame_budget=0.0)
    boundless = Desk(slots=8, frame_budget=0.0)
    boundless.work.step_s = 1.0
    for _ in range(8):
        boundless.ask("a" * 9)
        boundless.rounds(2)


def test_a_model_slower_than_speech_still_takes_one_stream() -> None:
    desk = Desk(slots=4, frame_budget=0.9)
    desk.work.step_s = 0.5
    desk.ask("abc")
    desk.rounds()
    desk.ask("abc")
    desk.rounds(2)
    with pytest.raises(RefusedError):
        desk.ask("abc")


def test_new_streams_are_heard_first_while_the_others_have_a_lead() -> None:
    desk = Desk(slots=2)
    desk.ask("a" * 40)
    desk.rounds(20)
    desk.work.steps.clear()
    desk.ask("abc", reads=1)
    desk.rounds(2)
    assert desk.work.steps[0] == [1]
    assert desk.work.steps[1] == [0, 1]


def test_who_is_about_to_be_late_is_stepped_with_the_new_ones_and_only_one_prompt_is_read() -> None:
    desk = Desk(slots=4)
    desk.ask("a" * 40)
    desk.rounds(2)
    desk.clock.now += 0.1
    desk.work.steps.clear()
    desk.work.prefills.clear()
    for _ in range(3):
        desk.ask("abc", reads=1)
    desk.rounds(1)
    assert desk.work.prefills == [1]
    assert desk.work.steps == [[0, 1]] or desk.work.steps == [[1, 0]]


def test_a_long_prompt_does_not_hold_up_the_others() -> None:
    desk = Desk(slots=2)
    _, live = desk.ask("a" * 10)
    desk.rounds(2)
    desk.ask("b", reads=30)
    desk.rounds(8)
    assert live.heard[-1] == "ended 3"
    assert desk.work.prefills.count(1) == 8


HEARD = Heard(codes=torch.zeros(1, 1), sentences=(0,))


def test_those_that_go_on_are_led_together() -> None:
    desk = Desk(slots=4)
    for reads in (2, 3, 2):
        desk.ask("abc", reads=reads, heard=HEARD)
    desk.ask("abc", reads=1)
    desk.rounds()
    assert (desk.work.led[0], desk.work.led[-1], desk.work.prefills) == ([0, 1, 2], [1], [3])
    assert sorted(slot for slots in desk.work.led for slot in slots) == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("prompt_first", [True, False])
def test_where_somebody_is_about_to_be_late_those_that_go_on_share_a_short_turn(prompt_first: bool) -> None:
    desk = Desk(slots=5)
    desk.ask("a" * 40)
    desk.rounds(2)
    for heard in (None, HEARD, HEARD) if prompt_first else (HEARD, HEARD, None):
        desk.ask("abc", reads=2, heard=heard)
    for _ in range(4):
        desk.clock.now += 0.1
        desk.rounds(1)
    turns = [[2, 3]] * 2 if prompt_first else [[1, 2]] * 2
    assert (desk.work.led, desk.work.short) == (turns, [True, True])
    assert desk.work.prefills == [0, *([1, 1] if prompt_first else [3, 3])]


def test_what_leading_raises_breaks_those_that_were_led_and_no_other() -> None:
    desk = Desk(slots=3)
    _, live = desk.ask("abc", reads=1)
    _, broken = desk.ask("abc", reads=1, heard=HEARD)
    desk.work.lead = lambda slots, short: 1 / 0  # type: ignore[assignment,misc]
    desk.rounds()
    assert live.heard[-1] == "ended 3"
    assert broken.heard[-1] == "fail division by zero"


def test_a_lead_is_not_grown_beyond_the_bound() -> None:
    desk = Desk(slots=2, lead_s=0.5)
    _, ear = desk.ask("a" * 40)
    desk.ask("", more=True)
    desk.rounds()
    made = ear.frames
    assert made * FRAME_SECONDS - 0.5 < FRAME_SECONDS + made * STEP
    assert not desk.scheduler.round()
    desk.clock.now += 0.4
    assert desk.scheduler.round()
    assert ear.frames > made
    alone = Desk(slots=2, lead_s=0.5)
    _, ear = alone.ask("a" * 40)
    alone.rounds()
    assert ear.heard[-1] == "ended 3", "nobody is kept waiting by it"


def test_a_stream_waits_for_its_text_and_not_for_ever() -> None:
    desk = Desk(slots=2, text_timeout_s=5.0)
    job, ear = desk.ask("ab", more=True)
    desk.rounds()
    assert ear.frames == 2
    desk.clock.now += 4.0
    desk.scheduler.append(job, "cd", more=True)
    desk.rounds()
    desk.clock.now += 4.0
    desk.rounds()
    assert (ear.frames, ear.over) == (4, False)
    desk.clock.now += 1.5
    desk.rounds()
    assert ear.heard[-1] == "late text"
    job, ear = desk.ask("ab", more=True)
    desk.scheduler.append(job, "c", more=False)
    desk.rounds()
    assert (ear.frames, ear.heard[-1]) == (3, "ended 3")


def test_one_that_breaks_does_not_take_the_others_with_it() -> None:
    desk = Desk(slots=3)
    _, bad = desk.ask("abcdef")
    _, good = desk.ask("abcdef")
    _, silly = desk.ask("?")
    bad.breaks = True
    desk.rounds()
    assert bad.heard == ["begin 0.00", "fail the line is cut"]
    assert good.heard[-1] == "ended 3"
    assert silly.heard == ["begin 0.00", "fail nothing to say"]
    desk.work.breaks = RuntimeError("out of memory")
    _, lost = desk.ask()
    desk.rounds()
    assert lost.heard[-1] == "fail out of memory"
    assert desk.work.talks == {}


def test_all_may_be_broken_off() -> None:
    desk = Desk(slots=1)
    _, live = desk.ask("a" * 50)
    desk.rounds(3)
    _, waiting = desk.ask(max_wait_s=9.0)
    desk.scheduler.break_off(CsmError("stopping"), live=False)
    assert (waiting.heard, live.over) == (["fail stopping"], False)
    desk.scheduler.break_off(CsmError("stopped"), live=True)
    assert live.heard[-1] == "fail stopped"
    assert not desk.scheduler.round()


def test_a_request_that_is_still_being_read_gets_no_slot_and_takes_none() -> None:
    desk = Desk(slots=1)
    ear = Ear()
    job = StreamJob(listener=ear)
    desk.scheduler.admit(job)
    assert desk.scheduler.take_unread() is job
    desk.clock.now += 1000.0
    desk.rounds()
    assert ear.heard == []
    _, quick = desk.ask()
    desk.rounds()
    assert quick.heard[-1] == "ended 3"
    job.asked = Utterance(text="ab", speaker=0)
    desk.rounds()
    assert ear.heard[-1] == "ended 3"
    ear = Ear()
    job = StreamJob(listener=ear)
    desk.scheduler.admit(job)
    desk.scheduler.fail(job, InputError("no such voice"))
    assert ear.heard == ["fail no such voice"]
    assert desk.scheduler.queued == 0


def test_what_nobody_waits_for_any_more_is_not_read() -> None:
    desk = Desk(slots=2, queue=3, reading_s=5.0)
    ears = [Ear() for _ in range(8)]
    jobs = [StreamJob(listener=ear, priority=n == 4, max_wait_s=7.0 * (n == 6)) for n, ear in enumerate(ears)]
    refused = []
    for n, job in enumerate(jobs):
        try:
            desk.scheduler.admit(job)
        except RefusedError:
            refused.append(n)
    assert refused == [2, 3, 4, 5, 7], "no more than the slots, and who may wait"
    assert (desk.scheduler.unread, desk.scheduler.queued) == (3, 3)
    ears[0].leaves = True
    desk.rounds()
    assert ears[0].heard == ["drop"]
    desk.clock.now += 5.5
    desk.rounds()
    assert ears[1].heard == ["late wait"]
    assert desk.scheduler.take_unread() is jobs[6]
    assert desk.scheduler.take_unread() is None
    desk.clock.now += 5.5
    desk.rounds()
    assert ears[6].heard == [], "somebody is at it"
    jobs[6].asked = Utterance(text="ab", speaker=0)
    desk.rounds()
    assert ears[6].heard[-1] == "ended 3"
    assert desk.scheduler.unread == 0


def test_they_are_read_by_priority_and_then_by_arrival() -> None:
    desk = Desk(slots=3)
    jobs = [StreamJob(listener=Ear(), priority=priority) for priority in (0, 5, 0)]
    for job in jobs:
        desk.scheduler.admit(job)
    assert [desk.scheduler.take_unread() for _ in range(4)] == [jobs[1], jobs[0], jobs[2], None]


def test_times_of_steps_that_were_not_seen_follow_from_those_that_were() -> None:
    times = StepTimes()
    assert times.of(3) == 0.0
    for seconds in (0.02, 9.0, 0.02):
        times.add(2, seconds)
    assert times.of(2) == 0.02, "one slow step says nothing"
    assert times.of(3) == pytest.approx(0.03)
    assert times.of(1) == 0.02
    times.clear()
    assert times.of(2) == 0.0


@pytest.mark.parametrize(
    "policy", [{"queue": -1}, {"frame_budget": -0.1}, {"frame_budget": 11}, {"lead_s": 0}, {"text_timeout_s": 0}]
)
def test_bad_policies_are_refused(policy: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(policy))):
        SchedulerPolicy(**policy)  # type: ignore[arg-type]
