"""How the packages are divided: imports without circles, one name for one thing, files as long as their subject."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "csm_model": ROOT / "model" / "csm_model",
    "csm_serving": ROOT / "deploy" / "serving" / "csm_serving",
    "csm_scaling": ROOT / "deploy" / "scaling" / "csm_scaling",
    "csm_components": ROOT / "components" / "csm_components",
    "csm_pipelines": ROOT / "pipelines" / "csm_pipelines",
    "csm_cli": ROOT / "pipelines" / "csm_cli",
}
MODULES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))

KNOWN_CIRCLES: Set[frozenset[str]] = {
    # The codec makes its own decoder of slots, which is written over the codec's parts.
    frozenset({"csm_model.codec.rvq", "csm_model.codec.rvq_decoder"}),
}

LONG_FILES: Mapping[str, str] = {}
"""Files of more than 600 lines, each with why it is one subject."""


def name_of(path: Path) -> str:
    """`csm_serving/wire/opus.py`: the module's place under its package's parent."""
    return next(str(path.relative_to(folder.parent)) for folder in PACKAGES.values() if path.is_relative_to(folder))


def circles(imports: Mapping[str, Set[str]]) -> set[frozenset[str]]:
    """Sets of modules that import each other, over however many others: Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found = set()

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        path.append(module)
        for other in imports.get(module, set()):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in path:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            start = path.index(module)
            members, path[start:] = path[start:], []
            if len(members) > 1 or module in imports.get(module, set()):
                found.add(frozenset(members))

    for module in imports:
        if module not in index:
            visit(module)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set(), "f": {"f"}}
    assert circles(graph) == {frozenset("abc"), frozenset("f")}


def test_no_modules_import_each_other() -> None:
    """Neither at the top, nor inside a function, nor for the types alone: a circle is one module in several files."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found = circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    assert found == KNOWN_CIRCLES


def test_a_long_file_says_why() -> None:
    long = {name_of(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 600}
    assert long == set(LONG_FILES), "a file of more than 600 lines is a question: answer it in LONG_FILES, or divide it"
