"""A trace of streams, replayed against pods that an autoscaler adds and ends: deterministic, event by event.

Where events fall together, streams come and go first, then pods change, then the operator polls and the autoscaler
decides, and last Prometheus reads: a decision always sees a number that is a scrape old, the worst phase there is.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from csm_model.errors import InputError
from csm_scaling.hpa import SYNC_S, Decision, Hpa, PodReadings, Reading
from csm_scaling.hpa import Pods as Seen
from csm_scaling.keda import Answer, Keda, Missing
from csm_scaling.manifest import Scaled
from csm_scaling.pods import CUT_MARGIN_S, Balancer, Fleet, Pod, Stream
from csm_scaling.signals import Scrapes, Signal
from csm_scaling.timeline import Sample, Timeline
from csm_scaling.trace import Trace
from csm_serving.client.retry import Retry

_STREAMS, _PODS, _POLL, _SYNC, _SCRAPE = range(5)
_AGAIN_S: Final = 1.0
"""A caller that was refused asks again after so long (`csm_serving.client.load`)."""
RESUME_S: Final = Retry().budget_s
"""A stream whose server ended asks for a slot elsewhere for so long."""
_LONGEST: Final = 6.0
"""No stream is longer than so many times the mean."""
_CROWDED: Final = 0.2
"""Share by which the first audio of one among full slots takes longer than that of one alone (benchmarks/README.md)."""


@dataclass(frozen=True, kw_only=True)
class Outage:
    """Seconds during which the autoscaler's queries give no number."""

    start: float
    end: float
    kind: Missing = Missing.UNREACHABLE

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise InputError(f"outage {self.start:g}:{self.end:g}: must be FROM:TO in seconds, FROM before TO")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is around the servers."""

    wait_s: float = 0.0
    """Seconds that a client is willing to wait for a slot."""
    balancer: Balancer = "least"
    lengths: Literal["exponential", "fixed"] = "exponential"
    """Of streams, around the trace's mean."""
    first_audio_s: float = 0.1
    """From getting a slot to the first audio, of a stream that is alone."""
    scrape_s: float = 15.0
    """Between two scrapes of Prometheus."""
    outage: Outage | None = None
    seed: int = 0


def simulate(scaled: Scaled, trace: Trace, conditions: Conditions | None = None) -> Timeline:
    """Replays `trace` and returns what became of it.

    Args:
        scaled: the autoscaler and the server, from a manifest.
        trace: what is asked for.
        conditions: what is around; by default clients do not wait and the balancer is fair.
    """
    return _World(scaled, trace, conditions or Conditions()).run()


