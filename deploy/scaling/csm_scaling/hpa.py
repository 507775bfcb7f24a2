"""The HorizontalPodAutoscaler's arithmetic, as kube-controller-manager does it.

Source: kubernetes/kubernetes, `pkg/controller/podautoscaler/{horizontal,replica_calculator}.go`, its defaults in
`pkg/apis/autoscaling/v2/defaults.go`; KEP-853 (configurable scale velocity) and
https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/. Values are whole thousandths, as
the metrics API carries them: 2.1 over 0.7 in floats is a little more than three pods, and so would be four. The few
places where the controller itself divides doubles do so here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

SYNC_S: Final = 15.0
"""`--horizontal-pod-autoscaler-sync-period`."""
TOLERANCE: Final = 0.1
"""`--horizontal-pod-autoscaler-tolerance`."""
DOWN_WINDOW_S: Final = 300
"""`--horizontal-pod-autoscaler-downscale-stabilization`."""


@dataclass(frozen=True, kw_only=True)
class ScalingPolicy:
    """At most `value` pods, or per cent of them, in any `period_s` seconds."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: int


@dataclass(frozen=True, kw_only=True)
class ScalingRules:
    """How fast one direction may go."""

    policies: tuple[ScalingPolicy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"
    """Whether the policy that lets most through counts, or the one that lets least."""
    window_s: int = 0
    """Recommendations of so many seconds are looked back on: the least for up, the most for down."""
    tolerance: float = TOLERANCE
    """Share by which a metric may miss its target before anything is done."""


UP: Final = ScalingRules(
    policies=(ScalingPolicy(kind="Pods", value=4, period_s=15), ScalingPolicy(kind="Percent", value=100, period_s=15)),
    window_s=0,
)
DOWN: Final = ScalingRules(policies=(ScalingPolicy(kind="Percent", value=100, period_s=15),), window_s=DOWN_WINDOW_S)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric and its target, in thousandths."""

    name: str
    target: int
    source: Literal["External", "Pods"] = "External"
    kind: Literal["AverageValue", "Value"] = "AverageValue"


@dataclass(frozen=True, kw_only=True)
class HpaSpec:
    """A HorizontalPodAutoscaler's spec."""

    min_replicas: int
    max_replicas: int
    metrics: tuple[Metric, ...]
    up: ScalingRules | None = None
    down: ScalingRules | None = None
    """Both None: no `behavior` at all, for which an older rule holds."""


@dataclass(frozen=True, kw_only=True)
class Pods:
    """What the controller sees of the target."""

    spec: int
    """Replicas that are asked for."""
    status: int
    """Pods that are there, those that end left out."""
    ready: int
    """Pods that answer their readiness probe, those that end among them."""


@dataclass(frozen=True, kw_only=True)
class PodReadings:
    """A metric of type Pods: each pod's value in thousandths, and how many pods have none."""

    values: Mapping[str, int]
    missing: int = 0
    """Running, without a value yet."""


Reading = int | PodReadings | None
"""Thousandths of an External metric, a Pods metric, or None: the metrics API gave an error."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a sync came to."""

    replicas: int
    """What is asked for from now on."""
    wanted: int | None
    """What the metrics alone ask for; None: nothing was computed."""
    proposals: tuple[int | None, ...] = ()
    """The same, metric by metric; None for one without a value."""


@dataclass
class Hpa:
    """One autoscaler and what it remembers. Times are seconds and may not go back."""

    spec: HpaSpec
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now: float, pods: Pods, readings: Sequence[Reading]) -> Decision:
        """One pass of the control loop; `readings` are in the order of the spec's metrics."""
        spec, current = self.spec, pods.spec
        if not self._recommended:
            self._recommended.append((now, current))
        if current == 0 and spec.min_replicas != 0:
            return Decision(replicas=0, wanted=None)  # somebody has turned the workload off
        if not spec.min_replicas <= current <= spec.max_replicas:
            bounded = min(max(current, spec.min_replicas), spec.max_replicas)
            self._changes.append((now, bounded - current))
            return Decision(replicas=bounded, wanted=None)
        proposals = tuple(
            None if reading is None else self._proposal(metric, pods, reading)
            for metric, reading in zip(spec.metrics, readings, strict=True)
        )
        valid = [proposal for proposal in proposals if proposal is not None]
        # One metric without a value may have asked for more: the others may raise the number, and not lower it.
        if not valid or (len(valid) < len(proposals) and max(valid) < current):
            return Decision(replicas=current, wanted=None, proposals=proposals)
        wanted = max(valid)
        if spec.up is None or spec.down is None:
            replicas = self._without_behaviour(now, current, wanted)
        else:
            replicas = self._limited(now, current, self._stabilised(now, current, wanted), spec.up, spec.down)
        if replicas != current:
            self._changes.append((now, replicas - current))
        return Decision(replicas=replicas, wanted=wanted, proposals=proposals)

    def _within(self, ratio: float) -> bool:
        """Whether usage over target is near enough to 1 to leave things as they are."""
        up, down = self.spec.up or UP, self.spec.down or DOWN
        return 1.0 - down.tolerance <= ratio <= 1.0 + up.tolerance

    def _proposal(self, metric: Metric, pods: Pods, reading: int | PodReadings) -> int | None:
        if isinstance(reading, PodReadings):
            return self._of_pods(metric.target, pods, reading)
        if metric.kind == "AverageValue":  # GetExternalPerPodMetricReplicas
            if pods.status and self._within(reading / (metric.target * pods.status)):
                return pods.status
            return math.ceil(reading / metric.target)
        ratio = reading / metric.target  # GetExternalMetricReplicas
        if pods.spec and self._within(ratio):
            return pods.spec
        return math.ceil(ratio * (pods.ready if pods.spec else 1))

    def _of_pods(self, target: int, pods: Pods, reading: PodReadings) -> int | None:
        """`calcPlainMetricReplicas`: the mean over pods; one without a value counts against any change."""
        values = list(reading.values.values())
        if not values:
            return None
        ratio = sum(values) // len(values) / target
        if reading.missing == 0:
            return pods.spec if self._within(ratio) else math.ceil(ratio * len(values))
        values += [target if ratio < 1.0 else 0] * reading.missing
        again = sum(values) // len(values) / target
        if self._within(again) or (ratio < 1.0 < again) or (again < 1.0 < ratio):
            return pods.spec
        replicas = math.ceil(again * len(values))
        turned = (again < 1.0 and replicas > pods.spec) or (again > 1.0 and replicas < pods.spec)
        return pods.spec if turned else replicas

    def _stabilised(self, now: float, current: int, wanted: int) -> int:
        """`stabilizeRecommendationWithBehaviors`: as near to the present number as the windows' recommendations say."""
        assert self.spec.up is not None
        assert self.spec.down is not None
        least = most = wanted
        for when, recommended in self._recommended:
            if when > now - self.spec.up.window_s:
                least = min(least, recommended)
            if when > now - self.spec.down.window_s:
                most = max(most, recommended)
        longest = max(self.spec.up.window_s, self.spec.down.window_s)
        self._recommended = [entry for entry in self._recommended if entry[0] >= now - longest]
        self._recommended.append((now, wanted))
        return min(max(current, least), most)

    def _limited(self, now: float, current: int, desired: int, up: ScalingRules, down: ScalingRules) -> int:
        """`convertDesiredReplicasWithBehaviorRate`: no faster than the policies, and within the bounds."""
        longest = max((policy.period_s for rules in (up, down) for policy in rules.policies), default=0)
        self._changes = [change for change in self._changes if change[0] > now - longest]
        if desired > current:
            limit = max(current, self._limit(now, current, up, 1, max if up.select == "Max" else min))
            return min(desired, self.spec.max_replicas, limit)
        if desired < current:
            limit = min(current, self._limit(now, current, down, -1, min if down.select == "Max" else max))
            return max(desired, self.spec.min_replicas, limit)
        return desired

    def _limit(
        self, now: float, current: int, rules: ScalingRules, sign: int, select: Callable[[Sequence[int]], int]
    ) -> int:
        if rules.select == "Disabled" or not rules.policies:
            return current
        limits = []
        for policy in rules.policies:
            start = current - sum(change for when, change in self._changes if when > now - policy.period_s)
            if policy.kind == "Pods":
                limits.append(start + sign * policy.value)
            else:  # up is rounded up, or one pod would never become two; down is cut off, towards fewer
                share = start * (1 + sign * policy.value / 100)
                limits.append(math.ceil(share) if sign > 0 else int(share))
        return select(limits)

    def _without_behaviour(self, now: float, current: int, wanted: int) -> int:
        """`normalizeDesiredReplicas`: at most twice as many (4 at least) at once, down after five minutes."""
        self._recommended = [entry for entry in self._recommended if entry[0] >= now - DOWN_WINDOW_S]
        self._recommended.append((now, wanted))
        highest = max(recommended for _, recommended in self._recommended)
        return min(max(highest, self.spec.min_replicas), self.spec.max_replicas, max(2 * current, 4))
