"""What scales csm-serving: the questions to Prometheus, busy, quiet and blind; the arithmetic of KEDA and HPA."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rendering import ROOT, ci_file, of_kind, only, read_yaml, refusal, render

CHART = "csm-serving"
DEFAULT = ci_file(CHART, "default")
SELECTOR = 'namespace="csm",release="csm"'
DEMAND = (
    f"100 * sum(csm_live_streams{{{SELECTOR}}} + csm_queued_streams{{{SELECTOR}}})"
    f" / max(csm_stream_slots{{{SELECTOR}}})"
)
FIRST_AUDIO = (
    "1000 * histogram_quantile(0.95, sum by (le) "
    f"(rate(csm_first_audio_seconds_bucket{{{SELECTOR}}}[2m]))) >= 0 or 0 * max(csm_stream_slots{{{SELECTOR}}})"
)


def scaled(*files: Path, **values: Any) -> dict[str, Any]:
    """The ScaledObject's spec."""
    spec: dict[str, Any] = only(render(CHART, *(files or (DEFAULT,)), set=values), "ScaledObject")["spec"]
    return spec


def triggers(*files: Path, **values: Any) -> dict[str, dict[str, Any]]:
    return {trigger["name"]: trigger for trigger in scaled(*files, **values)["triggers"]}


def series(**changes: str) -> list[dict[str, str]]:
    """Two pods of eight slots, scraped every 15 s for 5 min: nobody calls, unless `changes` says so."""
    quiet = {"csm_live_streams": "0x20", "csm_queued_streams": "0x20", "csm_stream_slots": "8x20"}
    bounds = {"0.1": "0x20", "0.2": "0x20", "0.4": "0x20", "0.8": "0x20", "+Inf": "0x20"}
    lines = []
    for pod in ("a", "b"):
        labels = f'{SELECTOR},track="stable",pod="{pod}",version="1"'
        lines += [(f"{name}{{{labels}}}", changes.get(name, values)) for name, values in quiet.items()]
        for bound, values in bounds.items():
            name = f'csm_first_audio_seconds_bucket{{{labels},le="{bound}"}}'
            lines.append((name, changes.get(f"le_{bound}", values)))
    return [{"series": name, "values": values} for name, values in lines if values]


