"""What KEDA makes of a ScaledObject: the HorizontalPodAutoscaler, the values that it is given, what KEDA does itself.

Source: kedacore/keda 2.18 and later, `controllers/keda/hpa.go`, `pkg/scalers/prometheus_scaler.go`,
`pkg/fallback/fallback.go`, `pkg/scaling/executor/scale_scaledobjects.go`; https://keda.sh/docs/latest/reference/scaledobject-spec/.
Before 2.18 a fallback's target was cut to a whole number, so that a target below 1 fell back to nothing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from csm_scaling.hpa import HpaSpec, Metric, Reading, ScalingRules
from csm_scaling.quantity import milli

POLLING_S: Final = 30
COOLDOWN_S: Final = 300
MAX_REPLICAS: Final = 100

Behaviour = Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class Missing(enum.Enum):
    """Why Prometheus gave no number."""

    UNREACHABLE = "unreachable"
    """It did not answer, or with an error."""
    EMPTY = "empty"
    """It answered with no series."""


Answer = float | Missing
"""Of a query."""


@dataclass(frozen=True, kw_only=True)
class ScaleTrigger:
    """A trigger of type prometheus."""

    name: str
    query: str
    threshold: int
    """In thousandths."""
    kind: Literal["AverageValue", "Value"] = "AverageValue"
    activation: float = 0.0
    """A value above it makes the trigger active."""
    ignore_nulls: bool = True
    """Whether no series, NaN and infinity count as 0 instead of as an error."""

    def value_of(self, answer: Answer) -> float | None:
        """The scaler's value; None: an error."""
        if answer is Missing.UNREACHABLE:
            return None
        if isinstance(answer, Missing) or not math.isfinite(answer):
            return 0.0 if self.ignore_nulls else None
        return answer


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What is asked for while a trigger's source fails."""

    failures: int
    """So many failures in a row are borne first."""
    replicas: int
    behaviour: Behaviour = "static"

    def replicas_at(self, current: int) -> int:
        """How many pods it stands for while there are `current`."""
        if self.behaviour == "static":
            return self.replicas
        if self.behaviour == "currentReplicas":
            return current
        return (max if self.behaviour == "currentReplicasIfHigher" else min)(current, self.replicas)


@dataclass(frozen=True, kw_only=True)
class KedaSpec:
    """A ScaledObject's spec."""

    triggers: tuple[ScaleTrigger, ...]
    min_replicas: int = 0
    max_replicas: int = MAX_REPLICAS
    polling_s: int = POLLING_S
    cooldown_s: int = COOLDOWN_S
    fallback: Fallback | None = None
    up: ScalingRules | None = None
    down: ScalingRules | None = None

    def hpa(self) -> HpaSpec:
        """The HorizontalPodAutoscaler that KEDA creates."""
        return HpaSpec(
            min_replicas=max(1, self.min_replicas),
            max_replicas=self.max_replicas,
            metrics=tuple(
                Metric(name=f"s{n}-prometheus", target=trigger.threshold, kind=trigger.kind)
                for n, trigger in enumerate(self.triggers)
            ),
            up=self.up,
            down=self.down,
        )


@dataclass
class Keda:
    """The operator beside one ScaledObject, and what it remembers."""

    spec: KedaSpec
    _failures: list[int] = field(default_factory=list)
    _active_at: float | None = None

    def __post_init__(self) -> None:
        self._failures = [0] * len(self.spec.triggers)

    def readings(self, answers: Sequence[Answer], *, current: int, ready: int) -> list[Reading]:
        """What the HorizontalPodAutoscaler is told when it asks; `answers` are the queries' at that moment."""
        told: list[Reading] = []
        for n, (trigger, answer) in enumerate(zip(self.spec.triggers, answers, strict=True)):
            value = trigger.value_of(answer)
            self._failures[n] = 0 if value is not None else self._failures[n] + 1
            told.append(self._in_place_of(trigger, n, current, ready) if value is None else milli(value))
        return told

    def _in_place_of(self, trigger: ScaleTrigger, n: int, current: int, ready: int) -> int | None:
        """The fallback's value, by which the autoscaler comes to its number of pods; None: the error goes on."""
        fallback = self.spec.fallback
        if fallback is None or self._failures[n] <= fallback.failures:
            return None
        replicas = float(fallback.replicas_at(current))
        if trigger.kind == "Value":
            if ready == 0:
                return None
            replicas /= ready
        return int(trigger.threshold * replicas)

    def poll(self, now: float, answers: Sequence[Answer], *, current: int) -> int | None:
        """One pass of the operator's own loop; the number of pods that it sets past the autoscaler, if any.

        Where no trigger is active and one fails it sets the fallback's number at once: no window or policy holds it,
        and it has been seen not to wait for the failures that are to be borne (kedacore/keda issue 6053).
        """
        values = [trigger.value_of(answer) for trigger, answer in zip(self.spec.triggers, answers, strict=True)]
        active = any(
            value is not None and value > trigger.activation
            for trigger, value in zip(self.spec.triggers, values, strict=True)
        )
        if active:
            self._active_at = now
            return max(1, self.spec.min_replicas) if current == 0 else None
        fallback = self.spec.fallback
        if None in values:
            return fallback.replicas_at(current) if fallback is not None and fallback.replicas != 0 else None
        if current < self.spec.min_replicas:
            return self.spec.min_replicas
        cooled = self._active_at is None or self._active_at + self.spec.cooldown_s < now
        return 0 if self.spec.min_replicas == 0 and current > 0 and cooled else None
