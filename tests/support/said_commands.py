"""Commands that a page tells its reader to type: are they there, with the options that the page gives them?

Those that change nothing are run; of the others the parts are looked at. What they do has tests of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


FIRST_SCREEN = 40
"""Lines of a page that its reader sees without scrolling."""


def first_screen(page: Path) -> str:
    """What a page's reader sees first; a block of code that does not end there is left out by the readers below."""
    return "".join(page.read_text(encoding="utf-8").splitlines(keepends=True)[:FIRST_SCREEN])


def blocks_of(page: str, language: str) -> list[str]:
    """The page's blocks of code in a language; those of a list's items are indented and come without that."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", page, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def commands_of(page: str) -> list[str]:
    """The lines of a page's `sh` blocks, comments left out."""
    return [
        line
        for block in blocks_of(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


@cache
def output_of(*command: str) -> str:
    """What a command prints; an AssertionError where it fails."""
    wide = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 0, f"{shlex.join(command)} ended with {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def check_make(words: list[str]) -> None:
    """Targets and their recipes are there."""
    output_of("make", "--no-print-directory", "--dry-run", *words)


def check_csm(words: list[str]) -> None:
    """The subcommand is there and knows every option that it is given."""
    subcommands = []
    csm = str(Path(sys.executable).with_name("csm"))
    for word in words:
        if word.startswith("-") or " " in word or not word.islower():
            break
        if subcommands and "COMMAND [ARGS]" not in output_of(csm, *subcommands, "--help"):
            break  # an argument
        subcommands.append(word)
    shown = output_of(csm, *subcommands, "--help")
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in shown, f"csm {' '.join(subcommands)} has no {option}"


def check_pip(words: list[str]) -> None:
    """The distribution is of this repository, the extras are its own (others look into the wheels)."""
    assert words[0] == "install"
    named = re.fullmatch(r"(\.(?:/[\w/]+)?)(?:\[([\w,]+)\])?", words[-1])
    assert named, f"pip install {words[-1]}: this project only"
    project = tomllib.loads((ROOT / named[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set((named[2] or "").split(",")) - {""} <= set(project["optional-dependencies"])


def check_command(command: str, checks: Mapping[str, Callable[[list[str]], None]]) -> None:
    """Lets the check of a command's program look at its words; what comes after `>` is passed over."""
    words = shlex.split(command.partition(" > ")[0])
    program, *rest = words
    assert program in checks, f"{command!r}: no check here knows {program}"
    checks[program](rest)
