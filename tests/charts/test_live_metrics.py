"""What rules, alerts and dashboards ask for is there: a real Prometheus scrapes a real Triton, and a gateway to which a
training and the pipeline's steps have pushed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from urllib.parse import urlsplit

import pytest
from monitoring import FILLED, FOREIGN, Query, Rule, queries, rules, runbook_queries, unknown
from promql import read
from pushgateway import Pushgateway
from random_bundles import random_bundle
from watching import Prometheus

from csm_components.evaluate.outcome import EvaluateResult
from csm_components.metrics import TrainingMetrics, push_failure, push_success
from csm_components.register.step import RegisterResult
from csm_serving.client import SpeechClient
from csm_serving.launcher.triton import LocalTriton
from csm_serving.server import metrics as serving
from csm_serving.settings import load_settings

RELEASE = {"namespace": FILLED["$namespace"], "release": FILLED["$release"]}
TRACKS = ({"track": "stable", "pod": "csm-serving-1"}, {"track": "canary", "pod": "csm-serving-canary-1"})
"""The labels of a scrape; one server stands for both tracks."""
LINE = {
    "step": 10.0, "steps": 100.0, "skipped_steps": 0.0, "learning_rate": 1e-4, "gradient_norm": 1.0, "mfu": 0.4,
    "step_seconds": 1.0, "rows_per_second": 900.0, "frames_per_second": 150.0, "padding": 0.01, "memory_bytes": 2e9,
    "flops_per_second": 1e12, "loss": 2.5, "loss_first": 2.4, "loss_depth": 2.6, "loss_text": 2.0,
    "accuracy_first": 0.3, "loss_codebook_00": 2.4, "validation_first": 2.5, "validation_depth": 2.7,
    "validation_accuracy": 0.3,
}  # fmt: skip
"""A line of figures as a trainer writes it."""
ASKERS = [*rules(), *queries(), *runbook_queries()]
SEEN_BEFORE = (f"count(csm_frames_total) == {len(TRACKS)}", "csm_training_step")
"""A counter grows only from a value that was scraped, of each track."""
SEEN_AFTER = ("rate(csm_first_audio_seconds_count[1m]) > 0", "delta(csm_training_step[1m]) > 0")
LAST_OF_GROUPS = (
    "count(track:csm_streams_failed:ratio_rate10m) == 2",
    "count(track:csm_real_time_factor:ratio_rate5m) == 2",
    "count(track:csm_frames:increase1h > 0) == 2",
    "training:csm_training_rows_per_second:median6h",
    "step:csm_step_failed:bool",
)
"""What the last recording rule of each group gives, of both tracks."""
NOTHING_NOW = {"Alerts"}
"""Panels that show nothing where all is well."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Has seen a server speak, a training go on, and steps end."""
    folder = tmp_path_factory.mktemp("watched")
    settings = load_settings(
        grpc_port=0, http_port=0, metrics_port=0, slots=2, frame_budget=0, ready_timeout_s=300, exit_timeout_s=5
    )
    with Pushgateway() as gateway, LocalTriton(random_bundle(folder), settings=settings) as triton:
        push(gateway, LINE)
        server = urlsplit(triton.metrics_url).netloc
        tracks = [{"targets": [server], "labels": RELEASE | track} for track in TRACKS]
        pushed = {"job_name": "pushgateway", "honor_labels": True, "static_configs": [{"targets": [gateway.netloc]}]}
        with Prometheus(folder, [{"job_name": "csm-serving", "static_configs": tracks}, pushed]) as watching:
            for before in SEEN_BEFORE:
                watching.until(before)
            with SpeechClient(triton.url) as client:
                client.say("Good morning.", max_frames=20)
            push(gateway, LINE | {"step": 20.0})
            for after in (*SEEN_AFTER, *LAST_OF_GROUPS):
                watching.until(after)
            yield watching


def push(gateway: Pushgateway, line: Mapping[str, float]) -> None:
    """Pushes what a training and the steps of a pipeline push."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CSM_PUSHGATEWAY", f"http://{gateway.netloc}")
        environment.setenv("CSM_PIPELINE", FILLED["$pipeline"])
        environment.setenv("CSM_MODEL", FILLED["$model"])
        training = TrainingMetrics()
        training.update(line | {"time": time.time(), "saved": time.time()})
        training.push()
        push_failure("evaluate")
        push_success("evaluate", 60.0, {field.name: 0.1 for field in fields(EvaluateResult)})
        push_success("register", 1.0, {field.name: True for field in fields(RegisterResult)})


@pytest.fixture(scope="module")
def known(prometheus: Prometheus) -> dict[str, set[str]]:
    """The labels of every metric that there is, here or elsewhere."""
    return prometheus.labels() | {name: set(metric["labels"]) for name, metric in FOREIGN.items()}


def test_every_metric_of_serving_is_scraped_with_the_labels_of_its_track(known: Mapping[str, set[str]]) -> None:
    for spec in serving.ALL:
        labels = known[f"{spec.name}_bucket" if spec.buckets else spec.name]
        assert labels >= {"namespace", "release", "track", "pod", "version"}, spec.name
        assert not spec.label or spec.label in labels, spec.name


@pytest.mark.parametrize("asker", ASKERS, ids=lambda asker: getattr(asker, "name", None) or asker.panel)
def test_what_is_asked_for_is_there(asker: Rule | Query, prometheus: Prometheus, known: Mapping[str, set[str]]) -> None:
    assert unknown(asker.expression, known) == []
    for selector in read(asker.expression).selectors:
        if selector.name not in FOREIGN:
            matchers = ",".join(f'{name}{sign}"{value}"' for name, (sign, value) in selector.matchers.items())
            assert prometheus.ask(f"count({selector.name}{{{matchers}}})"), f"no series of {selector}"


def test_prometheus_works_every_rule_out(prometheus: Prometheus) -> None:
    worked = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in worked} == {rule.name for rule in rules()}
    assert [rule for rule in worked if rule["health"] != "ok" or rule.get("lastError")] == []


@pytest.mark.parametrize("query", [*queries(), *runbook_queries()], ids=lambda query: query.panel)
def test_a_panel_shows_something(query: Query, prometheus: Prometheus) -> None:
    """Series that do not fit each other are an error only when they are there."""
    shown = prometheus.ask(query.expression)
    assert shown or query.panel in NOTHING_NOW or read(query.expression).names <= FOREIGN.keys()
