"""Grafana dashboards from short YAML: rows of panels, each with a title, a description, a unit and its queries.

python tools/dashboards.py            writes the charts' files/dashboard.json
python tools/dashboards.py --check    says which would change, and ends with 1 where one would

A specification (`deploy/monitoring/dashboards/*.yaml`) has `uid`, `title`, `description`, `scope` (the matchers that
stand for SCOPE in its queries), `variables` (name: the query of its values), `alerts` (matchers of the alerts that are
drawn into every panel) and `rows`. A panel is a time series of a third of the width unless it says otherwise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from made_files import write_or_check

ROOT = Path(__file__).resolve().parent.parent
SPECIFICATIONS = ROOT / "deploy" / "monitoring" / "dashboards"
CHARTS = {"serving": "csm-serving", "training": "csm-training"}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_HEIGHTS = {"stat": 4, "timeseries": 8, "heatmap": 8}
_WIDTHS = {"stat": 4, "timeseries": 8, "heatmap": 8}


def dashboard(specification: dict[str, Any]) -> dict[str, Any]:
    """The dashboard of a specification, in Grafana's model."""
    return {
        "uid": specification["uid"],
        "title": specification["title"],
        "description": specification["description"],
        "tags": ["csm-foundry"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair over all panels
        "refresh": "30s",
        "time": {"from": specification.get("from", "now-3h"), "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_alerts(specification["alerts"])]},
        "templating": {"list": [_datasource(), *map(_variable, specification["variables"].items())]},
        "panels": _panels(specification),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(item: tuple[str, str]) -> dict[str, Any]:
    name, query = item
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # whenever the range of time changes
        "sort": 1,
        "includeAll": False,
        "multi": False,
        "hide": 0,
    }


def _alerts(matchers: str) -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f'ALERTS{{alertstate="firing",{matchers}}}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{pod}} {{track}} {{step}}",
        "step": "60s",
    }


def _panels(specification: dict[str, Any]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    top = 0
    for row in specification["rows"]:
        position = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row["title"], "collapsed": False, "gridPos": position}
            | {"panels": []}
        )
        top, left, tallest = top + 1, 0, 0
        for panel in row["panels"]:
            kind = panel.get("type", "timeseries")
            width, height = panel.get("width", _WIDTHS[kind]), _HEIGHTS[kind]
            if left + width > _COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            position = {"h": height, "w": width, "x": left, "y": top}
            panels.append(_panel(panel, kind, len(panels) + 1, position, specification["scope"]))
            left, tallest = left + width, max(tallest, height)
        top += tallest
    return panels


def _panel(panel: dict[str, Any], kind: str, number: int, position: dict[str, int], scope: str) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "title": panel["title"],
        "description": panel["description"],
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": _field(panel, kind), "overrides": []},
        "options": _OPTIONS[kind],
        "targets": [
            _target(place, query, kind, scope, legend=panel.get("legend", ""))
            for place, query in enumerate(panel["queries"])
        ],
    }


def _field(panel: dict[str, Any], kind: str) -> dict[str, Any]:
    """How values are shown; `bound` is drawn as a line, from which on (`below`: up to which) it is red."""
    bad, good = {"color": "red"}, {"color": "green"}
    if panel.get("below"):
        bad, good = good, bad
    bound = panel.get("bound")
    steps = [{**good, "value": None}] + ([{**bad, "value": bound}] if bound is not None else [])
    field = {
        "unit": panel["unit"],
        "color": {"mode": "thresholds" if kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        **{name: panel[name] for name in ("min", "max", "decimals") if name in panel},
    }
    if kind == "timeseries":
        field["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 25 if panel.get("stacked") else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.get("stacked") else "none"},
            "thresholdsStyle": {"mode": "line" if bound is not None else "off"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.get("logarithmic") else {"type": "linear"},
        }
    return field


def _target(place: int, query: str | dict[str, str], kind: str, scope: str, *, legend: str) -> dict[str, Any]:
    if isinstance(query, str):
        query = {"expr": query, "legend": legend}
    target = {
        "refId": chr(ord("A") + place),
        "datasource": _SOURCE,
        "expr": " ".join(query["expr"].split()).replace("SCOPE", scope),
        "legendFormat": query.get("legend", legend) or "__auto",
        "range": kind != "stat",
        "instant": kind == "stat",
    }
    return target | ({"format": "heatmap"} if kind == "heatmap" else {})


_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "heatmap": {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "cellGap": 1,
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False},
    },
}


def written() -> dict[Path, str]:
    """The text of every dashboard, by its place."""
    texts = {}
    for name, chart in CHARTS.items():
        specification = yaml.safe_load((SPECIFICATIONS / f"{name}.yaml").read_text(encoding="utf-8"))
        path = ROOT / "charts" / chart / "files" / "dashboard.json"
        texts[path] = json.dumps(dashboard(specification), indent=2, ensure_ascii=False) + "\n"
    return texts


if __name__ == "__main__":
    sys.exit(write_or_check(written(), sys.argv[1:]))
