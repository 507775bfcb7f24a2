"""From commented values to schema and page; and what of values, templates and made files does not fit is found."""

from __future__ import annotations

import json
from pathlib import Path

import charts
import pytest
from chart_usage import Usage, usage_problems
from chart_values import ChartError, read_values
from jsonschema import Draft202012Validator

VALUES = """\
# What stands above, apart from the key, is no description.

# -- Number of pods,
# and nothing else.
# @schema {minimum: 1}
replicas: 2
image:
  # -- Where it is.
  repository: ghcr.io/demo | or so
  # -- Its digest.
  # @schema {type: [string, "null"], pattern: "^sha256:"}
  digest: null
# -- Free.
# @schema {additionalProperties: {type: string}}
labels: {team: speech}
# -- Kinds.
# @schema {items: {enum: [a, b]}}
kinds: [a]
# -- A share.
share: 0.5
# -- One of two.
# @schema {enum: [keda, none]}
kind: keda
"""
TEMPLATE = """\
{{- $image := .Values.image }}
{{- with .Values.labels }}{{ toYaml . }}{{ end }}
{{ .Values.replicas }} {{ $image.repository }} {{ $image.digest }} {{ .Values.share }} {{ eq .Values.kind "keda" }}
{{- range .Values.kinds }}{{ . }}{{ end }}
"""


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("name: demo\n")
    (folder / "values.yaml").write_text(VALUES)
    (folder / "README.md.in").write_text("# demo\n\n<!-- values -->\n")
    (folder / "templates" / "demo.yaml").write_text(TEMPLATE)
    charts.write(charts.made_files(folder))
    return folder


def test_a_comment_and_a_default_make_a_schema(chart: Path) -> None:
    schema = json.loads((chart / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["replicas"] == {
        "type": "integer",
        "minimum": 1,
        "description": "Number of pods, and nothing else.",
        "default": 2,
    }
    assert schema["properties"]["image"]["additionalProperties"] is False
    assert schema["properties"]["image"]["properties"]["digest"]["type"] == ["string", "null"]
    assert schema["properties"]["labels"]["additionalProperties"] == {"type": "string"}
    takes = Draft202012Validator(schema).is_valid
    assert takes({"replicas": 1, "labels": {"any": "one"}, "global": {"anything": 1}, "share": 1})
    assert not takes({"replicas": "2"})
    assert not takes({"image": {"tag": "latest"}})
    assert not takes({"kinds": ["c"]})


def test_the_page_has_a_row_a_value(chart: Path) -> None:
    rows = (chart / "README.md").read_text().splitlines()
    assert "| `replicas` | integer | `2` | Number of pods, and nothing else. |" in rows
    assert '| `image.repository` | string | `"ghcr.io/demo \\| or so"` | Where it is. |' in rows
    assert "| `image.digest` | string or null | `null` | Its digest. |" in rows
    assert '| `kinds` | list of one of `a`, `b` | `["a"]` | Kinds. |' in rows
    assert '| `kind` | one of `keda`, `none` | `"keda"` | One of two. |' in rows


def test_what_was_just_made_has_no_problems(chart: Path) -> None:
    assert charts.problems(chart) == []


@pytest.mark.parametrize("name", ["values.schema.json", "README.md"])
def test_a_made_file_that_drifted_is_found(chart: Path, name: str) -> None:
    (chart / name).write_text((chart / name).read_text().replace("Number of pods", "Pods"))
    assert charts.problems(chart) == [f"demo: {name} is not of this values.yaml: run python tools/charts.py"]
    (chart / name).unlink()
    assert len(charts.problems(chart)) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("bare: 1\n", "bare has no description; write '# -- ...' directly above it"),
        ("# -- Far.\n\nbare: 1\n", "bare has no description"),
        ("# -- Null.\nnothing: null\n", "nothing is null, which has no type"),
        ("# -- List.\nlist: []\n", "list is an empty list; write # @schema {items: ...}"),
        ("# -- Map.\nmap: {}\n", "map is an empty map; write # @schema {additionalProperties: ...}"),
        ("# -- Bad.\n# @schema minimum 1\nbad: 1\n", "bad: @schema minimum 1 is no YAML flow mapping"),
        ("# -- Low.\n# @schema {minimum: 3}\nlow: 1\n", "the default of low: 1 is less than the minimum of 3"),
        ("# -- Odd.\n# @schema {type: text}\nodd: x\n", "'text' is not valid under any of the given schemas"),
        ("# -- Again.\nreplicas: 3\n", "the key 'replicas' stands twice"),
    ],
)
def test_a_value_that_says_too_little_is_refused(chart: Path, more: str, said: str) -> None:
    (chart / "values.yaml").write_text(VALUES + more)
    (problem,) = charts.problems(chart)
    assert said in problem
    with pytest.raises(ChartError):
        charts.write(charts.made_files(chart))


