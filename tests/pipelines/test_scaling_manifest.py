"""What is read of a rendered chart, what is refused, and the traces that are made or come from a file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rendering import ci_file, render
from typer.testing import CliRunner

from csm_cli.cli import app
from csm_model.errors import ArtifactError, InputError
from csm_scaling.manifest import read_manifest
from csm_scaling.pods import Server
from csm_scaling.quantity import thousandths
from csm_scaling.signals import NAMES, quantile, signal_of
from csm_scaling.trace import Trace, made, read_trace

ROOT = Path(__file__).parents[2]


def manifest(kind: str = "keda", feature: str = "default", **changes: Any) -> str:
    """The rendered chart as text; `changes` are values, with `__` for dots."""
    given = {name.replace("__", "."): value for name, value in changes.items()}
    return yaml.safe_dump_all(
        render("csm-serving", ci_file("csm-serving", feature), set=given | {"autoscaling.kind": kind})
    )


def test_the_server_is_the_deployments() -> None:
    found = read_manifest(manifest(serving__slots=12, serving__queue=3, drain__preStopSeconds=7), start_s=45)
    assert found.server == Server(
        slots=12, queue=3, start_s=45, pre_stop_s=7.0, exit_timeout_s=150.0, grace_s=7.0 + 150.0 + 15.0
    )


def test_keda_and_adapter_ask_for_the_same() -> None:
    keda, hpa = (read_manifest(manifest(kind), start_s=60) for kind in ("keda", "hpa"))
    assert keda.signals == hpa.signals == ("demand", "first audio")
    assert [(m.kind, m.target) for m in keda.hpa.metrics] == [(m.kind, m.target) for m in hpa.hpa.metrics]
    assert (keda.hpa.up, keda.hpa.down) == (hpa.hpa.up, hpa.hpa.down)
    assert hpa.keda is None
    assert [metric.name for metric in hpa.hpa.metrics] == list(NAMES)


def test_the_adapters_rules_make_of_the_names_what_the_simulator_takes_them_for() -> None:
    values = yaml.safe_load((ROOT / "deploy/monitoring/prometheus-adapter.yaml").read_text())
    rules = {rule["name"]["as"]: rule["metricsQuery"] for rule in values["rules"]["external"]}
    assert {name: signal_of(query) for name, query in rules.items()} == NAMES


def test_beside_a_canary_the_stable_track_is_the_one_that_is_scaled() -> None:
    found = read_manifest(manifest("keda", "canary"), start_s=60)
    assert found.signals == ("demand", "first audio")
    assert 'track="stable"' in found.queries[0]


def edited(kind: str, path: str, value: Any) -> str:
    """The manifest with one place of the object of a kind changed; None takes it out."""
    objects = copy.deepcopy(render("csm-serving", ci_file("csm-serving", "default")))
    place: Any = next(value for value in objects if value["kind"] == kind)
    *above, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in above:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return yaml.safe_dump_all(objects)


POD = "spec.template.spec.containers.0"


def refusal(text: str) -> str:
    """What is said against a manifest, in one line."""
    with pytest.raises((InputError, ArtifactError)) as caught:
        read_manifest(text, start_s=60)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_manifest_without_an_autoscaler_is_refused() -> None:
    assert "not YAML" in refusal("a: [")
    assert "neither a ScaledObject nor a HorizontalPodAutoscaler" in refusal("")
    assert "neither a ScaledObject" in refusal(manifest("none"))


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("ScaledObject", "spec.scaleTargetRef.name", "other", "no Deployment 'other'"),
        ("ScaledObject", "spec.triggers.0.metadata.query", "sum(up)", "'sum(up)': must be one of"),
        ("ScaledObject", "spec.triggers.0.metadata.threshold", "seventy", "quantity 'seventy'"),
        ("ScaledObject", "spec.triggers.0.type", "cron", "type 'cron'"),
        ("ScaledObject", "spec.triggers", None, "'triggers' is missing"),
        ("ScaledObject", "spec.triggers", [1], "not as its schema has it"),
        ("ScaledObject", "spec.idleReplicaCount", 0, "idleReplicaCount is not simulated"),
        ("Deployment", f"{POD}.lifecycle.preStop", {"exec": {"command": ["true"]}}, "must be a sleep"),
    ],
)
def test_what_is_not_understood_is_said_and_not_guessed(kind: str, path: str, value: Any, said: str) -> None:
    assert said in refusal(edited(kind, path, value))


def test_of_several_autoscalers_one_is_named() -> None:
    objects = render("csm-serving", ci_file("csm-serving", "default"))
    second = copy.deepcopy(next(value for value in objects if value["kind"] == "ScaledObject"))
    second["metadata"]["name"] = "second"
    text = yaml.safe_dump_all([*objects, second])
    with pytest.raises(InputError, match="several autoscalers"):
        read_manifest(text, start_s=60)
    assert read_manifest(text, start_s=60, name="second").name == "second"


@pytest.mark.parametrize(
    ("text", "found"),
    [("0.7", 700), ("700m", 700), (70, 70_000), ("1.5k", 1_500_000), ("0.0001", 1), ("2Ki", 2048_000)],
)
def test_quantities_are_whole_thousandths_rounded_up(text: str | float, found: int) -> None:
    assert thousandths(text) == found


@pytest.mark.parametrize("text", ["", "-1", "0.7x", "nan"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="quantity"):
        thousandths(text)


def test_a_query_is_known_whatever_its_selectors_and_blanks() -> None:
    assert (
        signal_of('100 * sum(csm_live_streams{a="b"}+csm_queued_streams{a="b"})/max( csm_stream_slots{a="b"} )')
        == "demand"
    )


def test_a_percentile_lies_within_its_bucket_as_prometheus_has_it() -> None:
    assert quantile(0.5, (1.0, 2.0), [2, 2, 0]) == 1.0
    assert quantile(0.75, (1.0, 2.0), [2, 2, 0]) == 1.5
    assert quantile(0.95, (1.0, 2.0), [0, 0, 4]) == 2.0


def test_a_trace_goes_to_a_file_and_back(tmp_path: Path) -> None:
    for shape in ("step", "ramp", "day", "burst"):
        trace = made(shape, peak=40, length_s=8)
        assert max(trace.offered(row[0]) for row in trace.rows) == pytest.approx(40, rel=1e-3)
        trace.write(tmp_path / f"{shape}.csv")
        read = read_trace(tmp_path / f"{shape}.csv")
        assert read.kind == trace.kind
        assert read.rows == tuple(pytest.approx(row) for row in trace.rows)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line is ''"),
        ("a,b\n1,2\n", "its first line is 'a,b'"),
        ("seconds,arrivals_per_second,mean_stream_seconds\n0,1,8\n", "two rows at least"),
        ("seconds,arrivals_per_second,mean_stream_seconds\n5,1,8\n9,1,8\n", "must be at 0"),
        ("seconds,arrivals_per_second,mean_stream_seconds\n0,1,8\n0,1,8\n", "times must rise"),
        ("seconds,arrivals_per_second,mean_stream_seconds\n0,-1,8\n9,1,8\n", "loads must be 0 or more"),
        ("seconds,arrivals_per_second,mean_stream_seconds\n0,1,0\n9,1,8\n", "lengths above 0"),
        ("seconds,arrivals_per_second,mean_stream_seconds\n0,one,8\n", "line 2 is '0,one,8'"),
        ("seconds,concurrent_streams,mean_stream_seconds\n0,1.5,8\n9,1,8\n", "must be a whole number"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_trace(tmp_path / "trace.csv")
    assert said in str(caught.value)


def command(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, ["scale-sim", *arguments], input=stdin)


def test_the_command_reads_a_pipe_draws_and_tells(tmp_path: Path) -> None:
    found = command(
        *("--manifest", "-", "--trace", "burst", "--peak", "20", "--pod-cost", "2"),
        *("--metrics-outage", "700:900", "--out", str(tmp_path / "out")),
        stdin=manifest(),
    )
    assert found.exit_code == 0, found.output
    assert "replica-hours" in found.output
    assert (tmp_path / "out/scaling.png").read_bytes().startswith(b"\x89PNG")
    rows = (tmp_path / "out/scaling.csv").read_text().splitlines()
    assert rows[0].startswith("seconds,offered,live,queued,capacity")
    assert len(rows) == 1 + 4200 / 15 + 1
    figures = json.loads((tmp_path / "out/scaling.json").read_text())
    assert figures["cost"] == pytest.approx(2 * figures["replica_hours"])


def test_the_command_fails_where_too_many_are_refused(tmp_path: Path) -> None:
    (tmp_path / "chart.yaml").write_text(manifest())
    Trace(kind="concurrent_streams", rows=((0, 8, 5), (60, 200, 5), (300, 200, 5))).write(tmp_path / "load.csv")
    given = ("--manifest", str(tmp_path / "chart.yaml"), "--trace", str(tmp_path / "load.csv"))
    assert command(*given).exit_code == 0
    assert command(*given, "--max-refused", "0.01").exit_code == 1
    told = command(*given, "--max-refused", "1", "--json")
    assert told.exit_code == 0
    assert 0.01 < json.loads(told.stdout)["refused_share"] < 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--manifest", "/nowhere.yaml"], "--manifest /nowhere.yaml: cannot be read"),
        (["--trace", "square"], "square: cannot be read"),
        (["--slots", "0"], "--slots 0: must be 1 or more"),
        (["--start-seconds", "-1"], "--start-seconds -1: must be 0 or more"),
        (["--metrics-outage", "900"], "--metrics-outage '900'"),
        (["--metrics-outage", "900:600"], "outage 900:600"),
        (["--metrics-outage", "1:2:odd"], "--metrics-outage '1:2:odd'"),
        (["--balancer", "fair"], "--balancer 'fair'"),
        (["--peak", "0"], "must be above 0"),
        (["--first-audio", "0"], "must be above 0"),
        (["--name", "other"], "no autoscaler 'other'"),
    ],
)
def test_a_bad_value_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "chart.yaml").write_text(manifest())
    found = command("--manifest", str(tmp_path / "chart.yaml"), *arguments)
    assert isinstance(found.exception, InputError), found.output
    assert said in str(found.exception)
    assert "\n" not in str(found.exception)