@dataclass
class _World:
    scaled: Scaled
    trace: Trace
    conditions: Conditions
    _events: list[tuple[float, int, int, Callable[[], None]]] = field(default_factory=list)
    _now: float = 0.0

    def __post_init__(self) -> None:
        conditions = self.conditions
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._draw = random.Random(conditions.seed)
        self._fleet = Fleet(
            server=self.scaled.server, balancer=conditions.balancer, draw=random.Random(conditions.seed + 1)
        )
        self._hpa = Hpa(self.scaled.hpa)
        self._keda = None if self.scaled.keda is None else Keda(self.scaled.keda)
        self._scrapes = Scrapes()
        self._timeline = Timeline(trace=self.trace, scaled=self.scaled, every_s=conditions.scrape_s)
        self._wanted: int | None = None
        self._callers = self._callers_wanted = 0
        self._length_s = self.trace.rows[0][2]

    def run(self) -> Timeline:
        started, _ = self._fleet.scale(0.0, self._settled())
        for pod in started:
            pod.state = "ready"
        self._timeline.start = len(started)
        for row, after in itertools.pairwise(self.trace.rows):
            self._at(row[0], _STREAMS, functools.partial(self._load, row[1], row[2], after[0]))
        self._every(self.conditions.scrape_s, _SCRAPE, self._scrape, first=0.0)
        self._every(SYNC_S, _SYNC, self._sync)
        if self._keda is not None:
            self._every(float(self._keda.spec.polling_s), _POLL, self._poll)
        while self._events and self._events[0][0] <= self.trace.seconds:
            self._now, _, _, act = heapq.heappop(self._events)
            act()
        return self._timeline

    def _settled(self) -> int:
        """Replicas with which a trace begins: those that its first row asks for."""
        hpa = self.scaled.hpa
        targets = [
            metric.target for metric, signal in zip(hpa.metrics, self.scaled.signals, strict=True) if signal == "demand"
        ]
        load = 100_000 * self.trace.offered(0.0) / self.scaled.server.slots
        asked = [math.ceil(load / target) for target in targets]
        return min(max(1, hpa.min_replicas, *asked), hpa.max_replicas)

    def _at(self, when: float, kind: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, kind, next(self._order), act))

    def _every(self, period: float, kind: int, act: Callable[[], None], *, first: float | None = None) -> None:
        def again(turn: int) -> None:
            act()
            self._at((turn + 1) * period, kind, functools.partial(again, turn + 1))

        turn = 1 if first is None else 0
        self._at(turn * period, kind, functools.partial(again, turn))

    # Streams

    def _load(self, load: float, length_s: float, end: float) -> None:
        """A row of the trace begins."""
        self._length_s = length_s
        if self.trace.kind == "arrivals_per_second":
            self._arrive(load, end)
            return
        self._callers_wanted = int(load)
        for _ in range(self._callers_wanted - self._callers):
            self._callers += 1
            self._ask(self._new(caller=True))

    def _arrive(self, rate: float, end: float) -> None:
        """Plans the next arrival before the row's `end`."""
        when = self._now + self._draw.expovariate(rate) if rate > 0 else end

        def arrive() -> None:
            self._ask(self._new())
            self._arrive(rate, end)

        if when < end:
            self._at(when, _STREAMS, arrive)

    def _new(self, *, caller: bool = False) -> Stream:
        share = min(self._draw.expovariate(1.0), _LONGEST) if self.conditions.lengths == "exponential" else 1.0
        self._timeline.asked += 1
        return Stream(number=next(self._numbers), left_s=share * self._length_s, asked=self._now, caller=caller)

    def _ask(self, stream: Stream) -> None:
        """A stream asks for a slot, for the first time or because its pod has ended under it."""
        pod = self._fleet.choose()
        found = "refused" if pod is None else pod.admit(stream, patient=self.conditions.wait_s > 0)
        if found == "live":
            self._begin(stream)
        elif found == "queued":
            stream.until = until = self._now + self.conditions.wait_s
            self._at(until, _STREAMS, functools.partial(self._tired, stream, until))
        else:
            self._refused(stream)

    def _begin(self, stream: Stream) -> None:
        """It has a slot."""
        pod = stream.pod
        assert pod is not None
        if stream.broke is None:
            waited = self._now - stream.asked
            crowd = (len(pod.live) - 1) / max(1, pod.server.slots - 1)
            first_audio = waited + self.conditions.first_audio_s * (1 + _CROWDED * crowd)
            self._scrapes.heard(first_audio)
            self._timeline.begin(waited, first_audio)
        stream.began = True
        stream.until = until = self._now + stream.left_s
        self._at(until, _STREAMS, functools.partial(self._end, stream, until))

    def _end(self, stream: Stream, until: float) -> None:
        if stream.pod is not None and not stream.waiting and stream.until == until:
            self._leave(stream)
            self._gone(stream)

    def _tired(self, stream: Stream, until: float) -> None:
        """It has waited as long as it would."""
        if stream.pod is not None and stream.waiting and stream.until == until:
            self._leave(stream)
            self._refused(stream)

    def _leave(self, stream: Stream) -> None:
        pod = stream.pod
        assert pod is not None
        following = pod.leave(stream)
        if following is not None:
            self._begin(following)
        if pod.terminated and not pod.live:
            self._fleet.pods.remove(pod)

    def _refused(self, stream: Stream) -> None:
        """A new stream is lost; one that had begun asks again for a while, as the client does."""
        if stream.broke is None:
            self._timeline.refuse()
            self._gone(stream, after_s=_AGAIN_S)
        elif self._now + _AGAIN_S <= stream.broke + RESUME_S:
            self._at(self._now + _AGAIN_S, _STREAMS, functools.partial(self._ask, stream))
        else:
            self._timeline.lose(stream.left_s)
            self._gone(stream)

    def _gone(self, stream: Stream, *, after_s: float = 0.0) -> None:
        """A stream is over or refused; its caller, if it has one, asks for another unless there are too many."""
        if not stream.caller:
            return
        if self._callers > self._callers_wanted:
            self._callers -= 1
        else:
            self._at(self._now + after_s, _STREAMS, self._again)

    def _again(self) -> None:
        if self._callers > self._callers_wanted:
            self._callers -= 1
        else:
            self._ask(self._new(caller=True))

    # Pods

    def _scale(self, replicas: int) -> None:
        started, ended = self._fleet.scale(self._now, replicas)
        server = self.scaled.server
        for pod in started:
            self._at(self._now + server.start_s, _PODS, functools.partial(self._ready, pod))
        for pod in ended:
            if pod in self._fleet.pods:
                cut = max(0.0, server.exit_timeout_s - CUT_MARGIN_S)
                self._at(self._now + server.pre_stop_s, _PODS, functools.partial(self._terminate, pod))
                self._at(self._now + server.pre_stop_s + cut, _PODS, functools.partial(self._cut, pod))
                self._at(self._now + server.grace_s, _PODS, functools.partial(self._kill, pod))

    def _ready(self, pod: Pod) -> None:
        if pod.state == "starting":
            pod.state, pod.ready_at = "ready", self._now

    def _terminate(self, pod: Pod) -> None:
        """SIGTERM: those that wait ask elsewhere; it exits once nobody speaks."""
        if pod not in self._fleet.pods:
            return
        pod.terminated = True
        waiting, pod.queue = list(pod.queue), deque()
        if not pod.live:
            self._fleet.pods.remove(pod)
        for stream in waiting:
            self._timeline.resent += 1
            self._elsewhere(stream)

    def _cut(self, pod: Pod) -> None:
        """Shortly before the exit timeout: those that still speak go on elsewhere."""
        if pod not in self._fleet.pods:
            return
        self._fleet.pods.remove(pod)
        for stream in pod.live.values():
            self._timeline.moved += 1
            stream.left_s, stream.broke = stream.until - self._now, self._now
            self._elsewhere(stream)

    def _kill(self, pod: Pod) -> None:
        """The end of the grace period: SIGKILL."""
        if pod not in self._fleet.pods:
            return
        self._fleet.pods.remove(pod)
        for stream in pod.live.values():
            self._timeline.lose(stream.until - self._now)
            stream.pod = None
            self._gone(stream)
        for stream in pod.queue:
            self._timeline.resent += 1
            self._elsewhere(stream)

    def _elsewhere(self, stream: Stream) -> None:
        stream.pod, stream.waiting = None, False
        self._ask(stream)

    # The autoscaler

    def _answers(self, signals: Sequence[Signal]) -> list[Answer]:
        outage = self.conditions.outage
        if outage is not None and outage.start <= self._now < outage.end:
            return [outage.kind] * len(signals)
        return [self._scrapes.answer(signal) for signal in signals]

    def _readings(self) -> list[Reading]:
        answers = self._answers(self.scaled.signals)
        ready = len(self._fleet.of("ready"))
        if self._keda is not None:
            return self._keda.readings(answers, current=self._fleet.asked_for, ready=ready)
        readings: list[Reading] = []
        for metric, answer in zip(self.scaled.hpa.metrics, answers, strict=True):
            if isinstance(answer, Missing) or answer != answer:
                readings.append(None)
            elif metric.source == "Pods":
                values = {str(number): value for number, value in self._scrapes.per_pod.items()}
                readings.append(PodReadings(values=values, missing=max(0, self._fleet.replicas - len(values))))
            else:
                readings.append(int(answer * 1000))
        return readings

    def _sync(self) -> None:
        fleet = self._fleet
        seen = Seen(spec=fleet.asked_for, status=fleet.replicas, ready=len(fleet.of("ready")))
        decision: Decision = self._hpa.sync(self._now, seen, self._readings())
        self._wanted = decision.wanted
        self._set(decision.replicas)

    def _poll(self) -> None:
        assert self._keda is not None
        replicas = self._keda.poll(self._now, self._answers(self.scaled.signals), current=self._fleet.asked_for)
        if replicas is not None:
            self._set(replicas)

    def _set(self, replicas: int) -> None:
        if replicas != self._fleet.asked_for:
            self._timeline.changes.append((self._now, self._fleet.asked_for, replicas))
            self._scale(replicas)

    def _scrape(self) -> None:
        fleet = self._fleet
        self._scrapes.scrape(self._now, fleet.exposed)
        ready = fleet.of("ready")
        self._timeline.sample(
            Sample(
                seconds=self._now,
                offered=self.trace.offered(self._now),
                live=sum(len(pod.live) for pod in fleet.pods),
                queued=sum(len(pod.queue) for pod in fleet.pods),
                capacity=self.scaled.server.slots * len(ready),
                wanted=self._wanted,
                asked_for=fleet.asked_for,
                ready=len(ready),
                starting=len(fleet.of("starting")),
                draining=len(fleet.of("draining")),
            )
        )