def test_a_page_without_a_place_for_the_table_is_refused(chart: Path) -> None:
    (chart / "README.md.in").write_text("# demo\n")
    assert charts.problems(chart) == ["demo: README.md.in must have the line <!-- values --> once"]


def test_a_value_that_no_template_uses_is_found(chart: Path) -> None:
    template = chart / "templates" / "demo.yaml"
    template.write_text(TEMPLATE.replace("{{ $image.digest }}", "").replace("{{ .Values.share }}", ""))
    assert charts.problems(chart) == [
        "demo: no template uses the value image.digest",
        "demo: no template uses the value share",
    ]
    (chart / "templates" / "NOTES.txt").write_text("{{ .Values.share }} {{ .Values.image.digest }}")
    assert len(charts.problems(chart)) == 2, "what is only said to a person is used by nothing"


def test_a_use_of_a_value_that_there_is_not_is_found(chart: Path) -> None:
    (chart / "files").mkdir()
    (chart / "files" / "more.yaml").write_text("{{ .Values.image.tag }} {{ .Values.labels.team }}")
    assert charts.problems(chart) == ["demo: files/more.yaml uses .Values.image.tag, which values.yaml does not have"]


@pytest.mark.parametrize(
    ("template", "whole"),
    [
        ("{{ .Values.a.b }}", {"a.b"}),
        ('{{ default "x" (.Values.a.b | quote) }}', {"a.b"}),
        ("{{ with .Values.a }}{{ .b }}{{ end }}{{ .b }}", {"a.b"}),
        ("{{ with .Values.a }}{{ with .b }}{{ . }}{{ end }}{{ .c }}{{ end }}", {"a.b", "a.c"}),
        ("{{ with .Values.a }}{{ else }}{{ .Values.b }}{{ end }}", {"b"}),
        ("{{ $a := .Values.a }}{{ $a.b }}", {"a.b"}),
        ("{{ with $a := .Values.a }}{{ $a.b }}{{ .c }}{{ end }}", {"a.b", "a.c"}),
        ("{{ range .Values.a }}{{ .b }}{{ $.Values.c }}{{ end }}", {"a", "c"}),
        ("{{ range $k, $v := .Values.a }}{{ $v }}{{ end }}", {"a"}),
        ("{{ toYaml .Values.a }}", {"a"}),
        ('{{ include "x" (dict "root" . "of" .Values.a) }}', {"a"}),
        ('{{ define "x" }}{{ .root.Values.a.b }}{{ end }}', {"a.b"}),
        ('{{ "not .Values.a" }}{{/* nor .Values.b */}}', set()),
        ("{{ if .Values.a.b }}{{ end }}", set()),
        ("{{ $a := .Values.a.b | quote }}{{ $a }}", {"a.b"}),
    ],
)
def test_uses_are_read_as_the_template_means_them(template: str, whole: set[str]) -> None:
    assert {".".join(path) for path in Usage(template).whole} == whole


def test_a_section_that_is_only_opened_is_not_used_whole(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "values.yaml").write_text("a:\n  # -- One.\n  b: 1\n  # -- Two.\n  c: 2\n")
    template = tmp_path / "templates" / "one.yaml"
    root = read_values(tmp_path / "values.yaml")
    for text, unused in (
        ("{{ with .Values.a }}{{ .b }}{{ end }}", ["a.c"]),
        ("{{ if .Values.a }}{{ .Values.a.c }}{{ end }}", ["a.b"]),
        ("{{ toYaml .Values.a }}", []),
        ("{{ if .Values.a.b }}{{ .Values.a.c }}{{ end }}", []),
    ):
        template.write_text(text)
        expected = [f"{tmp_path.name}: no template uses the value {name}" for name in unused]
        assert usage_problems(tmp_path, root) == expected, text


def test_the_command_says_what_differs_and_changes_nothing(
    chart: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(charts, "CHARTS", chart.parent)
    assert charts.main(["--check"]) == 0
    (chart / "values.yaml").write_text(VALUES.replace("replicas: 2", "replicas: 3"))
    before = {path: path.read_text() for path in chart.glob("*") if path.is_file()}
    assert charts.main(["--check", "demo"]) == 1
    assert "README.md is not of this values.yaml" in capsys.readouterr().out
    assert before == {path: path.read_text() for path in chart.glob("*") if path.is_file()}
    assert charts.main([]) == 0
    assert charts.main(["--check"]) == 0
    (chart / "values.yaml").write_text("bare: 1\n")
    assert charts.main([]) == 2
    with pytest.raises(SystemExit):
        charts.main(["no-such-chart"])
