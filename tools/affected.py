"""The tests that a change touches: those of the changed files, and of what imports them, the nearest first.

`tools/affected.py` runs them with the rules of the house, as far as a few minutes go (`make test-quick`), and names
what it leaves to `make test`. `--list` only says which. Changed is what is not committed, and what differs from
`--base` (default: where this branch left `main`; on `main` the last commit). The graph of imports is grimp's, which
import-linter reads too.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = ROOT / "tests"
HOUSE: Final = ("tests/test_house.py", "tests/test_doors.py", "tests/test_no_races.py")
"""Rules that hold whatever was changed."""
SHARE: Final = 120.0
"""Thousandths of the cost of all tests (`tests/costs.json`) that a quick run may take."""
NOT_QUICK: Final = "not containers and not cluster and not kills"
HELPERS: Final = ("tests/support", "benchmarks", "tools")
"""Folders whose modules tests import by their bare names."""
BESIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "charts/": ("tests/charts/",),
    "deploy/monitoring/": ("tests/charts/",),
    "deploy/profiles/": ("tests/pipelines/test_profile.py",),
    "deploy/environments/": ("tests/charts/test_environments.py",),
    "deploy/images/": ("tests/images/test_build_file.py", "tests/images/test_images_tool.py"),
    "docs/": ("tests/test_readme.py", "tests/test_reference.py", "tests/test_platform_page.py"),
    "README.md": ("tests/test_readme.py",),
    "Makefile": ("tests/test_readme.py",),
    "pyproject.toml": ("tests/test_house.py",),
    "requirements.lock": ("tests/test_house.py",),
}
"""Files that are not imported, and the tests that read them, besides those that name them."""


@dataclass(frozen=True, kw_only=True)
class Touched:
    """A test file, and how many imports lie between it and the change; 0: it was changed itself."""

    file: str
    steps: int


def git(*words: str) -> str:
    """What git prints; empty where it fails."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def changed(base: str | None) -> list[str]:
    """Files that differ from the base, and those that git does not know yet."""
    if base is None:
        fork = git("merge-base", "HEAD", "main")
        base = (
            fork if fork and fork != git("rev-parse", "HEAD") else "HEAD" if git("status", "--porcelain") else "HEAD~1"
        )
    return sorted({*git("diff", "--name-only", base).splitlines(), *_unknown()})


def _unknown() -> list[str]:
    return git("ls-files", "--others", "--exclude-standard").splitlines()


@cache
def packages() -> dict[str, Path]:
    """The folder of each package that the import rules are about."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = project["tool"]["importlinter"]["root_packages"]
    rooms = [ROOT / room for room in project["tool"]["hatch"]["build"]["dev-mode-dirs"]]
    return {name: room / name for name in names for room in rooms if (room / name).is_dir()}


def module_of(file: str) -> str | None:
    """The module that a file is, of the packages or of the tests' helpers."""
    path = ROOT / file
    if path.suffix != ".py":
        return None
    for folder in (*(home.parent for home in packages().values()), *(ROOT / helper for helper in HELPERS)):
        if path.is_relative_to(folder):
            parts = path.relative_to(folder).with_suffix("").parts
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return None


@cache
def importers() -> dict[str, set[str]]:
    """Who imports each module of the packages."""
    import grimp

    graph = grimp.build_graph(*packages(), cache_dir=str(ROOT / ".import_linter_cache"))
    return {module: graph.find_modules_that_directly_import(module) for module in graph.modules}


def named_in(file: Path, known: frozenset[str]) -> set[str]:
    """Modules that a file imports, at any depth, or names in a string: a program that it starts, a place to patch."""
    text = file.read_text(encoding="utf-8")
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {name for word in re.findall(r"csm_\w+(?:\.\w+)*", node.value) for name in _prefixes(word)}
    return found & known


def by_fixtures(test: Path, known: frozenset[str]) -> set[str]:
    """Modules that the fixtures of the folders above use, those that a test file asks for."""
    asked = _arguments(ast.parse(test.read_text(encoding="utf-8")))
    found: set[str] = set()
    folder = test.parent
    while folder.is_relative_to(TESTS):
        given = _fixtures(folder / "conftest.py", known) if (folder / "conftest.py").exists() else {}
        while wanted := asked & given.keys():
            asked -= wanted
            for name in wanted:
                modules, more = given.pop(name)
                found |= modules
                asked |= more
        folder = folder.parent
    return found


