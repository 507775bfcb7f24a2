"""Pods of the server: slots, the queue, starting, draining, and the balancer in front of them.

A pod takes streams as the server does (`csm_model.inference.scheduler`): one that finds no free slot waits where it is
willing to and the queue has room, else it is refused. A pod that is scaled in gets no new streams, runs its `preStop`,
then SIGTERM: what waits is told to ask elsewhere, what speaks may end until shortly before the exit timeout, and then
goes on elsewhere from its last frame. What is still there at the end of the grace period is killed, its frames lost.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

Balancer = Literal["least", "random"]
"""`least`: each stream to the pod with the fewest (a gRPC-aware proxy). `random`: to any pod (connections that are
balanced once)."""
CUT_MARGIN_S: Final = 2.0
"""The server ends live streams so long before its exit timeout (`csm_serving.server.triton_model`)."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One pod's sizes and times, in seconds."""

    slots: int
    queue: int
    start_s: float
    """From the decision to add it until it is ready: a node, the image, the bundle, the model."""
    pre_stop_s: float
    exit_timeout_s: float
    grace_s: float
    """`terminationGracePeriodSeconds`."""


@dataclass(slots=True, eq=False)
class Stream:
    """One stream that a client asks for. Times are seconds."""

    number: int
    left_s: float
    """Of speaking that it still wants."""
    asked: float
    caller: bool = False
    """Whether its client asks for another when it is over."""
    began: bool = False
    broke: float | None = None
    """When its pod ended under it."""
    until: float = 0.0
    """When it ends, or has waited enough."""
    pod: Pod | None = None
    waiting: bool = False


@dataclass(eq=False)
class Pod:
    """One replica."""

    number: int
    server: Server
    born: float
    state: Literal["starting", "ready", "draining"] = "starting"
    ready_at: float = 0.0
    terminated: bool = False
    """Whether SIGTERM has come: it exits with its last stream."""
    live: dict[int, Stream] = field(default_factory=dict)
    queue: deque[Stream] = field(default_factory=deque)

    @property
    def load(self) -> int:
        """Streams in slots and in the queue."""
        return len(self.live) + len(self.queue)

    def admit(self, stream: Stream, *, patient: bool) -> Literal["live", "queued", "refused"]:
        """What becomes of a stream that asks here; `patient`: it would wait for a slot."""
        if self.load < self.server.slots:
            self.live[stream.number] = stream
            stream.pod, stream.waiting = self, False
            return "live"
        if patient and len(self.queue) < self.server.queue:
            self.queue.append(stream)
            stream.pod, stream.waiting = self, True
            return "queued"
        return "refused"

    def leave(self, stream: Stream) -> Stream | None:
        """Takes a stream out; returns the one that gets its slot, if any."""
        stream.pod = None
        if stream.waiting:
            self.queue.remove(stream)
            return None
        del self.live[stream.number]
        if not self.queue or len(self.live) >= self.server.slots:
            return None
        following = self.queue.popleft()
        following.waiting = False
        self.live[following.number] = following
        return following


@dataclass
class Fleet:
    """All pods of a Deployment, and who gets the next stream."""

    server: Server
    balancer: Balancer = "least"
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    pods: list[Pod] = field(default_factory=list)
    asked_for: int = 0
    """Replicas in the Deployment's spec."""
    _numbers: int = 0

    def of(self, state: str) -> list[Pod]:
        """Pods in a state, oldest first."""
        return [pod for pod in self.pods if pod.state == state]

    @property
    def exposed(self) -> list[Pod]:
        """Pods whose metrics are there: those that are ready, and those that end."""
        return [pod for pod in self.pods if pod.state != "starting"]

    @property
    def replicas(self) -> int:
        """Pods that are there, those that end left out."""
        return sum(pod.state != "draining" for pod in self.pods)

    def scale(self, now: float, replicas: int) -> tuple[list[Pod], list[Pod]]:
        """Brings the number of pods to `replicas`; returns those that start and those that end.

        A ReplicaSet ends pods that are not ready first, then the youngest (`ActivePodsWithRanks`).
        """
        self.asked_for = replicas
        started, ended = [], []
        for _ in range(replicas - self.replicas):
            self._numbers += 1
            started.append(Pod(number=self._numbers, server=self.server, born=now))
        self.pods += started
        candidates = sorted(
            (pod for pod in self.pods if pod.state != "draining"),
            key=lambda pod: (pod.state == "starting", pod.ready_at, pod.number),
            reverse=True,
        )
        for pod in candidates[: max(0, len(candidates) - replicas)]:
            ended.append(pod)
            if pod.state == "starting":
                self.pods.remove(pod)
            pod.state = "draining"
        return started, ended

    def choose(self) -> Pod | None:
        """The pod that the balancer gives the next stream; None: no pod is ready."""
        ready = self.of("ready")
        if not ready:
            return None
        if self.balancer == "random":
            return self.draw.choice(ready)
        return min(ready, key=lambda pod: (pod.load, pod.number))
