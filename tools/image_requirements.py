"""Cuts `requirements.lock` to what an image needs: some extras or packages, and all that they ask for.

python tools/image_requirements.py --extra serve                        the base install and one extra
python tools/image_requirements.py --no-base --extra tracking           an extra alone
python tools/image_requirements.py --no-base --package torch            one package
python tools/image_requirements.py --extra serve --without nvidia-pytriton

Standard library only: it runs in the base image, before anything is installed. Who asks for whom is read from the
lock's own `# via` lines. They name packages and not extras, so a cut may hold a little too much and never too little.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class CutError(Exception):
    """The lock cannot be cut as asked; one line with the cure."""


@dataclass(frozen=True, kw_only=True)
class Locked:
    """One package of the lock."""

    requirement: str
    """Its lines: name, version and hashes."""
    asked_by: frozenset[str]
    """Names of the packages that ask for it; the project itself among them."""


def canonical(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    """The canonical name at the head of a requirement, as in `pyproject.toml`."""
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    if found is None:
        raise CutError(f"{requirement!r} names no package; correct it in pyproject.toml")
    return canonical(found[0])


def read_lock(text: str) -> dict[str, Locked]:
    """The lock's packages by canonical name."""
    packages = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text)[1:]:
        lines = block.splitlines()
        required = [line for line in lines if not line.startswith("    #")]
        notes = [line.strip("# ").removeprefix("via").strip() for line in lines if line.startswith("    #")]
        packages[name_of(lines[0])] = Locked(
            requirement="\n".join(required) + "\n", asked_by=frozenset(name_of(note) for note in notes if note)
        )
    return packages


def asked_for(project: Mapping[str, Any], extras: Iterable[str], *, base: bool) -> set[str]:
    """Names that the project asks for in these extras, and in its base install where `base` is set."""
    known = project["project"]["optional-dependencies"]
    for extra in extras:
        if extra not in known:
            raise CutError(f"extra {extra!r} is not in pyproject.toml, which has {', '.join(sorted(known))}")
    rows = [row for extra in extras for row in known[extra]] + (project["project"]["dependencies"] if base else [])
    return {name_of(row) for row in rows}


def closure(packages: Mapping[str, Locked], roots: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    """`roots` and all that they ask for, sorted; `without` is left out, and so is what only that asks for.

    Raises `CutError` for a root that is not locked.
    """
    kept_out = set(map(canonical, without))
    found = set(map(canonical, roots)) - kept_out
    for name in sorted(found | kept_out):
        if name not in packages:
            raise CutError(f"{name} is not in requirements.lock; write it again with `make lock`")
    grown = True
    while grown:
        more = {name for name, locked in packages.items() if locked.asked_by & found} - kept_out
        grown = not more <= found
        found |= more
    return sorted(found)


def cut(
    lock: str,
    project: Mapping[str, Any],
    *,
    extras: Iterable[str] = (),
    named: Iterable[str] = (),
    without: Iterable[str] = (),
    base: bool = True,
) -> str:
    """The part of the lock that `extras` (with the `base` install) and the packages `named` need, with all hashes."""
    packages = read_lock(lock)
    roots = asked_for(project, list(extras), base=base) | set(map(canonical, named))
    return "".join(packages[name].requirement for name in closure(packages, roots, without))


def main(arguments: list[str]) -> int:
    """Prints the cut; returns 2 with one line where it cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extra", action="append", default=[], help="an extra of pyproject.toml; may be repeated")
    parser.add_argument("--package", action="append", default=[], help="a locked package; may be repeated")
    parser.add_argument("--without", action="append", default=[], help="a package to leave out; may be repeated")
    parser.add_argument("--no-base", action="store_true", help="without the project's own dependencies")
    given = parser.parse_args(arguments)
    try:
        text = cut(
            (ROOT / "requirements.lock").read_text(encoding="utf-8"),
            tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")),
            extras=given.extra,
            named=given.package,
            without=given.without,
            base=not given.no_base,
        )
    except CutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
