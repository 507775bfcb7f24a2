"""Runbooks: one for each alert, of one shape, whose questions Prometheus understands."""

from __future__ import annotations

import re
from pathlib import Path

import made_files
import monitoring_page
import pytest
import yaml
from chart_rendering import CHARTS
from chart_values import read_values
from monitoring import RUNBOOKS, alerts, promtool, runbook_queries

PAGES = sorted(path for path in RUNBOOKS.glob("*.md") if path.name != "README.md")
PARTS = ["What users notice", "Why this bound", "First look", "Causes and cures", "When to escalate"]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def test_every_alert_has_a_runbook_and_no_other_is_there() -> None:
    assert [page.stem for page in PAGES] == sorted(alert.name for alert in alerts())


@every_page
def test_a_runbook_has_its_parts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}\n\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == PARTS
    for part in re.split(r"^#+ .*$", text, flags=re.MULTILINE)[1:]:
        assert part.strip(), "an empty part"
    assert re.search(r"^```", text, re.MULTILINE), "nothing to ask or to run"


@every_page
def test_links_of_a_runbook_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_prometheus_takes_every_question(tmp_path: Path) -> None:
    rules = [
        {"record": f"runbook:{place}:x", "expr": query.expression} for place, query in enumerate(runbook_queries())
    ]
    assert len(rules) > len(PAGES)
    file = tmp_path / "questions.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "questions", "rules": rules}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_values_that_runbooks_name_are_in_the_charts() -> None:
    known = {leaf.name for chart in ("csm-serving", "csm-platform") for leaf in leaves(chart)}
    sections = {name.rpartition(".")[0] for name in known} | {name.partition(".")[0] for name in known}
    roots = {name.partition(".")[0] for name in known if "." in name}
    for page in PAGES:
        for name in re.findall(r"`([a-z]\w*(?:\.\w+)+)(?:: [^`]*)?`", page.read_text(encoding="utf-8")):
            if name.partition(".")[0] in roots and not name.startswith("serving.settings."):
                assert name in known | sections, f"{page.name}: {name}"


def leaves(chart: str) -> list:
    return list(read_values(CHARTS / chart / "values.yaml").leaves())


def test_the_pages_are_what_the_code_says() -> None:
    assert made_files.drifted(monitoring_page.written()) == [], "run python tools/monitoring_page.py"
