"""What holds for each chart and each of its features: the real helm, Kubernetes' schemas, the policies, the values."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import charts
import pytest
from chart_policies import broken_policies
from chart_rendering import CHARTS, all_charts, ci_files, lint, nested, package, read_yaml, refusal, render, title
from chart_values import Value, read_values
from jsonschema import Draft202012Validator
from kubernetes_schemas import check

FEATURES = [(chart, file) for chart in all_charts() for file in ci_files(chart)]
MISTYPED: dict[str, Any] = {"string": 7, "integer": "seven", "number": "seven", "boolean": "maybe", "array": "one"}
SEEN: set[str] = set()
"""Objects that were found right already; features differ in a few."""

every_chart = pytest.mark.parametrize("chart", all_charts())
every_feature = pytest.mark.parametrize(("chart", "file"), FEATURES, ids=lambda part: getattr(part, "stem", part))


def values_of(chart: str) -> Value:
    return read_values(CHARTS / chart / "values.yaml")


def plain_type(leaf: Value) -> str:
    """The one type that a value has; empty for a map, and for a value of several types."""
    kind = leaf.schema.get("type")
    return kind if isinstance(kind, str) and kind in MISTYPED else ""


def at(values: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path in a values file; None where nothing does."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def flags() -> Iterator[Any]:
    """Every value `….enabled` of every chart."""
    for chart in all_charts():
        for leaf in values_of(chart).leaves():
            if leaf.path[-1] == "enabled":
                yield pytest.param(chart, leaf.path, id=f"{chart}-{leaf.name}")


def without(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """A values file without the section of a flag."""
    copy: dict[str, Any] = json.loads(json.dumps(values))
    section = at(copy, path[:-2]) if len(path) > 2 else copy
    if isinstance(section, dict):
        section.pop(path[-2], None)
    return copy


def test_there_are_charts() -> None:
    assert "csm-serving" in all_charts()
    assert all(ci_files(chart) for chart in all_charts()), "a chart without ci/*-values.yaml is tested by nothing"


@every_chart
def test_schema_and_page_are_of_the_values_and_every_value_is_used(chart: str) -> None:
    assert charts.problems(CHARTS / chart) == []


@every_chart
def test_a_chart_has_its_pages(chart: str) -> None:
    for name in ("README.md", "UPGRADING.md", "templates/NOTES.txt"):
        assert (CHARTS / chart / name).read_text(encoding="utf-8").strip(), f"{chart} has no {name}"
    described = read_yaml(CHARTS / chart / "Chart.yaml")
    assert described["type"] == "application"
    assert described["appVersion"] == charts.version_of_package()
    assert f"## {described['version']}" in (CHARTS / chart / "UPGRADING.md").read_text(encoding="utf-8")


@every_chart
def test_links_of_a_page_lead_somewhere(chart: str) -> None:
    for name in ("README.md", "UPGRADING.md"):
        text = (CHARTS / chart / name).read_text(encoding="utf-8")
        targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
        assert [target for target in targets if target and not (CHARTS / chart / target).exists()] == []


@every_feature
def test_helm_lints_a_feature(chart: str, file: Path) -> None:
    assert "0 chart(s) failed" in lint(chart, file)


@every_feature
def test_every_object_of_a_feature_is_right_for_kubernetes(chart: str, file: Path) -> None:
    things = render(chart, file, tests=True)
    assert things
    titles = [title(thing) for thing in things]
    assert len(set(titles)) == len(titles)
    for thing in things:
        text = json.dumps(thing, sort_keys=True)
        if text not in SEEN:
            check(thing)
            SEEN.add(text)


@every_feature
def test_a_feature_keeps_the_policies(chart: str, file: Path) -> None:
    root = values_of(chart).default
    closed = {**root.get("networkPolicy", {}), **(read_yaml(file) or {}).get("networkPolicy", {})}.get("enabled", True)
    assert broken_policies(render(chart, file, tests=True), closed_network=closed) == []


@every_feature
def test_long_names_of_releases_fit(chart: str, file: Path) -> None:
    things = render(chart, file, release="a-release-whose-name-is-as-long-as-helm-will-take-it", namespace="n" * 63)
    assert [line for line in broken_policies(things, closed_network=False) if "characters" in line] == []


@every_chart
def test_nothing_is_rendered_without_what_must_be_named(chart: str) -> None:
    """Defaults alone must say which value is missing, in words of the chart and not of a template."""
    said = refusal(chart)
    assert "nil pointer" not in said
    assert "set " in said, f"helm says only: {said}"


@every_chart
def test_helm_refuses_a_wrong_type_of_every_value(chart: str) -> None:
    leaves = [leaf for leaf in values_of(chart).leaves() if plain_type(leaf)]
    assert leaves
    said = refusal(chart, set={leaf.name: MISTYPED[plain_type(leaf)] for leaf in leaves})
    missing = [leaf.name for leaf in leaves if f"at '/{'/'.join(leaf.path)}': " not in said]
    assert missing == [], "helm takes any type for them"


@every_chart
def test_the_schema_refuses_a_wrong_type_where_several_are_right(chart: str) -> None:
    """Free maps, and values of more than one type or of a list of words: one thing that each must refuse."""
    for leaf in values_of(chart).leaves():
        if not plain_type(leaf) or "enum" in leaf.schema:
            wrong: list[Any] = ["no such word", [[]], {"no": [[]]}, 7.5]
            refused = [thing for thing in wrong if not Draft202012Validator(leaf.json_schema()).is_valid(thing)]
            assert refused, f"{leaf.name} takes everything"


@every_chart
def test_helm_refuses_unknown_keys_at_every_level(chart: str) -> None:
    def sections(value: Value) -> Iterator[Value]:
        yield value
        for child in value.children:
            if child.children:
                yield from sections(child)

    levels = list(sections(values_of(chart)))
    said = refusal(chart, set={".".join((*level.path, "noSuchValue")): 1 for level in levels})
    for level in levels:
        assert (
            f"at '{''.join(f'/{key}' for key in level.path)}': additional properties 'noSuchValue' not allowed" in said
        )


@every_chart
def test_a_chart_can_be_part_of_another(chart: str) -> None:
    """Helm hands `global` to every chart inside another one."""
    file = ci_files(chart)[0]
    assert render(chart, file, set={"global": {"anything": 1}}) == render(chart, file)


@every_chart
def test_a_packaged_chart_renders_what_its_folder_renders(chart: str, tmp_path: Path) -> None:
    """`.helmignore` leaves out what only the repository needs, and nothing else."""
    file = package(chart, tmp_path)
    (values, *_) = ci_files(chart)
    assert render(str(file), values) == render(chart, values)
    names = subprocess.run(["tar", "-tzf", str(file)], capture_output=True, text=True, check=True).stdout
    assert "/ci/" not in names
    assert "README.md.in" not in names


@pytest.mark.parametrize(("chart", "flag"), flags())
def test_what_is_off_renders_nothing(chart: str, flag: tuple[str, ...]) -> None:
    """Off, nothing that is set beneath a flag shows; on, it renders something."""
    root = values_of(chart).default
    files = ci_files(chart)
    on = [file for file in files if at(read_yaml(file), flag) is True]
    if not on and at(root, flag) is True:
        on = [file for file in files if at(read_yaml(file), flag) is None]
    assert on, f"no file in {chart}/ci turns {'.'.join(flag)} on"
    off = {".".join(flag): False}
    # The least that another feature can hide: the file that says most about this one.
    file = max(on, key=lambda file: len(json.dumps(at(read_yaml(file), flag[:-1]) or {})))
    turned_off = render(chart, file, set=off, tests=True)
    assert turned_off != render(chart, file, tests=True)
    bare = without(read_yaml(file) or {}, flag)
    assert turned_off == render(chart, set={**bare, **merged(bare, off)}, tests=True)


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The top-level sections that `changes` touch, with them."""

    def merge(old: Any, new: Any) -> Any:
        if not isinstance(old, dict) or not isinstance(new, dict):
            return new
        return {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}

    return {key: merge(values.get(key), value) for key, value in nested(changes).items()}
