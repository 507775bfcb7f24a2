"""`--json` means one thing: a flag, where figures or a list are printed, and JSON alone on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_tree import COMMANDS, shown

from csm_model.files import write_json

Csm = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]

WITHOUT = {
    "csm run": "its figures are those of csm report; --show prints JSON",
    "csm serve": "serves until it is told to stop",
    "csm swap": "does something, and says so",
    "csm submit": "csm runs show has its figures",
    "csm compile": "prints the pipeline itself",
    "csm scale-record": "writes a file",
    "csm fetch-bundle": "writes a folder",
    "csm make-bucket": "does something, and says so",
    "csm prepare-tenants": "does something, and says so",
    "csm codec train": "writes a folder",
    "csm codec adapt": "writes a folder",
    "csm checkpoint convert": "writes a folder",
    "csm checkpoint bundle": "writes a folder",
    "csm voice add": "does something, and says so",
    "csm voice revoke": "does something, and says so",
    "csm token add": "prints the token itself",
    "csm token remove": "does something, and says so",
    "csm runs terminate": "does something, and says so",
    "csm runs retry": "does something, and says so",
    "csm schedule create": "does something, and says so",
    "csm schedule pause": "does something, and says so",
    "csm schedule resume": "does something, and says so",
    "csm schedule delete": "does something, and says so",
}
"""Commands that print neither figures nor a list, and what they do instead."""


@pytest.mark.parametrize("words", COMMANDS, ids=shown)
def test_a_command_prints_json_when_asked_or_has_nothing_to_print(words: tuple[str, ...]) -> None:
    options = [each for each in COMMANDS[words].params if "--json" in each.opts]
    assert bool(options) != (shown(words) in WITHOUT)
    assert all(each.is_flag and not each.default for each in options), "a path has another name, such as --out"


def test_all_that_is_left_out_is_there() -> None:
    assert set(WITHOUT) <= {shown(words) for words in COMMANDS}


def printed(csm: Csm, *arguments: object) -> Any:
    """What a command prints as JSON."""
    outcome = csm(*arguments, "--json")
    assert outcome.status == 0, outcome
    return json.loads(outcome.out)


def test_a_plan(csm: Csm) -> None:
    assert printed(csm, "plan", "--preset", "csm-1b", "--hours", 1000)["fits"] is True


def test_a_checkpoint(csm: Csm) -> None:
    base = ROOT / "deploy" / "demo" / "base"
    found = printed(csm, "checkpoint", "inspect", base, "--no-digest")
    assert found["digest"] is None
    assert found["weights"] == sum(count for part, count in found["parts"].items() if part != "codec")
    assert found["files"]


def test_a_report(csm: Csm) -> None:
    summary = {"run": "demo-1", "wer_generated": 0.125, "mos": None}
    write_json(Path("runs/latest/summary.json"), summary)
    Path("runs/latest/report.html").write_text("<p>figures</p>")
    assert printed(csm, "report") == summary


def test_those_who_may_call(csm: Csm) -> None:
    assert csm("token", "add", "shop", "--voice", "anna", "--streams", 4).status == 0
    bounds = {"name": "shop", "voices": ["anna"], "streams": 4, "characters_a_minute": None}
    assert printed(csm, "token", "list") == [bounds]


def test_what_was_spoken(csm: Csm, bundle: Path) -> None:
    spoken = printed(csm, "say", "Hello there.", "--bundle", bundle, "--out", "x.wav")
    assert spoken["path"] == "x.wav"
    assert spoken["seconds"] > 0
    Path("talk.txt").write_text("heart: Hello there.\nkumo: Good morning.\n")
    talk = printed(csm, "say", "--dialogue", "talk.txt", "--bundle", bundle, "--out", "talk.wav")
    assert [turn["who"] for turn in talk["turns"]] == ["heart", "kumo"]
    assert talk["turns"][1]["begin_s"] > talk["turns"][0]["seconds"]
