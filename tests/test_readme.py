"""What README.md says to type is there to be typed; what it and the documents point to exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


MADE_HERE = {"runs", "data", "dist"}


def check(*command: str) -> str:
    wide = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 0, f"{shlex.join(command)} ended with {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def check_make(words: list[str]) -> None:
    """Targets and their recipes are there; what they do has tests of its own."""
    check("make", "--no-print-directory", "--dry-run", *words)


def check_csm(words: list[str]) -> None:
    """The subcommand is there and knows every option that README gives it; a plain `--help` is run as it stands."""
    subcommands = []
    for word in words:
        if word.startswith("-") or " " in word or not word.islower():
            break
        subcommands.append(word)
    shown = check(str(Path(sys.executable).with_name("csm")), *subcommands, "--help")
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in shown, f"csm {' '.join(subcommands)} has no {option}"


def check_pip(words: list[str]) -> None:
    """The distribution is this one, the extras are its own (test_house looks into the wheel)."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert words[0] == "install"
    named = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[-1])
    assert named, f"pip install {words[-1]}: README installs this project only"
    assert set((named[1] or "").split(",")) - {""} <= set(extras)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_works(command: str) -> None:
    program, *words = shlex.split(command)
    checks = {"make": check_make, ".venv/bin/csm": check_csm, "pip": check_pip}
    assert program in checks, f"README says {command!r}, which no check here knows how to run"
    checks[program](words)


def test_the_readme_has_commands() -> None:
    assert {"make run", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))]
    missing = [target for target in targets if target and "://" not in target and not (page.parent / target).exists()]
    assert not missing, f"{page.name} points to {missing}"


def test_every_room_has_a_line() -> None:
    """Each top-level folder with something in it is named in the README's table."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in MADE_HERE and path.name[0] != "."]
    rooms = {
        folder.name for folder in folders if any(path.is_file() and path.suffix != ".pyc" for path in folder.rglob("*"))
    }
    named = {target.split("/")[0] for target in re.findall(r"^\| \[[^]]*\]\(([^)]+)\)", README, re.MULTILINE)}
    assert rooms == named
