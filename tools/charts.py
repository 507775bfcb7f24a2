"""Makes `values.schema.json`, `files/defaults.json` and `README.md` of each chart from its commented `values.yaml`.

python tools/charts.py                        writes them, for every chart
python tools/charts.py --check csm-serving    says what differs or breaks a rule, changes nothing, and exits 1

`README.md.in` is the text of the page; its line `<!-- values -->` becomes the table of values. `charts/common.tpl`,
what all charts do alike, becomes `templates/_common.tpl` of each. How values are commented stands in `chart_values.py`;
that each is used by a template, in `chart_usage.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from chart_usage import usage_problems
from chart_values import ChartError, Value, read_values
from jsonschema import Draft202012Validator, SchemaError
from made_files import drifted, write

ROOT = Path(__file__).resolve().parent.parent
CHARTS = ROOT / "charts"
PLACE_OF_TABLE = "<!-- values -->"
NAME_OF_CHART = "CHART"
"""What stands for a chart's name in `common.tpl`."""
GLOBAL = {
    "type": "object",
    "description": "What Helm gives every chart that is a part of another one; nothing here reads it.",
}


def charts() -> list[Path]:
    """The folders of all charts, by name."""
    return sorted(path.parent for path in CHARTS.glob("*/Chart.yaml"))


def version_of_package() -> str:
    """The version that the images carry and every chart names as its `appVersion`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def schema_of(root: Value, title: str) -> dict[str, Any]:
    """The JSON Schema of a chart's values. Raises `ChartError` where it is none, or refuses the defaults."""
    whole = root.json_schema()
    schema = {
        "$schema": Draft202012Validator.META_SCHEMA["$id"],
        "title": title,
        **whole,
        "properties": {**whole["properties"], "global": GLOBAL},
    }
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ChartError(f"{title}: {error.json_path}: {error.message}") from None
    refused = next(Draft202012Validator(schema).iter_errors(root.default), None)
    if refused is not None:
        raise ChartError(f"{title}: the default of {refused.json_path.removeprefix('$.')}: {refused.message}")
    return schema


def defaults_of(value: Value) -> dict[str, Any]:
    """What a template puts in place of missing values: by key a `section`, or a `default` and if it is `nullable`."""
    return {
        child.path[-1]: {"section": defaults_of(child)}
        if child.children
        else {"default": child.default, "nullable": True}
        if child.nullable
        else {"default": child.default}
        for child in value.children
    }


def type_of(schema: dict[str, Any]) -> str:
    """A schema's type, as the table shows it: `string or null`, `list of object`, `one of keda, hpa, none`."""
    if "enum" in schema:
        return "one of " + ", ".join("null" if item is None else f"`{item}`" for item in schema["enum"])
    kinds = schema.get("type", "any")
    if kinds == "array":
        items = schema.get("items")
        return f"list of {type_of(items)}" if isinstance(items, dict) and {"type", "enum"} & items.keys() else "list"
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def table_of(root: Value) -> str:
    """The values as a Markdown table, in the order of the file."""
    rows = ["| value | type | default | what it is |", "| --- | --- | --- | --- |"]
    for leaf in root.leaves():
        default = json.dumps(leaf.default, ensure_ascii=False)
        cells = (f"`{leaf.name}`", type_of(leaf.schema), f"`{default}`", leaf.description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def readme_of(chart: Path, root: Value) -> str:
    """The page of a chart. Raises `ChartError` where its text has no place for the table."""
    source = chart / "README.md.in"
    text = source.read_text(encoding="utf-8") if source.exists() else ""
    if text.count(PLACE_OF_TABLE) != 1:
        raise ChartError(f"{chart.name}: README.md.in must have the line {PLACE_OF_TABLE} once")
    return text.replace(PLACE_OF_TABLE, table_of(root))


def made_files(chart: Path) -> dict[Path, str]:
    """The files that are made for a chart, with what must stand in them. Raises `ChartError`."""
    root = read_values(chart / "values.yaml")
    schema = json.dumps(schema_of(root, chart.name), indent=2, ensure_ascii=False)
    made = {chart / "values.schema.json": f"{schema}\n", chart / "README.md": readme_of(chart, root)}
    common = chart.parent / "common.tpl"
    if common.exists():
        text = common.read_text(encoding="utf-8").replace(NAME_OF_CHART, chart.name)
        made[chart / "templates" / "_common.tpl"] = text
        made[chart / "files" / "defaults.json"] = json.dumps(defaults_of(root), indent=1, ensure_ascii=False) + "\n"
    return made


def templates_that_take_what_is_given(chart: Path) -> list[str]:
    """One line for every template that does not begin with putting missing values in their place."""
    first = f'{{{{- include "{chart.name}.values" . }}}}\n'
    templates = sorted(path for path in (chart / "templates").iterdir() if path.suffix in (".yaml", ".txt"))
    return [
        f"{chart.name}: templates/{path.name} must begin with {first.strip()}"
        for path in templates
        if not path.read_text(encoding="utf-8").startswith(first)
    ]


def problems(chart: Path) -> list[str]:
    """One line for every rule that a chart breaks and every made file that is not as it must be."""
    try:
        made = made_files(chart)
        lines = usage_problems(chart, read_values(chart / "values.yaml"))
    except ChartError as error:
        return [str(error)]
    if (chart.parent / "common.tpl").exists():
        lines += templates_that_take_what_is_given(chart)
    lines += [
        f"{chart.name}: {path.name} is not of this values.yaml: run python tools/charts.py" for path in drifted(made)
    ]
    return lines


def main(arguments: list[str]) -> int:
    """Writes or checks the named charts, or all; returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes what of the charts follows from their values.")
    parser.add_argument("charts", nargs="*", metavar="CHART", help="names of charts; all, where none is named")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if anything differs")
    options = parser.parse_args(arguments)
    known = {chart.name: chart for chart in charts()}
    unknown = [name for name in options.charts if name not in known]
    if unknown:
        parser.error(f"there is no chart {unknown[0]}; there are {', '.join(known)}")
    chosen = [known[name] for name in options.charts or known]
    if options.check:
        lines = [line for chart in chosen for line in problems(chart)]
        print("\n".join(lines or [f"{len(chosen)} charts: schemas and pages are right, every value is used"]))
        return 1 if lines else 0
    try:
        for chart in chosen:
            write(made_files(chart))
    except ChartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
