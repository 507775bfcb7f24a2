"""Writes the tables of docs/monitoring.md and the list of the runbooks, from the code that exports and the rules.

python tools/monitoring_page.py            writes them
python tools/monitoring_page.py --check    says which would change, and ends with 1 where one would

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the rest of a page is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from made_files import write_or_check
from prometheus_client import CollectorRegistry

from csm_components.metrics import TrainingMetrics, failure_figures, success_figures
from csm_serving.server import metrics as serving

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs" / "monitoring.md", ROOT / "docs" / "runbooks" / "README.md")
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _serving() -> str:
    rows = []
    for spec in serving.ALL:
        label = f"`{spec.label}`: {', '.join(f'`{value}`' for value in spec.values)}" if spec.label else ""
        rows.append((f"`{spec.name}`", spec.kind, label, f"{spec.help}."))
    return _table(("metric", "kind", "label", "meaning"), rows)


def _families(registry: CollectorRegistry) -> Iterator[Sequence[str]]:
    for family in sorted(registry.collect(), key=lambda family: family.name):
        labels = sorted({label for sample in family.samples for label in sample.labels})
        yield f"`{family.name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation


def _pushed() -> str:
    training = TrainingMetrics()
    training.update({"loss": 0.0, "loss_codebook_00": 0.0, "accuracy_first": 0.0})
    registries = (training.registry, success_figures(0.0, {"figure": 0.0}), failure_figures())
    rows = [row for registry in registries for row in _families(registry)]
    return _table(("metric", "kind", "label", "meaning"), rows)


def _foreign() -> str:
    metrics = yaml.safe_load((ROOT / "deploy" / "monitoring" / "foreign_metrics.yaml").read_text(encoding="utf-8"))
    rows = ((f"`{name}`", metric["from"], metric["meaning"]) for name, metric in metrics.items())
    return _table(("metric", "from", "meaning"), rows)


def _rules() -> Iterator[dict[str, Any]]:
    for chart in ("csm-serving", "csm-training"):
        text = (ROOT / "charts" / chart / "files" / "rules.yaml").read_text(encoding="utf-8")
        for group in yaml.safe_load(text)["groups"]:
            yield from group["rules"]


def _alerts(folder: str) -> str:
    rows = [
        (
            f"[{rule['alert']}]({folder}{rule['alert']}.md)",
            rule["labels"]["severity"],
            rule.get("for", "at once"),
            f"{rule['annotations']['summary']}.",
        )
        for rule in _rules()
        if "alert" in rule
    ]
    return _table(("alert", "severity", "after", "says"), rows)


def _recorded() -> str:
    names = sorted(rule["record"] for rule in _rules() if "record" in rule)
    return "".join(f"- `{name}`\n" for name in names)


_TABLES: dict[str, Callable[[], str]] = {
    "serving": _serving,
    "pushed": _pushed,
    "foreign": _foreign,
    "alerts": lambda: _alerts("runbooks/"),
    "runbooks": lambda: _alerts(""),
    "recorded": _recorded,
}


def written() -> dict[Path, str]:
    """The text of each page, its tables new."""
    return {
        page: _TABLE.sub(lambda match: match[1] + _TABLES[match[2]]() + match[3], page.read_text(encoding="utf-8"))
        for page in PAGES
    }


if __name__ == "__main__":
    sys.exit(write_or_check(written(), sys.argv[1:]))
