"""Renders the charts with the real helm, and gives what they render as objects.

    render("csm-serving", *values_files, set={"drain.preStopSeconds": 5}) -> objects
    refusal("csm-serving", set={"replicas": "two"}) -> what helm says against it

Names in `set` are paths with dots; their values go to helm as YAML, so that a 5 stays a number. Helm is asked the same
thing once a process; the objects are new each time.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from chart_values import StrictLoader
from helm import find_helm

ROOT = Path(__file__).resolve().parent.parent.parent
CHARTS = ROOT / "charts"


class RenderError(Exception):
    """Helm refused to render; its words."""


def all_charts() -> list[str]:
    """Names of all charts."""
    return sorted(path.parent.name for path in CHARTS.glob("*/Chart.yaml"))


def ci_files(chart: str) -> list[Path]:
    """The values files of a chart's features, one a feature."""
    return sorted((CHARTS / chart / "ci").glob("*-values.yaml"))


def ci_file(chart: str, feature: str) -> Path:
    """The values file of one feature."""
    return CHARTS / chart / "ci" / f"{feature}-values.yaml"


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *above, last = name.split(".")
        place = tree
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return tree


def read_yaml(path: Path) -> Any:
    """One YAML document; a key that stands twice is an error."""
    return yaml.load(path.read_text(encoding="utf-8"), StrictLoader)


@cache
def _helm(words: tuple[str, ...], values: str) -> str:
    done = subprocess.run(
        [str(find_helm()), *words, "--values", "-"], input=values, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RenderError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def _words(verb: Iterable[str], chart: str, files: Iterable[Path]) -> tuple[str, ...]:
    return (*verb, str(CHARTS / chart), *(word for file in files for word in ("--values", str(file))))


def lint(chart: str, *values_files: Path, set: Mapping[str, Any] = {}) -> str:  # noqa: A002
    """What `helm lint --strict` says; raises `RenderError` where it finds anything."""
    return _helm(_words(("lint", "--strict"), chart, values_files), json.dumps(nested(set)))


def render(
    chart: str,
    *values_files: Path,
    set: Mapping[str, Any] = {},  # noqa: A002
    release: str = "csm",
    namespace: str = "csm",
    kube_version: str | None = None,
    tests: bool = False,
) -> list[dict[str, Any]]:
    """All objects of a release, as helm would install them, and what `helm test` runs. Raises `RenderError`."""
    verb = ["template", release, "--namespace", namespace]
    if not tests:
        verb.append("--skip-tests")
    if kube_version:
        verb += ["--kube-version", kube_version]
    text = _helm((*verb, *_words((), chart, values_files)), json.dumps(nested(set)))
    return [thing for thing in yaml.load_all(text, StrictLoader) if thing]


def refusal(chart: str, *values_files: Path, set: Mapping[str, Any] = {}, **options: Any) -> str:  # noqa: A002
    """What helm says where it refuses to render; it is an AssertionError if it does not refuse."""
    try:
        render(chart, *values_files, set=set, **options)
    except RenderError as error:
        return str(error)
    raise AssertionError(f"helm renders {chart} with {dict(set)}, which it must refuse")


def package(chart: str, folder: Path) -> Path:
    """The chart as one file, as a registry would hold it. Raises `RenderError`."""
    command = [str(find_helm()), "package", str(CHARTS / chart), "--destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RenderError(done.stderr.strip())
    (file,) = folder.glob("*.tgz")
    return file


def notes(chart: str, *values_files: Path, release: str = "csm", namespace: str = "csm") -> str:
    """What helm says to a person after an install. Raises `RenderError`."""
    verb = ("install", release, "--namespace", namespace, "--dry-run=client")
    return _helm(_words(verb, chart, values_files), "{}").partition("\nNOTES:\n")[2]


def of_kind(things: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The objects of one kind."""
    return [thing for thing in things if thing["kind"] == kind]


def only(things: Iterable[dict[str, Any]], kind: str, **labels: str) -> dict[str, Any]:
    """The one object of a kind, or of those with the given last part of a label (`track="canary"`)."""
    found = [
        thing
        for thing in of_kind(things, kind)
        if all(
            any(name.rpartition("/")[2] == key and has == value for name, has in _labels(thing).items())
            for key, value in labels.items()
        )
    ]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} {labels or ''}"
    return found[0]


def _labels(thing: dict[str, Any]) -> dict[str, str]:
    return thing["metadata"].get("labels", {})


def title(thing: dict[str, Any]) -> str:
    """Kind and name of an object, with its namespace where it names one, as a person writes them."""
    namespace = thing["metadata"].get("namespace")
    return f"{thing['kind']} {namespace + '/' if namespace else ''}{thing['metadata']['name']}"
