"""The rules, alerts and dashboards of the charts, and what each of them asks for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
RULES = sorted(ROOT.glob("charts/*/files/rules.yaml"))
DASHBOARDS = sorted(ROOT.glob("charts/*/files/dashboard.json"))
TESTS = sorted((MONITORING / "tests").glob("*.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
FOREIGN: dict[str, dict[str, Any]] = yaml.safe_load((MONITORING / "foreign_metrics.yaml").read_text(encoding="utf-8"))
FILLED = {
    "$__rate_interval": "5m",
    "$namespace": "speech",
    "$release": "csm",
    "$pipeline": "nightly",
    "$model": "demo",
}
"""What a dashboard's variables are filled with; runbooks use the same names."""


def promtool(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Prometheus's own tool, or skips where it is not here."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not here; it is in Debian's package prometheus")
    return subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Rule:
    """A recording rule or an alert."""

    chart: str
    group: str
    written: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it records, or the alert's name."""
        return str(self.written.get("record") or self.written["alert"])

    @property
    def is_alert(self) -> bool:
        """Whether it alerts."""
        return "alert" in self.written

    @property
    def expression(self) -> str:
        """Its PromQL."""
        return str(self.written["expr"])


@dataclass(frozen=True)
class Query:
    """An expression of a panel, with the dashboard's variables filled in, or of a runbook."""

    source: str
    """The chart, or the runbook."""
    panel: str
    expression: str


@cache
def rules() -> list[Rule]:
    """Every rule of every chart."""
    return [
        Rule(path.parent.parent.name, group["name"], rule)
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def alerts() -> list[Rule]:
    """Every alert."""
    return [rule for rule in rules() if rule.is_alert]


def records() -> list[Rule]:
    """Every recording rule."""
    return [rule for rule in rules() if not rule.is_alert]


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A dashboard's panels, without the titles of its rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@cache
def queries() -> list[Query]:
    """Every query of every dashboard: of the panels, the annotations and the variables."""
    return [query for path in DASHBOARDS for query in _queries(path)]


def _queries(path: Path) -> Iterator[Query]:
    chart = path.parent.parent.name
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(chart, panel["title"], filled(target["expr"]))
    for annotation in dashboard["annotations"]["list"]:
        yield Query(chart, annotation["name"], filled(annotation["expr"]))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
            yield Query(chart, f"${variable['name']}", f"count by ({label}) ({filled(series)})")


@cache
def runbook_queries() -> list[Query]:
    """Every query of every runbook: the lines of its blocks of `promql`."""
    blocks = re.compile(r"^```promql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        Query(path.stem, path.stem, line)
        for path in sorted(RUNBOOKS.glob("Csm*.md"))
        for block in blocks.findall(path.read_text(encoding="utf-8"))
        for line in block.splitlines()
    ]


def filled(expression: str) -> str:
    """An expression of a dashboard with values in place of its variables."""
    for variable, value in FILLED.items():
        expression = expression.replace(variable, value)
    return expression


def unknown(expression: str, known: Mapping[str, set[str]]) -> list[str]:
    """What an expression asks for that is not there: metrics, and labels that none of its metrics has.

    Args:
        expression: PromQL.
        known: the labels of each metric, those of its target and of recording rules among them.
    """
    asked = promql.read(expression)
    problems = [f"no metric {name}" for name in sorted(asked.names - known.keys())]
    for selector in asked.selectors:
        missing = selector.matchers.keys() - known.get(selector.name, selector.matchers.keys())
        problems += [f"{selector.name} has no label {label}" for label in sorted(missing)]
    somewhere: set[str] = set().union(*(known.get(name, set()) for name in asked.names))
    problems += [f"no metric of it has a label {label}" for label in sorted(asked.labels - somewhere)]
    return problems
