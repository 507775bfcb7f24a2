"""Traces through the chart's own autoscaler, against what was worked out by hand before.

By hand: a pod has 8 slots and the target is 70, so that N streams ask for 12.5 N / 70 pods, rounded up; a tenth of the
target to either side is borne. Prometheus reads every 15 s, and a decision sees what was read 15 s before it. The chart
adds at most 2 pods or half of them a minute, takes one away a minute, and none that was wanted in the last 300 s.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml
from chart_rendering import ci_file, render

from csm_scaling.keda import Missing
from csm_scaling.manifest import Scaled, read_manifest
from csm_scaling.simulate import Conditions, Outage, simulate
from csm_scaling.timeline import Timeline
from csm_scaling.trace import Trace, made

SLOTS, LEAST, MOST, TARGET, WINDOW_S = 8, 2, 10, 0.7, 300
PATIENT = Conditions(wait_s=1e6, lengths="fixed")
LOST = Conditions(wait_s=1e6, lengths="fixed", outage=Outage(start=600, end=1500))


def objects(kind: str = "keda") -> list[dict[str, Any]]:
    """The chart's objects with its defaults."""
    return render("csm-serving", ci_file("csm-serving", "default"), set={"autoscaling.kind": kind})


def scaled(rendered: list[dict[str, Any]], *, metrics: int | None = None, start_s: float = 60.0) -> Scaled:
    """What the simulator makes of it, with the first `metrics` of its metrics."""
    for value in rendered:
        for key in ("triggers", "metrics"):
            if key in value.get("spec", {}) and value["kind"] in ("ScaledObject", "HorizontalPodAutoscaler"):
                value["spec"][key] = value["spec"][key][:metrics]
    return read_manifest(yaml.safe_dump_all(rendered), start_s=start_s)


def callers(*rows: tuple[float, int], length_s: float = 5.0) -> Trace:
    """So many callers from then on; the last row ends it."""
    return Trace(kind="concurrent_streams", rows=tuple((when, count, length_s) for when, count in rows))


def test_the_charts_defaults_are_those_that_the_figures_below_were_worked_out_for() -> None:
    found = scaled(objects())
    assert found.keda is not None
    assert (found.server.slots, found.hpa.min_replicas, found.hpa.max_replicas) == (SLOTS, LEAST, MOST)
    assert [metric.target for metric in found.hpa.metrics] == [70_000, 400_000]
    assert found.signals == ("demand", "first audio")
    assert found.hpa.up is not None
    assert found.hpa.down is not None
    assert [(policy.kind, policy.value, policy.period_s) for policy in found.hpa.up.policies] == [
        ("Pods", 2, 60),
        ("Percent", 50, 60),
    ]
    assert [(policy.kind, policy.value, policy.period_s) for policy in found.hpa.down.policies] == [("Pods", 1, 60)]
    assert (found.hpa.up.window_s, found.hpa.down.window_s) == (0, WINDOW_S)
    assert found.server.grace_s > found.server.pre_stop_s + found.server.exit_timeout_s


STEP_UP = [(120, 2, 4), (180, 4, 6), (240, 6, 8)]
"""40 streams ask for 7.14 pods, so 8: seen at 120 s, 2 more a minute; 8 pods are 0.893 full, and stay 8."""
STEP_DOWN = [(1305, 8, 7), (1365, 7, 6), (1425, 6, 5), (1485, 5, 4), (1545, 4, 3), (1605, 3, 2)]
"""8 streams from 1,000 s are seen at 1,020; the last 8 pods were wanted at 1,005, and 300 s later that is forgotten."""


@pytest.mark.parametrize("autoscaler", ["keda", "hpa"])
def test_a_step_is_followed_as_policies_and_windows_say(autoscaler: str) -> None:
    found = simulate(scaled(objects(autoscaler), metrics=1), callers((0, 8), (100, 40), (1000, 8), (2000, 8)), PATIENT)
    assert found.changes == STEP_UP + STEP_DOWN
    figures = found.figures(pod_cost=2.0)
    assert figures["streams_refused"] == 0
    assert figures["replicas_most"] == 8
    assert figures["longest_at_max_s"] == 0