def answers(tmp_path: Path, input_series: list[dict[str, str]], query: str, expected: list[float]) -> None:
    """Has promtool put the query to these series; an empty list is no answer, which KEDA takes for an error."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    samples = [{"labels": "{}", "value": value} for value in expected]
    test = {
        "interval": "15s",
        "input_series": input_series,
        "promql_expr_test": [{"expr": query, "eval_time": "5m", "exp_samples": samples}],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_questions_are_these() -> None:
    found = triggers()
    assert found["demand"]["metadata"]["query"] == DEMAND
    assert found["first-audio"]["metadata"]["query"] == FIRST_AUDIO
    assert (found["demand"]["metricType"], found["first-audio"]["metricType"]) == ("AverageValue", "Value")


def test_streams_that_live_and_wait_are_the_demand(tmp_path: Path) -> None:
    busy = series(csm_live_streams="8x20", csm_queued_streams="2x20")
    answers(tmp_path, busy, DEMAND, [100 * 20 / 8])


def test_a_version_that_drains_beside_a_new_one_adds_its_streams_and_no_slots(tmp_path: Path) -> None:
    labels = f'{SELECTOR},track="stable",pod="a",version="2"'
    more = [("csm_live_streams", "3x20"), ("csm_queued_streams", "0x20"), ("csm_stream_slots", "8x20")]
    swapped = series(csm_live_streams="2x20")
    swapped += [{"series": f"{name}{{{labels}}}", "values": values} for name, values in more]
    answers(tmp_path, swapped, DEMAND, [100 * 7 / 8])


def test_another_release_is_not_counted(tmp_path: Path) -> None:
    labels = 'namespace="csm",release="other",track="stable",pod="c",version="1"'
    names = ("csm_live_streams", "csm_queued_streams", "csm_stream_slots")
    others = [{"series": f"{name}{{{labels}}}", "values": "99x20"} for name in names]
    answers(tmp_path, series() + others, DEMAND, [0])


def test_the_first_sound_counts_while_somebody_calls(tmp_path: Path) -> None:
    """Twelve in a minute, all between 0.4 and 0.8 s: the quantile lies at 95 % of that bucket."""
    slow = series(**{"le_0.8": "0+3x20", "le_+Inf": "0+3x20"})
    answers(tmp_path, slow, FIRST_AUDIO, [400 + 0.95 * 400])


def test_without_traffic_the_first_sound_asks_for_nothing_and_is_no_error(tmp_path: Path) -> None:
    """The quantile alone is NaN, which KEDA refuses and older ones turned into a number without sense."""
    answers(tmp_path, series(), FIRST_AUDIO, [0])
    answers(tmp_path, series(csm_live_streams="8x20"), FIRST_AUDIO, [0])


def test_servers_that_have_just_come_ask_for_nothing(tmp_path: Path) -> None:
    """A rate needs two scrapes."""
    once = [{"series": line["series"], "values": "_x19 " + line["values"].split("x")[0]} for line in series()]
    answers(tmp_path, once, FIRST_AUDIO, [0])
    answers(tmp_path, once, DEMAND, [0])


@pytest.mark.parametrize("query", [DEMAND, FIRST_AUDIO], ids=["demand", "first-audio"])
def test_without_data_there_is_no_answer(query: str, tmp_path: Path) -> None:
    """No zero: an error, at which the pods stay or KEDA falls back."""
    lost = [{**line, "values": f"{line['values']} stale"} for line in series()]
    lost = [{**line, "values": line["values"].replace("x20 ", "x15 ")} for line in lost]
    answers(tmp_path, lost, query, [])
    answers(tmp_path, [{"series": "up", "values": "0x20"}], query, [])


def test_missing_data_is_an_error_and_never_a_zero() -> None:
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in triggers().values()} == {"false"}
    spec = scaled()
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 3, "behavior": "currentReplicasIfHigher"}
    assert spec["minReplicaCount"] == 2
    assert "idleReplicaCount" not in spec, "pods that are not there count no streams, so nothing would wake them"


@pytest.mark.parametrize("target", [0.05, 0.33, 0.57, 0.58, 0.7, 1])
def test_keda_falls_back_to_as_many_pods_as_are_asked_for(target: float) -> None:
    """KEDA answers with the whole part of the target times the replicas; the HPA divides by the target."""
    spec = scaled(**{"autoscaling.target": target, "autoscaling.fallbackReplicas": 7})
    threshold = float(triggers(**{"autoscaling.target": target})["demand"]["metadata"]["threshold"])
    assert threshold == round(100 * target)
    answer = int(threshold) * spec["fallback"]["replicas"]
    assert math.ceil(answer / threshold) == 7


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(0.01, "10"), (0.4, "400"), (0.285, "285"), (1.001, "1001"), (2, "2000")]
)
def test_the_target_of_the_first_sound_is_whole(seconds: float, milliseconds: str) -> None:
    found = triggers(**{"autoscaling.firstAudioSeconds": seconds})["first-audio"]
    assert found["metadata"]["threshold"] == milliseconds


def test_pods_come_fast_and_go_one_by_one() -> None:
    behavior = scaled()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 120, "the longest stream"
    for side in ("scaleUp", "scaleDown"):
        assert behavior[side]["selectPolicy"] == "Max"


def test_a_horizontal_pod_autoscaler_is_asked_for_the_same() -> None:
    spec = only(render(CHART, DEFAULT, set={"autoscaling.kind": "hpa"}), "HorizontalPodAutoscaler")["spec"]
    keda = scaled()
    assert spec["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    demand, first_audio = (metric["external"] for metric in spec["metrics"])
    assert demand["target"] == {"type": "AverageValue", "averageValue": "70"}
    assert first_audio["target"] == {"type": "Value", "value": "400"}
    for metric, name in ((demand, "csm_demand_percent"), (first_audio, "csm_first_audio_p95_milliseconds")):
        assert metric["metric"] == {"name": name, "selector": {"matchLabels": {"release": "csm"}}}


def test_the_adapter_asks_the_same() -> None:
    rules = read_yaml(ROOT / "deploy" / "monitoring" / "prometheus-adapter.yaml")["rules"]["external"]
    found = {rule["name"]["as"]: rule["metricsQuery"] for rule in rules}
    assert found == {
        "csm_demand_percent": DEMAND.replace(SELECTOR, "<<.LabelMatchers>>"),
        "csm_first_audio_p95_milliseconds": FIRST_AUDIO.replace(SELECTOR, "<<.LabelMatchers>>"),
    }
    for rule in rules:
        series = rule["seriesQuery"].partition("{")[0]
        assert rule["name"]["matches"] == f"^{series}$"


@pytest.mark.parametrize(
    ("kind", "made"), [("keda", ["ScaledObject"]), ("hpa", ["HorizontalPodAutoscaler"]), ("none", [])]
)
def test_one_thing_scales_the_pods(kind: str, made: list[str]) -> None:
    things = render(CHART, DEFAULT, set={"autoscaling.kind": kind})
    kinds = [thing["kind"] for thing in things if thing["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    assert kinds == made
    (deployment,) = of_kind(things, "Deployment")
    assert ("replicas" in deployment["spec"]) is (kind == "none")


def test_while_a_canary_runs_the_stable_track_alone_is_counted() -> None:
    found = triggers(ci_file(CHART, "canary"))
    for trigger in found.values():
        query = trigger["metadata"]["query"]
        assert query.count('release="csm"') == query.count('release="csm",track="stable"')
    spec = only(render(CHART, ci_file(CHART, "dark-canary")), "HorizontalPodAutoscaler")["spec"]
    selectors = [metric["external"]["metric"]["selector"]["matchLabels"] for metric in spec["metrics"]]
    assert selectors == [{"release": "csm", "track": "stable"}] * 2


def test_keda_may_have_to_say_who_it_is() -> None:
    found = triggers(ci_file(CHART, "keda"))
    assert {trigger["authenticationRef"]["name"] for trigger in found.values()} == {"thanos"}
    assert not any("authenticationRef" in trigger for trigger in triggers().values())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"autoscaling.maxReplicas": 1}, "autoscaling.maxReplicas is 1, less than autoscaling.minReplicas, 2: set it to 2"),
    ({"autoscaling.fallbackReplicas": 1}, "autoscaling.fallbackReplicas is 1: set it from autoscaling.minReplicas, 2"),
    ({"autoscaling.fallbackReplicas": 11}, "to autoscaling.maxReplicas, 10"),
    ({"autoscaling.scaleDown.stabilizationSeconds": 60}, "less than serving.longestStreamSeconds, 120: set it to 120"),
    ({"autoscaling.minReplicas": 0}, "/autoscaling/minReplicas"),
    ({"autoscaling.target": 0}, "/autoscaling/target"),
    ({"autoscaling.target": 0.705}, "/autoscaling/target"),
    ({"autoscaling.prometheusAddress": "prometheus:9090"}, "/autoscaling/prometheusAddress"),
]


@pytest.mark.parametrize(("values", "said"), REFUSED, ids=[json.dumps(values) for values, _ in REFUSED])
def test_numbers_that_do_not_go_together_are_refused(values: dict[str, Any], said: str) -> None:
    assert said in refusal(CHART, DEFAULT, set=values)
