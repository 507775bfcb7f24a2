"""What `pip install csm-foundry` alone brings: every command says what it needs, in one line, or does its work."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import base_install
import numpy as np
import pytest
import soundfile
from command_tree import COMMANDS, TREE, shown
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from csm_cli.missing import EXTRAS, OF_A_RUN
from csm_model.files import write_json

ROOT = Path(__file__).resolve().parents[2]
BASE = str(ROOT / "deploy" / "demo" / "base")
CODEC = str(ROOT / "deploy" / "demo" / "codec")
NOWHERE = "127.0.0.1:1"
DONE = 0
"""It does its work."""

ASKED: dict[str, list[tuple[str, str | int]]] = {
    "run": [("--preset debug --show", DONE), ("--preset debug", "needs torch")],
    "report": [("finished", "needs ")],
    "say": [
        ("hello", "no run has released a bundle yet"),
        (f"hello --local --bundle {BASE}", "needs torch"),
        (f"hello --url {NOWHERE}", "no server at"),
    ],
    "serve": [(BASE, "needs ")],
    "swap": [(BASE, "no server runs from there")],
    "bench-serve": [(f"--url {NOWHERE} --count 1", "no server at")],
    "plan-run": [("training --profile kind", "needs yaml")],
    "submit": [("training --profile kind", "needs yaml")],
    "compile": [("training --profile kind", "needs yaml")],
    "plan": [("--preset csm-1b --hours 100", DONE)],
    "scale-sim": [("--manifest rendered.yaml", "needs yaml")],
    "scale-record": [(f"x.csv --prometheus http://{NOWHERE} --namespace a --release b", "no Prometheus at")],
    "verify-audio": [("sound.wav", "needs torch")],
    "fetch-bundle": [("s3://csm/bundles/x --digest x --out x", "digest 'x'")],
    "make-bucket": [("s3://x", "the bucket 'x' is no name")],
    "prepare-tenants": [("tenants.json", DONE)],
    "data readers": [("", DONE)],
    "data card": [("finished", "finished: holds no conversations")],
    "data show": [("finished x", "finished: holds no conversations")],
    "data why": [("finished x", "finished: holds no conversations")],
    "data policy": [("", DONE)],
    "data forget": [("anna", "nothing here is of")],
    "codec train": [("--corpus . --out c", "needs torch")],
    "codec adapt": [(f"{BASE} --codec {CODEC} --out b", "needs torch")],
    "checkpoint convert": [(f"{BASE} c --to hf", "needs torch")],
    "checkpoint inspect": [(BASE, "needs torch")],
    "checkpoint verify": [(BASE, "needs torch")],
    "checkpoint bundle": [(f"{BASE} b --tokenizer t --codec c", "needs torch")],
    "voice add": [("anna --audio sound.wav --text Hello. --consent none.json", "none.json: no such file")],
    "voice list": [("", "no folder of voices"), ("--folder .", DONE)],
    "voice revoke": [("anna", "has no such voice")],
    "token add": [("shop", DONE)],
    "token list": [("", DONE)],
    "token remove": [("shop", DONE)],
    "runs list": [("", "no Kubeflow Pipelines is named"), ("--profile kind", "needs yaml")],
    "runs show": [("x", "no Kubeflow Pipelines is named")],
    "runs terminate": [("x", "no Kubeflow Pipelines is named")],
    "runs retry": [("x", "no Kubeflow Pipelines is named")],
    "schedule create": [("x --profile kind --every 12h", "needs yaml")],
    "schedule list": [("", "no Kubeflow Pipelines is named")],
    "schedule pause": [("x", "no Kubeflow Pipelines is named")],
    "schedule resume": [("x", "no Kubeflow Pipelines is named")],
    "schedule delete": [("x", "no Kubeflow Pipelines is named")],
}
"""Of every command: what is asked, and the words of its one line, or that it does its work."""
CALLS = [(f"{command} {rest}".split(), found) for command, asked in ASKED.items() for rest, found in asked]

Outcome = tuple[int | None, str, str]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every call and every page of help, in one process that has the base install's packages alone."""
    folder = tmp_path_factory.mktemp("base")
    soundfile.write(folder / "sound.wav", np.full(24_000, 0.1, dtype=np.float32), 24_000)
    (folder / "rendered.yaml").write_text("kind: Service\n")
    write_json(folder / "tenants.json", [])
    write_json(folder / "finished" / "summary.json", {})
    (folder / "finished" / "report.html").write_text("")
    lines = [words for words, _ in CALLS] + [[*words, "--help"] for words in TREE]
    done = subprocess.run(
        [sys.executable, base_install.__file__], input=json.dumps(lines), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {" ".join(words): tuple(each) for words, each in zip(lines, json.loads(done.stdout), strict=True)}


def test_every_command_is_asked() -> None:
    assert {f"csm {command}" for command in ASKED} == {shown(words) for words in COMMANDS}


@pytest.mark.parametrize(
    ("words", "found"), CALLS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_command_works_or_says_in_one_line_what_it_needs(
    outcomes: dict[str, Outcome], words: list[str], found: str | int
) -> None:
    status, _, err = outcomes[" ".join(words)]
    assert "Traceback" not in err
    if found == DONE:
        assert status == 0, err
        return
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("error: ")
    assert str(found) in err
    if str(found).startswith("needs "):
        assert re.search(
            rf"^error: csm {words[0]} needs \w+, which is not installed: install csm-foundry\[[a-z,]+\]$", err
        )


@pytest.mark.parametrize("words", TREE, ids=shown)
def test_help_needs_nothing(outcomes: dict[str, Outcome], words: tuple[str, ...]) -> None:
    status, out, err = outcomes[" ".join((*words, "--help"))]
    assert (status, err) == (0, "")
    assert f"Usage: {shown(words)}" in out


def test_the_extras_that_are_named_are_the_projects_and_bring_what_was_missing() -> None:
    rows = [Requirement(row) for row in importlib.metadata.requires("csm-foundry") or ()]
    known = set(importlib.metadata.metadata("csm-foundry").get_all("Provides-Extra") or ())
    for command, extras in EXTRAS.items():
        assert set(extras.split(",")) <= known, command
    brought = {
        canonicalize_name(row.name)
        for row in rows
        for extra in EXTRAS["run"].split(",")
        if row.marker is not None and row.marker.evaluate({"extra": extra})
    }
    for module in OF_A_RUN:
        found = {canonicalize_name(name) for name in importlib.metadata.packages_distributions()[module]}
        assert found & brought, module
    always = {row.name for row in rows if row.marker is None}
    assert always.isdisjoint(base_install.OF_EXTRAS)