@cache
def _read_fixtures(file: Path, known: frozenset[str]) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name).partition(".")[0]: {alias.name} for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: {node.module, f"{node.module}.{alias.name}"} for alias in node.names}
    found = {}
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
            modules = set().union(*(names[name] for name in used & names.keys()))
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and node.module:
                    modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            found[function.name] = (frozenset(modules & known), frozenset(_arguments(function) | used))
    return found


def _fixtures(file: Path, known: frozenset[str]) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """What each function of a conftest imports or uses, and the names that it asks for in turn."""
    return dict(_read_fixtures(file, known))


def _arguments(tree: ast.AST) -> set[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {argument.arg for function in functions for argument in function.args.args}


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def distances(modules: Iterable[str], users: Mapping[str, set[str]]) -> dict[str, int]:
    """How many imports lie between each module and the nearest of some."""
    found = dict.fromkeys(modules, 0)
    row = list(found)
    while row:
        following = sorted({user for module in row for user in users.get(module, ())} - found.keys())
        found |= dict.fromkeys(following, 1 + max(found[module] for module in row))
        row = following
    return found


def touched(files: Iterable[str]) -> list[Touched]:
    """Test files that a change touches, the nearest first."""
    files = list(files)
    helpers = {
        path: module_of(str(path.relative_to(ROOT))) for folder in HELPERS for path in (ROOT / folder).rglob("*.py")
    }
    graph = importers()
    known = frozenset({*graph, *(module for module in helpers.values() if module)})
    users = {module: set(who) for module, who in graph.items()}
    for path, module in helpers.items():
        for used in named_in(path, known) if module else ():
            users.setdefault(used, set()).add(str(module))
    near = distances([module for file in files if (module := module_of(file)) in known and module], users)
    found: dict[str, int] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        steps = [1 + near[module] for module in named_in(path, known) | by_fixtures(path, known) if module in near]
        steps += [0 if file == name else 1 for file in files if file == name or _is_beside(path, name, file)]
        if steps:
            found[name] = min(steps)
    return sorted((Touched(file=file, steps=steps) for file, steps in found.items()), key=lambda each: each.steps)


def _is_beside(path: Path, test: str, file: str) -> bool:
    """Whether a test reads a file that is not imported: its folder's, or one that it names."""
    folder = Path(test).parent.as_posix()
    beside = any(file.startswith(place) and test.startswith(tests) for place, tests in BESIDE.items())
    if beside or file == f"{folder}/conftest.py" or file.startswith(f"{folder}/golden/"):
        return True
    return not file.endswith((".py", ".md")) and Path(file).name in path.read_text(encoding="utf-8")


def within(tests: Iterable[Touched], costs: Mapping[str, float]) -> tuple[list[Touched], list[Touched]]:
    """Those that a quick run takes, and those that it leaves out."""
    taken, left, spent = [], [], 0.0
    for each in tests:
        cost = costs.get(each.file.removeprefix("tests/"), 0.0)
        if spent + cost <= SHARE or each.steps == 0:
            taken.append(each)
            spent += cost
        else:
            left.append(each)
    return taken, left


def main() -> int:
    """Runs from the command line; pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="a commit to compare with")
    parser.add_argument("--list", action="store_true", help="say which tests, and run none")
    given, more = parser.parse_known_args()
    files = changed(given.base)
    costs = json.loads((TESTS / "costs.json").read_text(encoding="utf-8"))["thousandths"]
    taken, left = within(touched(files), costs)
    print(f"{len(files)} changed files touch {len(taken) + len(left)} test files", flush=True)
    for each in taken if given.list else ():
        print(f"  {each.steps}  {each.file}")
    if left:
        names = " ".join(each.file.removeprefix("tests/") for each in left)
        print(f"left to `make test`, farther off or too long: {names}", flush=True)
    if given.list:
        return 0
    chosen = list(dict.fromkeys([*(each.file for each in taken), *HOUSE]))
    workers = min(2, len(os.sched_getaffinity(0)))
    together = ["-n", str(workers), "--dist", "loadgroup", "--no-loadscope-reorder"] if workers > 1 else []
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", NOT_QUICK, *together, *more, *chosen], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