def test_pods_are_ready_when_they_have_started_and_paid_for_from_the_beginning() -> None:
    found = simulate(scaled(objects(), metrics=1), callers((0, 8), (100, 40), (500, 40)), PATIENT)
    by_time = {sample.seconds: sample for sample in found.samples}
    assert [(by_time[t].ready, by_time[t].starting, by_time[t].capacity) for t in (105, 120, 165, 180, 240, 300)] == [
        (2, 0, 16),
        (2, 2, 16),
        (2, 2, 16),
        (4, 2, 32),
        (6, 2, 48),
        (8, 0, 64),
    ]
    hours = (8 * 2 + 4 * 4 + 4 * 6 + 17 * 8) * 15 / 3600  # samples at 0 to 480; the one at 495 closes the last interval
    assert found.figures(2.0)["replica_hours"] == pytest.approx(hours)
    assert found.figures(2.0)["cost"] == pytest.approx(2 * hours)


def test_a_ramp_is_followed_one_pod_at_a_time() -> None:
    # R pods bear up to 6.16 R streams: 13, 19, 25, 31 and 37 are the first above, and ask for 3 to 7.
    rows = [(60.0 * n, 8 + n) for n in range(33)]
    found = simulate(scaled(objects(), metrics=1), callers(*rows, (2000, 40)), PATIENT)
    assert found.changes == [(315, 2, 3), (675, 3, 4), (1035, 4, 5), (1395, 5, 6), (1755, 6, 7)]
    assert found.figures()["wait_p95_s"] == 0


def test_clients_that_do_not_wait_hide_the_load_and_it_is_found_pod_by_pod() -> None:
    # R full pods show 100 R, and so ask for R / 0.7: 3, 5, 8, 12. Each time the new ones must be ready first (60 s), be
    # filled by callers that ask again every second, be read (15 s) and be seen (15 s): 90 s a turn.
    impatient = Conditions(lengths="fixed")
    found = simulate(scaled(objects(), metrics=1), callers((0, 8), (100, 60), (800, 60)), impatient)
    assert found.changes == [(120, 2, 3), (210, 3, 5), (300, 5, 8), (390, 8, 10)]
    assert found.figures()["refused_share"] > 0.5, "each refused caller asks again every second"


