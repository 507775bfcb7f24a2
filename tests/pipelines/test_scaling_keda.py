"""What KEDA tells the autoscaler, and what it does itself while Prometheus is silent."""

from __future__ import annotations

import math

import pytest

from csm_scaling.hpa import Hpa, Pods
from csm_scaling.keda import Fallback, Keda, KedaSpec, Missing, ScaleTrigger


def trigger(*, kind: str = "AverageValue", ignore_nulls: bool = False, threshold: int = 70_000) -> ScaleTrigger:
    return ScaleTrigger(
        name="demand",
        query="",
        threshold=threshold,
        kind=kind,  # type: ignore[arg-type]
        ignore_nulls=ignore_nulls,
    )


def spec(*triggers: ScaleTrigger, fallback: Fallback | None = None, least: int = 2) -> KedaSpec:
    return KedaSpec(triggers=triggers or (trigger(),), min_replicas=least, max_replicas=10, fallback=fallback)


@pytest.mark.parametrize("answer", [Missing.EMPTY, math.nan, math.inf])
def test_no_number_is_an_error_unless_it_is_to_count_as_nothing(answer: float | Missing) -> None:
    assert trigger(ignore_nulls=False).value_of(answer) is None
    assert trigger(ignore_nulls=True).value_of(answer) == 0.0


@pytest.mark.parametrize("ignore_nulls", [False, True])
def test_a_prometheus_that_does_not_answer_is_always_an_error(ignore_nulls: bool) -> None:
    assert trigger(ignore_nulls=ignore_nulls).value_of(Missing.UNREACHABLE) is None


def test_values_go_on_in_thousandths() -> None:
    assert Keda(spec()).readings([123.4567], current=2, ready=2) == [123_456]


def test_the_autoscaler_has_one_pod_at_least() -> None:
    assert spec(least=0).hpa().min_replicas == 1


@pytest.mark.parametrize("kind", ["AverageValue", "Value"])
@pytest.mark.parametrize(
    ("behaviour", "wanted"),
    [("static", 5), ("currentReplicas", 7), ("currentReplicasIfHigher", 7), ("currentReplicasIfLower", 5)],
)
def test_after_the_failures_that_are_borne_the_fallback_is_what_the_autoscaler_comes_to(
    kind: str, behaviour: str, wanted: int
) -> None:
    given = spec(trigger(kind=kind), fallback=Fallback(failures=3, replicas=5, behaviour=behaviour))  # type: ignore[arg-type]
    keda, hpa = Keda(given), Hpa(given.hpa())
    for _ in range(3):
        assert keda.readings([Missing.UNREACHABLE], current=7, ready=6) == [None]
    readings = keda.readings([Missing.UNREACHABLE], current=7, ready=6)
    assert hpa.sync(0, Pods(spec=7, status=7, ready=6), readings).wanted == wanted
    assert keda.readings([70.0], current=7, ready=6) == [70_000]
    assert keda.readings([Missing.UNREACHABLE], current=7, ready=6) == [None], "an answer starts the count again"


def test_a_fallback_of_a_value_needs_a_pod_that_is_ready() -> None:
    keda = Keda(spec(trigger(kind="Value"), fallback=Fallback(failures=0, replicas=5)))
    assert keda.readings([Missing.UNREACHABLE], current=7, ready=0) == [None]


@pytest.mark.parametrize(("behaviour", "set_to"), [("static", 3), ("currentReplicasIfHigher", 8)])
def test_with_no_trigger_active_the_operator_itself_sets_the_fallback_at_once(behaviour: str, set_to: int) -> None:
    keda = Keda(spec(fallback=Fallback(failures=3, replicas=3, behaviour=behaviour)))  # type: ignore[arg-type]
    assert keda.poll(0.0, [50.0], current=8) is None
    assert keda.poll(15.0, [Missing.UNREACHABLE], current=8) == set_to


def test_one_active_trigger_keeps_the_operator_from_it() -> None:
    keda = Keda(spec(trigger(), trigger(), fallback=Fallback(failures=3, replicas=3)))
    assert keda.poll(15.0, [Missing.UNREACHABLE, 50.0], current=8) is None


def test_to_none_and_back_goes_the_operator_alone() -> None:
    keda = Keda(spec(least=0))
    assert keda.poll(0.0, [50.0], current=0) == 1
    assert keda.poll(300.0, [0.0], current=1) is None
    assert keda.poll(301.0, [0.0], current=1) == 0
