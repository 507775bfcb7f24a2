"""Every page of help: defaults where there are some, names as the code has them, and nothing in a program's words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_tree import COMMANDS, TREE, shown

from csm_cli.help import NAMES, help_of
from csm_model.planner.job import SpeechShape
from csm_pipelines.presets import PRESETS
from csm_serving.client.dialogue import PAUSE_S
from csm_serving.settings import ServingSettings

Csm = Callable[..., Any]
every_page = pytest.mark.parametrize("words", TREE, ids=shown)


def rows(page: str) -> dict[str, str]:
    """Each parameter's line, by its name: `--grpc-port` of an option, `bundle` of an argument."""
    found = {}
    for line in page.splitlines():
        if match := re.match(r"│[* ]*(--[\w-]+|[a-z][\w-]*(?=(?:\.\.\.)? +<))(.*)│$", line):
            found[match[1]] = line.strip("│ ")
    return found


def default_of(parameter: Any) -> str | None:
    """What its line must give as its default."""
    if isinstance(parameter.show_default, str):
        return str(parameter.show_default)
    if parameter.required or parameter.default in (None, "") or not parameter.show_default:
        return None
    if parameter.is_flag:
        if not parameter.secondary_opts:
            return None
        return str((parameter.opts if parameter.default else parameter.secondary_opts)[0]).lstrip("-")
    return str(parameter.default)


@every_page
def test_every_default_is_shown_and_nothing_that_only_a_program_reads(
    csm: Csm, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # no line is broken
    page = csm(*words, "--help").out
    lines = rows(page)
    for parameter in TREE[words].params:
        name = parameter.name if parameter.param_type_name == "argument" else parameter.opts[0]
        found = re.search(r"\[default: (.*)\]$", lines[name])
        assert (found and found[1]) == default_of(parameter), lines[name]
        assert help_of(parameter) in lines[name]
    assert "[default: (" not in page
    assert "<bool>" not in page
    assert not re.search(r"^│[* ]*--.*(<list\[|<\w+ range>)", page, re.MULTILINE), "give the option a metavar"
    assert not re.search(r"\{(" + "|".join(NAMES) + r")\}", page)


def test_there_are_defaults_to_see() -> None:
    every = [parameter for command in COMMANDS.values() for parameter in command.params]
    assert sum(isinstance(parameter.show_default, str) for parameter in every) > 30
    assert sum(default_of(parameter) is not None for parameter in every) > 100


@every_page
def test_an_option_says_what_it_is_in_a_phrase(words: tuple[str, ...]) -> None:
    """Without the title of its panel, and without the option above it."""
    for parameter in TREE[words].params:
        text = help_of(parameter)
        name = f"{shown(words)} {parameter.opts[0]}"
        assert text.endswith((".", "]")), f"{name}: {text!r}"
        assert not re.match(r"(Of|In|By|For|Its|Their|That|This)\b", text), f"{name}: {text!r}"
        assert len(text.split()) > 1, f"{name}: {text!r}"


def test_defaults_written_by_hand_are_the_codes() -> None:
    """Where an option left out means that the settings hold, its default is written beside it."""

    def written(command: str, name: str) -> str:
        (found,) = (each.show_default for each in COMMANDS[command,].params if each.name == name)
        return str(found)

    fields = ServingSettings.model_fields
    numbers = [each for each in COMMANDS["serve",].params if re.fullmatch(r"[\d.]+", str(each.show_default))]
    assert {each.name for each in numbers} >= {"grpc_port", "http_port", "metrics_port", "slots", "queue"}
    for each in numbers:
        field = fields.get(each.name) or fields[f"{each.name}_s"]
        assert float(each.show_default) == field.default, each.name
    for command in ("say", "bench-serve"):
        assert written(command, "url") == f"{fields['host'].default}:{fields['grpc_port'].default}"
    assert float(written("say", "pause")) == PAUSE_S
    assert float(written("plan", "padding")) == SpeechShape().padding


def test_an_option_that_takes_a_preset_says_which_there_are() -> None:
    takers = {
        words: help_of(parameter)
        for words, command in COMMANDS.items()
        for parameter in command.params
        if parameter.name == "preset"
    }
    plan = takers.pop(("plan",))
    assert "csm-8b" in plan
    assert len(takers) >= 5
    assert all(", ".join(list(PRESETS)[:-1]) in text for text in takers.values())


@pytest.mark.parametrize(("line", "completed"), [("csm sch", "schedule"), ("csm run --pre", "--preset")])
def test_the_shell_completes(line: str, completed: str) -> None:
    asked = {"_CSM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        [Path(sys.executable).with_name("csm")], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [completed]
