"""What docs/platform.md says to type is there to be typed: charts render with the values it names, objects exist."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from helm import find_helm
from said_commands import check_command, check_csm, check_make, commands_of

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = commands_of((ROOT / "docs" / "platform.md").read_text(encoding="utf-8"))
NOT_OF_TEMPLATE = {"--wait", "--create-namespace", "--take-ownership"}
SHORT = {"service": "Service", "deployment": "Deployment", "scaledobjects": "ScaledObject", "pods": "Pod", "hpa": ""}
"""Kinds of objects as kubectl's users write them; an HPA is made by KEDA and a Pod by its Deployment."""


@pytest.fixture(scope="session")
def release_values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A values file as the step deploy writes it."""
    digest = "0a" * 32
    path = tmp_path_factory.mktemp("release") / "values.yaml"
    path.write_text(
        yaml.safe_dump({"bundle": {"url": f"s3://csm/production/bundles/{digest}", "digest": digest}}), encoding="utf-8"
    )
    return path


def rendered(words: list[str], release_values: Path) -> list[dict]:
    """The objects of `helm upgrade --install RELEASE CHART ...` or `helm template RELEASE CHART ...`."""
    kept = [str(release_values) if word == "values.yaml" else word for word in words]
    done = subprocess.run(
        [find_helm(), "template", *kept], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def installs() -> Iterable[list[str]]:
    """The words after `helm upgrade --install` of each such command."""
    for command in COMMANDS:
        words = command.split()
        if words[:3] == ["helm", "upgrade", "--install"]:
            yield [word for word in words[3:] if word not in NOT_OF_TEMPLATE]


def test_every_chart_is_installed_and_taken_away_again() -> None:
    charts = {path.parent.name for path in (ROOT / "charts").glob("*/Chart.yaml")}
    assert {words[0] for words in installs()} == charts
    assert {command.split()[2] for command in COMMANDS if command.startswith("helm uninstall")} == charts


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_is_there(command: str, release_values: Path) -> None:
    namespaces = {words[0]: words[words.index("--namespace") + 1] for words in installs()}
    if command.startswith("export "):
        return

    def check_helm(words: list[str]) -> None:
        if words[:2] == ["upgrade", "--install"]:
            words = ["template", *(word for word in words[2:] if word not in NOT_OF_TEMPLATE)]
        if words[0] == "template":
            assert rendered(words[1:], release_values)
            return
        verb, release = words[:2]
        assert verb in ("history", "rollback", "uninstall")
        assert words[words.index("--namespace") + 1] == namespaces[release]

    def check_kubectl(words: list[str]) -> None:
        files = [ROOT / after for word, after in pairwise(words) if word == "--filename"]
        if words[0] == "apply":
            assert files
            assert all(list(yaml.safe_load_all(file.read_text(encoding="utf-8"))) for file in files)
            return
        assert words[0] == "--namespace"
        release = next(name for name, namespace in namespaces.items() if namespace == words[1])
        objects = rendered(next(list(each) for each in installs() if each[0] == release), release_values)
        names = {(thing["kind"], thing["metadata"]["name"]) for thing in objects}
        kinds = {kind for kind, _ in names} | {"Pod", ""}
        verb, *rest = words[2:]
        assert verb in ("get", "logs", "port-forward")
        if verb == "get":
            assert all(SHORT[kind] in kinds for kind in rest[0].split(","))
            return
        kind, _, name = rest[0].partition("/")
        assert (SHORT[kind], name) in names
        if "--container" in rest:
            pod = next(thing for thing in objects if thing["metadata"]["name"] == name and thing["kind"] == SHORT[kind])
            spec = pod["spec"]["template"]["spec"]
            known = {each["name"] for each in [*spec["containers"], *spec.get("initContainers", [])]}
            assert rest[rest.index("--container") + 1] in known

    check_command(command, {"make": check_make, "csm": check_csm, "helm": check_helm, "kubectl": check_kubectl})
