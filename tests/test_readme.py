"""What README.md says to type is there to be typed; what it and the documents point to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from said_commands import check_command, check_csm, check_make, check_pip, commands_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = commands_of(README)

MADE_HERE = {"runs", "data", "dist", "build"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_works(command: str) -> None:
    check_command(command, {"make": check_make, ".venv/bin/csm": check_csm, "pip": check_pip})


def test_the_readme_has_commands() -> None:
    assert {"make run", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    no_links = r"<!-- site: .*? -->|^```.*?^```|`[^`\n]+`"  # of the docs site alone; code
    text = re.sub(no_links, "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
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