def erlang_b(load: float, slots: int) -> float:
    """Share of arrivals that find no slot free (A. K. Erlang, 1917): a pool that neither grows nor queues."""
    blocked = 1.0
    for n in range(1, slots + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def test_a_day_refuses_no_more_than_its_slots_would_without_any_reaction() -> None:
    peak, length_s = 40.0, 30.0
    day = made("day", peak=peak, length_s=length_s)
    # The bound first. Pods are added where they are more than a tenth above their target, so N streams in the mean have
    # N / (1.1 * 0.7 * 8) pods at least. In the 90 s until a new pod is ready (15 to read, 15 to decide, 60 to start)
    # the mean rises by less than 0.15. Erlang's formula says what such a pool refuses; the whole day's is its mean.
    refused = asked = 0.0
    for _, rate, seconds in day.rows[:-1]:
        mean = rate * seconds
        fewest = max(LEAST, -(-(mean - 0.15) // (1.1 * TARGET * SLOTS)))
        refused += rate * erlang_b(mean, int(fewest) * SLOTS)
        asked += rate
    bound = refused / asked
    assert bound < 0.02
    found = simulate(scaled(objects()), day).figures()
    assert found["streams_asked"] > 50_000
    assert found["refused_share"] <= bound
    assert found["frames_lost"] == 0


def level(found: Timeline, start: float, end: float) -> set[int]:
    """All numbers of replicas that were asked for in a time."""
    return {sample.asked_for for sample in found.samples if start <= sample.seconds < end}


@pytest.mark.parametrize("autoscaler", ["keda", "hpa"])
@pytest.mark.parametrize("kind", list(Missing))
def test_without_metrics_the_pods_stay_and_afterwards_all_goes_on(autoscaler: str, kind: Missing) -> None:
    conditions = Conditions(wait_s=1e6, lengths="fixed", outage=Outage(start=600, end=1500, kind=kind))
    load = callers((0, 8), (100, 40), (1000, 8), (2600, 8))
    found = simulate(scaled(objects(autoscaler)), load, conditions)
    assert level(found, 600, 1500) == {found.replicas_at(599)}
    assert found.replicas_at(599) >= 8
    assert found.replicas_at(2600) == LEAST
    downs = [when for when, before, to in found.changes if to < before]
    assert downs[0] >= 1500, "what was not seen during the outage is not waited for again, but nothing fell before"


def test_an_outage_at_the_minimum_falls_back_to_the_charts_number_at_once() -> None:
    found = simulate(scaled(objects()), callers((0, 8), (1600, 8)), LOST)
    assert found.changes[0] == (600, 2, 3)
    assert level(found, 600, 1500) == {3}


def test_a_static_fallback_would_drop_to_its_number_at_once_past_all_windows() -> None:
    rendered = objects()
    for value in rendered:
        if value["kind"] == "ScaledObject":
            value["spec"]["fallback"]["behavior"] = "static"
    found = simulate(scaled(rendered, metrics=1), callers((0, 8), (100, 40), (1600, 40)), LOST)
    assert (600, 8, 3) in found.changes


def test_nulls_that_count_as_nothing_would_scale_to_the_minimum() -> None:
    rendered = objects()
    for value in rendered:
        for trigger in value["spec"]["triggers"] if value["kind"] == "ScaledObject" else ():
            trigger["metadata"]["ignoreNullValues"] = "true"
    conditions = Conditions(wait_s=1e6, lengths="fixed", outage=Outage(start=600, end=1500, kind=Missing.EMPTY))
    found = simulate(scaled(rendered, metrics=1), callers((0, 8), (100, 40), (1600, 40)), conditions)
    assert found.replicas_at(1499) == LEAST, "forty streams on two pods"


def test_streams_that_end_in_time_are_not_cut_by_a_scale_in() -> None:
    given = scaled(objects(), metrics=1)
    length_s = given.server.pre_stop_s + given.server.exit_timeout_s - 2.5
    found = simulate(given, callers((0, 8), (100, 40), (1000, 8), (4000, 8), length_s=length_s), PATIENT).figures()
    assert found["scale_downs"] == 6
    assert (found["streams_moved"], found["frames_lost"]) == (0, 0)


def falling(end: float) -> Trace:
    """40 short streams on 8 pods; from 20 s on 16 that last 900 s, 2 on each pod, for which 3 pods would be enough.

    Eight pods are wanted for the last time at 30 s, so the first of them ends at 330, the second at 390.
    """
    return Trace(kind="concurrent_streams", rows=((0, 40, 5), (20, 16, 900), (end, 16, 900)))


def test_longer_streams_go_on_elsewhere_and_lose_nothing() -> None:
    # 10 s of preStop, and 2 s before the exit timeout of 150: at 488.
    found = simulate(scaled(objects(), metrics=1), falling(489), PATIENT)
    assert found.changes[0] == (330, 8, 7)
    figures = found.figures()
    assert (figures["streams_moved"], figures["frames_lost"]) == (2, 0)
    assert figures["streams_asked"] == 40 * 4 + 16, "a stream that goes on has not been asked for again"


def test_a_grace_period_that_is_too_short_loses_the_rest_of_each_stream_and_it_is_counted() -> None:
    rendered = objects()
    for value in rendered:
        if value["kind"] == "Deployment":
            value["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30
    figures = simulate(scaled(rendered, metrics=1), falling(389), PATIENT).figures()
    assert figures["frames_lost"] == 2 * (920 - 360) * 12.5
    assert figures["streams_moved"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_the_bounds_hold_and_no_pod_goes_that_was_wanted_lately(seed: int) -> None:
    draw = random.Random(seed)
    rows = sorted({round(draw.uniform(0, 2400)): draw.randint(0, 90) for _ in range(6)}.items())
    load = callers((0, draw.randint(0, 20)), *((float(t), n) for t, n in rows if t > 0), (3000, 0), length_s=20)
    conditions = Conditions(
        wait_s=draw.choice([0.0, 5.0, 1e6]),
        balancer=draw.choice(["least", "random"]),
        outage=draw.choice([None, Outage(start=900, end=1500)]),
        seed=seed,
    )
    found = simulate(scaled(objects()), load, conditions)
    assert all(LEAST <= sample.asked_for <= MOST for sample in found.samples)
    assert all(sample.live <= SLOTS * (sample.ready + sample.draining) for sample in found.samples)
    for when, before, to in found.changes:
        if to < before:
            recent = [
                sample.wanted
                for sample in found.samples
                if when - WINDOW_S < sample.seconds <= when and sample.wanted is not None
            ]
            assert to >= min(max(recent), MOST), f"at {when} s"
            assert before - to == 1
    again = simulate(scaled(objects()), load, conditions)
    assert again.samples == found.samples, "the same seed gives the same"
