"""The autoscaler's arithmetic, against figures worked out by hand from the controller's source."""

from __future__ import annotations

import random

import pytest

from csm_scaling.hpa import DOWN, UP, Hpa, HpaSpec, Metric, PodReadings, Pods, ScalingPolicy, ScalingRules

DEMAND = Metric(name="demand", target=70_000)
LATENCY = Metric(name="first audio", target=400_000, kind="Value")


def spec(
    *metrics: Metric, least: int = 1, most: int = 20, up: ScalingRules | None = UP, down: ScalingRules | None = DOWN
) -> HpaSpec:
    return HpaSpec(min_replicas=least, max_replicas=most, metrics=metrics or (DEMAND,), up=up, down=down)


def pods(replicas: int, *, status: int | None = None, ready: int | None = None) -> Pods:
    return Pods(
        spec=replicas,
        status=replicas if status is None else status,
        ready=replicas if ready is None else ready,
    )


def rules(*policies: ScalingPolicy, select: str = "Max", window_s: int = 0) -> ScalingRules:
    return ScalingRules(policies=policies, select=select, window_s=window_s)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("per_cent", "replicas", "wanted"),
    [
        (210, 1, 3),  # exactly three pods at their target; a fourth would be floats' work
        (211, 1, 4),
        (140, 2, 2),
        (154, 2, 2),  # a tenth above the target is borne
        (155, 2, 3),
        (126, 2, 2),  # and a tenth below
        (125, 2, 2),  # 1.79 pods are two
        (69, 2, 1),
        (0, 5, 0),
    ],
)
def test_an_average_value_asks_for_its_total_over_the_target(per_cent: int, replicas: int, wanted: int) -> None:
    found = Hpa(spec()).sync(0, pods(replicas), [per_cent * 1000])
    assert found.wanted == wanted


@pytest.mark.parametrize(
    ("milliseconds", "ready", "wanted"),
    [
        (400, 3, 4),  # at its target: as many as are asked for, ready or not
        (440, 3, 4),
        (800, 3, 6),  # twice the target: twice those that are ready
        (100, 3, 1),
        (0, 3, 0),
    ],
)
def test_a_value_multiplies_the_pods_that_are_ready(milliseconds: int, ready: int, wanted: int) -> None:
    found = Hpa(spec(LATENCY)).sync(0, pods(4, ready=ready), [milliseconds * 1000])
    assert found.wanted == wanted


def test_the_metric_that_asks_for_most_decides() -> None:
    found = Hpa(spec(DEMAND, LATENCY)).sync(0, pods(4), [140_000, 800_000])
    assert found.proposals == (2, 8)
    assert found.replicas == 8


@pytest.mark.parametrize(("known", "replicas"), [(350_000, 5), (70_000, 4)])
def test_a_metric_without_a_value_lets_the_others_raise_the_number_and_not_lower_it(known: int, replicas: int) -> None:
    found = Hpa(spec(DEMAND, LATENCY, down=rules(ScalingPolicy(kind="Pods", value=9, period_s=15)))).sync(
        0, pods(4), [known, None]
    )
    assert found.replicas == replicas


def test_without_any_value_nothing_changes() -> None:
    hpa = Hpa(spec(DEMAND, LATENCY))
    assert [hpa.sync(15.0 * n, pods(6), [None, None]).replicas for n in range(50)] == [6] * 50


@pytest.mark.parametrize(
    ("values", "missing", "wanted"),
    [
        ([100, 60], 0, 3),  # a mean of 80 over 70 on two pods: 2.29
        ([100, 60], 1, 3),  # the third counts as idle: 53 over 70 would turn it round
        ([140, 140], 1, 4),  # 93 over 70, on three pods
        ([20, 20], 1, 2),  # the third counts as at its target: 36 over 70, on three
        ([], 3, None),
    ],
)
def test_a_pods_metric_is_a_mean_and_a_pod_without_one_counts_against_the_change(
    values: list[int], missing: int, wanted: int | None
) -> None:
    reading = PodReadings(values={str(n): 1000 * value for n, value in enumerate(values)}, missing=missing)
    metric = Metric(name="demand", target=70_000, source="Pods")
    assert Hpa(spec(metric)).sync(0, pods(len(values) + missing), [reading]).proposals == (wanted,)


