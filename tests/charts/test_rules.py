"""Rules and alerts: Prometheus takes them, each alert fires when it should and only then, and says what to do."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from chart_rendering import ci_file, ci_files, render
from monitoring import FOREIGN, ROOT, RULES, TESTS, Rule, alerts, promtool, queries, records, rules
from promql import read

AT_ONCE = {"CsmWatermarkFails"}
"""Alerts of a count that stays above 0 for ten minutes by itself."""
every_alert = pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)


def expectations(name: str) -> list[tuple[str, int]]:
    """Of an alert: each test that asks for it, and how many of it are expected."""
    return [
        (f"{path.name}: {test['name']}", len(case["exp_alerts"]))
        for path in TESTS
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name
    ]


def test_there_are_rules_of_serving_and_of_training() -> None:
    assert {path.parent.parent.name for path in RULES} == {"csm-serving", "csm-training"}
    assert len({rule.name for rule in alerts()}) == len(alerts()), "an alert stands twice"
    assert len({rule.name for rule in records()}) == len(records()), "a recording rule stands twice"


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.parent.parent.name)
def test_prometheus_takes_the_rules(path: Path) -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def verdicts() -> dict[Path, subprocess.CompletedProcess[str]]:
    """What promtool says of each file of tests; it uses one core, so several are asked at once."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(TESTS, pool.map(lambda path: promtool("test", "rules", path), TESTS), strict=True))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(
    path: Path, verdicts: dict[Path, subprocess.CompletedProcess[str]]
) -> None:
    assert verdicts[path].returncode == 0, verdicts[path].stdout + verdicts[path].stderr


@every_alert
def test_an_alert_is_tested_firing_and_not_firing(alert: Rule) -> None:
    expected = expectations(alert.name)
    fires = {test for test, count in expected if count}
    never = {test for test, count in expected if not count} - fires
    assert fires, f"no test fires {alert.name}"
    assert never, f"no test has a state in which {alert.name} never fires; the moment before it fires is not enough"


def test_no_test_asks_for_an_alert_that_is_not_there() -> None:
    names = {alert.name for alert in alerts()}
    for path in TESTS:
        asked = set(re.findall(r"alertname: (\w+)", path.read_text(encoding="utf-8")))
        assert asked <= names, f"{path.name}: {asked - names}"


@every_alert
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert: Rule) -> None:
    assert re.fullmatch(r"Csm([A-Z][a-z]+)+", alert.name)
    assert alert.written["labels"]["severity"] in ("critical", "warning")
    assert alert.written.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert ("for" in alert.written) != (alert.name in AT_ONCE)
    notes = alert.written["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert "$value" in notes["description"], "the value is part of what is wrong"
    assert not re.search(r"[.:]$", notes["summary"])
    assert notes["description"].endswith(".")
    assert notes["runbook_url"] == f"docs/runbooks/{alert.name}.md"
    assert (ROOT / notes["runbook_url"]).is_file()


@pytest.mark.parametrize("rule", records(), ids=lambda rule: rule.name)
def test_a_recording_rule_is_named_by_level_metric_and_operation_and_is_used(rule: Rule) -> None:
    """https://prometheus.io/docs/practices/rules"""
    level, metric, _operation = rule.name.split(":")
    assert re.fullmatch(r"track|pod|training|step", level)
    assert re.fullmatch(r"csm(_[a-z0-9]+)+", metric)
    users = [other for other in rules() if rule.name in read(other.expression).names]
    users += [query for query in queries() if rule.name in read(query.expression).names]
    assert users, f"nothing uses {rule.name}"


@pytest.mark.parametrize("rule", [rule for rule in rules() if rule.chart == "csm-serving"], ids=lambda rule: rule.name)
def test_a_rule_of_serving_can_be_narrowed_to_one_release(rule: Rule) -> None:
    """The chart writes its own release in place of the matcher, so no metric that has the label may be without it."""
    for selector in read(rule.expression).selectors:
        if selector.name == "up" or selector.name not in FOREIGN:
            assert selector.matchers.get("release") == ("!=", ""), selector.name
            assert re.search(rf'{selector.name}\{{release!=""', rule.expression)


def test_the_chart_narrows_its_rules_to_its_own_release() -> None:
    objects = render("csm-serving", ci_file("csm-serving", "keda"), release="tts", namespace="speech")
    (made,) = (thing for thing in objects if thing["kind"] == "PrometheusRule")
    found = [rule for group in made["spec"]["groups"] for rule in group["rules"]]
    assert [rule.get("record") or rule["alert"] for rule in found] == [
        rule.name for rule in rules() if rule.chart == "csm-serving"
    ]
    named = {"Deployment": "", "ScaledObject": "keda-hpa-"}
    names = [named[thing["kind"]] + thing["metadata"]["name"] for thing in objects if thing["kind"] in named]
    for selector in (selector for rule in found for selector in read(rule["expr"]).selectors):
        if selector.name == "up" or selector.name not in FOREIGN:
            assert selector.matchers["release"] == ("=", "tts")
        if not selector.name.startswith("keda_"):  # its label of the namespace depends on how it is scraped
            assert selector.matchers["namespace"] == ("=", "speech")
        for sign, pattern in selector.matchers.values():
            if "serving" in pattern:
                assert sign == "=~"
                assert all(re.fullmatch(pattern, name) for name in [*names, f"{names[0]}-6f9c-x2k"])
                assert not re.fullmatch(pattern, "other-serving")


@pytest.mark.parametrize("chart", ["csm-serving", "csm-training"])
def test_links_to_runbooks_lead_where_they_are_published(chart: str) -> None:
    values = {"monitoring.prometheusRule": {"enabled": True, "runbooks": "https://wiki.example.org/csm/"}}
    (made,) = (thing for thing in render(chart, ci_files(chart)[0], set=values) if thing["kind"] == "PrometheusRule")
    links = [
        rule["annotations"]["runbook_url"]
        for group in made["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert links == [
        f"https://wiki.example.org/csm/{rule.name}.md" for rule in rules() if rule.is_alert and rule.chart == chart
    ]


def test_every_foreign_metric_is_used() -> None:
    asked = {name for rule in rules() for name in read(rule.expression).names}
    asked |= {name for query in queries() for name in read(query.expression).names}
    assert FOREIGN.keys() - asked == set()
