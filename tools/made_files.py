"""Files that are made from others: written in one step each, or compared with what they should be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def drifted(made: Mapping[Path, str]) -> list[Path]:
    """The files that are not there, or not as they should be."""
    return [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def write(made: Mapping[Path, str]) -> None:
    """Writes files, each in one step."""
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def write_or_check(made: Mapping[Path, str], arguments: list[str]) -> int:
    """Names the files that differ and writes them; with `--check` changes nothing. Returns the exit code."""
    changed = drifted(made)
    for path in changed:
        print(path)
    if "--check" in arguments:
        return 1 if changed else 0
    write({path: made[path] for path in changed})
    return 0
