"""Dashboards: made of their short description, whole, and asking what Prometheus understands."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import dashboards
import made_files
import pytest
import yaml
from monitoring import DASHBOARDS, FILLED, panels, promtool, queries

every_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.parent.parent.name)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_each_chart_has_the_dashboard_of_its_description() -> None:
    assert {path.parent.parent.name for path in DASHBOARDS} == set(dashboards.CHARTS.values())
    assert made_files.drifted(dashboards.written()) == [], "run python tools/dashboards.py"


def test_a_change_of_the_description_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in dashboards.SPECIFICATIONS.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text().replace("unit: percentunit", "unit: percent"))
    monkeypatch.setattr(dashboards, "SPECIFICATIONS", tmp_path)
    assert len(made_files.drifted(dashboards.written())) == 2


@every_dashboard
def test_prometheus_takes_every_query(path: Path, tmp_path: Path) -> None:
    chart = path.parent.parent.name
    rules = [
        {"record": f"query:{place}:x", "expr": query.expression, "labels": {"panel": query.panel}}
        for place, query in enumerate(queries())
        if query.source == chart
    ]
    assert len(rules) > 20
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


@every_dashboard
def test_a_dashboard_says_whose_figures_it_shows(path: Path) -> None:
    dashboard = read(path)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert "datasource" in variables
    assert {f"${name}" for name in variables - {"datasource"}} <= FILLED.keys()
    for panel in panels(dashboard):
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            for name in variables - {"datasource"}:
                if not target["expr"].startswith(("max by (horizontal", "sum by (pod) (increase(kube_")):
                    assert f"${name}" in target["expr"], f"{panel['title']}: the figures of all, whatever {name} is"


@every_dashboard
def test_every_panel_explains_itself_and_has_a_place(path: Path) -> None:
    dashboard = read(path)
    shown = panels(dashboard)
    for panel in shown:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for one, other in combinations((panel["gridPos"] for panel in dashboard["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, f"{one} and {other} overlap"
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard["panels"])
