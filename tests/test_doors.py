"""Each outside library and the environment have one door (`docs/architecture.md`).

import-linter holds the table of libraries (`make check`; pyproject.toml). Here stands what it cannot say: which door is
lazy, which classes may be used where, and who may read an environment variable.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

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

# Variables of the machine or of a launcher, which are nobody's settings; every other one is read by a settings.py.
READS_THE_MACHINE = {
    "csm_serving/launcher/installation.py": "where this machine keeps its Pythons and its loader",
    "csm_serving/launcher/triton.py": "puts its folders before the PATH and LD_LIBRARY_PATH that Triton inherits",
    "csm_model/training/parallel.py": "torchrun tells a worker its rank and its world",
    "csm_components/train/guard.py": "torchrun tells a worker its rank, the launcher its cores",
}


LONG: dict[str, str] = {}
"""Modules of more than 600 lines, and why each is one subject."""


def name_of(path: Path) -> str:
    """`csm_serving/launcher/triton.py`: the module's place under its package's parent."""
    return next(str(path.relative_to(folder.parent)) for folder in PACKAGES.values() if path.is_relative_to(folder))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_environ(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def variables_read(tree: ast.Module) -> list[int]:
    """Lines that read one variable. The whole environment may be handed on to a child process."""
    lines = []
    for node in ast.walk(tree):
        subscript = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and is_environ(node.value)
        call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        get = call and node.func.attr == "get" and is_environ(node.func.value)
        getenv = call and node.func.attr == "getenv"
        inside = isinstance(node, ast.Compare) and any(is_environ(side) for side in node.comparators)
        if subscript or get or getenv or inside:
            lines.append(node.lineno)
    return lines


def imports(tree: ast.AST) -> set[str]:
    """First names of all that is imported, at any depth."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def test_there_is_something_to_look_at() -> None:
    assert {name_of(path).partition("/")[0] for path in MODULES} == set(PACKAGES)


def test_environment_variables_are_read_in_settings() -> None:
    readers = [path for path in MODULES if path.name != "settings.py" and name_of(path) not in READS_THE_MACHINE]
    found = {name_of(path): lines for path in readers if (lines := variables_read(tree_of(path)))}
    assert found == {}, "they read environment variables at these lines; make each a field of settings.py"


def test_the_exceptions_are_still_needed() -> None:
    known = {name_of(path): path for path in MODULES}
    unneeded = [name for name in READS_THE_MACHINE if name not in known or not variables_read(tree_of(known[name]))]
    assert not unneeded, f"{unneeded} read no variable any more; take them out of the table"


@pytest.mark.parametrize("package", PACKAGES)
def test_one_settings_module_a_package(package: str) -> None:
    users = [
        name_of(path)
        for path in MODULES
        if path.is_relative_to(PACKAGES[package]) and "pydantic_settings" in imports(tree_of(path))
    ]
    assert users in ([], [f"{package}/settings.py"])


@pytest.mark.parametrize("library", ["moshi", "mlflow", "minio", "lhotse", "tokenizers"])
def test_heavy_or_optional_libraries_are_imported_where_they_are_used(library: str) -> None:
    """At the top of a module they would be needed, and paid for, by every command that only passes by."""
    eager = [name_of(path) for path in MODULES if any(library in imports(node) for node in eager_nodes(tree_of(path)))]
    assert not eager, f"{eager} import {library} at the top; import it in the function that uses it"


def eager_nodes(tree: ast.Module) -> list[ast.stmt]:
    """Top-level imports, those under `if TYPE_CHECKING` aside."""
    return [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_modules_are_as_long_as_their_subject() -> None:
    """No length is wrong by itself; above this one, somebody says why it is one subject."""
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name for name, count in lines.items() if count > 600} == set(LONG), "two rooms may hide in it"