@pytest.mark.parametrize(
    ("select", "replicas"), [("Max", [9, 9, 9, 9, 14]), ("Min", [8, 8, 8, 8, 10]), ("Disabled", [6, 6, 6, 6, 6])]
)
def test_policies_bound_what_is_added_in_their_period(select: str, replicas: list[int]) -> None:
    up = rules(
        ScalingPolicy(kind="Pods", value=2, period_s=60),
        ScalingPolicy(kind="Percent", value=50, period_s=60),
        select=select,
    )
    hpa, current, seen = Hpa(spec(up=up)), 6, []
    for n in range(5):
        current = hpa.sync(15.0 * n, pods(current), [1_400_000]).replicas
        seen.append(current)
    assert seen == replicas


def test_a_share_is_rounded_up_on_the_way_up_and_cut_off_on_the_way_down() -> None:
    a_tenth = rules(ScalingPolicy(kind="Percent", value=10, period_s=60))
    assert Hpa(spec(up=a_tenth)).sync(0, pods(1), [1_400_000]).replicas == 2
    assert Hpa(spec(down=a_tenth)).sync(0, pods(5), [0]).replicas == 4


def test_what_was_added_in_a_period_may_be_taken_away_in_it_besides() -> None:
    hpa = Hpa(spec(down=rules(ScalingPolicy(kind="Pods", value=1, period_s=60))))
    assert hpa.sync(0, pods(4), [560_000]).replicas == 8
    assert hpa.sync(15, pods(8), [70_000]).replicas == 3  # 8 - 4 added - 1


def test_a_window_down_keeps_the_most_that_was_wanted_in_it() -> None:
    hpa, current, seen = (
        Hpa(spec(down=rules(ScalingPolicy(kind="Percent", value=100, period_s=15), window_s=60))),
        8,
        [],
    )
    for per_cent in (560, 420, 420, 140, 140, 140, 140, 140):
        current = hpa.sync(15.0 * len(seen), pods(current), [per_cent * 1000]).replicas
        seen.append(current)
    assert seen == [8, 8, 8, 8, 6, 6, 2, 2]  # the eight is forgotten at 60 s, the last six at 90


def test_a_window_up_waits_until_more_was_wanted_all_the_time() -> None:
    hpa, current, seen = Hpa(spec(up=rules(ScalingPolicy(kind="Pods", value=9, period_s=15), window_s=30))), 2, []
    for per_cent in (140, 420, 280, 420, 420):
        current = hpa.sync(15.0 * len(seen), pods(current), [per_cent * 1000]).replicas
        seen.append(current)
    assert seen == [2, 2, 4, 4, 6]


def test_without_behaviour_it_doubles_at_most_and_goes_down_after_five_minutes() -> None:
    hpa = Hpa(spec(up=None, down=None))
    assert hpa.sync(0, pods(1), [560_000]).replicas == 4
    assert hpa.sync(15, pods(4), [560_000]).replicas == 8
    assert hpa.sync(315, pods(8), [70_000]).replicas == 8
    assert hpa.sync(316, pods(8), [70_000]).replicas == 1


@pytest.mark.parametrize(("current", "replicas"), [(0, 0), (1, 3), (25, 20)])
def test_a_number_out_of_bounds_is_brought_back_at_once_but_none_at_all_is_somebodys_will(
    current: int, replicas: int
) -> None:
    assert Hpa(spec(least=3)).sync(0, pods(current), [700_000]).replicas == replicas


@pytest.mark.parametrize("seed", range(30))
def test_more_load_never_makes_fewer_pods_and_the_bounds_always_hold(seed: int) -> None:
    draw = random.Random(seed)
    given = spec(
        least=draw.randint(1, 4),
        most=draw.randint(5, 30),
        up=rules(ScalingPolicy(kind="Pods", value=draw.randint(1, 5), period_s=60), window_s=draw.choice([0, 30])),
        down=rules(
            ScalingPolicy(kind="Percent", value=draw.randint(10, 100), period_s=60), window_s=draw.choice([0, 300])
        ),
    )
    lighter, heavier = Hpa(given), Hpa(given)
    current = given.min_replicas
    for n in range(200):
        load = draw.randint(0, 3_000_000)
        less = lighter.sync(15.0 * n, pods(current), [load])
        more = heavier.sync(15.0 * n, pods(current), [load + draw.randint(0, 500_000)])
        assert less.wanted is not None
        assert more.wanted is not None
        assert less.wanted <= more.wanted
        assert less.replicas <= more.replicas
        assert given.min_replicas <= less.replicas <= given.max_replicas
        current = less.replicas
        heavier = Hpa(given, list(lighter._recommended), list(lighter._changes))
