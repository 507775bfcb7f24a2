"""Pages of the docs site that are made from the programs: the command line's help, and the modules' docstrings."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import entry_points
from typing import Any

import typer

from csm_cli.help import help_of

COMMANDS = "reference/command-line.md"
API = "reference/api"
PARTS = {
    "csm_serving": "The client of a served model, what goes over the wire, the server and its launcher.",
    "csm_model": "The model: codec, transformer, training, inference, export.",
    "csm_components": "What one pipeline step does.",
    "csm_pipelines": "The steps as one table, and what runs them.",
}
"""The packages that the reference shows, in its order."""
LEFT_OUT = re.compile(r"(\.|^)_|\.kernels(\.|$)|\.triton_model$|\.commands(\.|$)|\.component$|\.cli$")
"""Modules without a page: private ones, kernels, and those that only Kubeflow, Triton or the command line import."""


def reference_pages(packages: Collection[str] = tuple(PARTS)) -> dict[str, str]:
    """The pages by path; docstrings of the named packages, at any depth, only."""
    return {COMMANDS: command_page(), **dict(api_pages(packages))}


def command_page() -> str:
    """Every command with its help, arguments and options."""
    entry = next(entry for entry in entry_points(group="console_scripts") if entry.name == "csm")
    group = typer.main.get_command(sys.modules[entry.load().__module__].app)
    head = (
        "# Command line\n\nEvery command of `csm`, as `csm COMMAND --help` shows it. "
        "An error that you can put right is one line on standard error, with exit status 2; "
        "`--json` prints figures or a list as JSON on standard output, and nothing else there.\n"
    )
    return head + "".join(_command(name, command) for name, command in commands_of("csm", group))


def commands_of(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The commands below one, in the order in which help lists them; a group's own help is left out."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for each, below in command.commands.items():
        yield from commands_of(f"{name} {each}", below)


def _command(name: str, command: Any) -> str:
    about, _, examples = (command.help or "").partition("[bold]Example")
    parts = [f"\n## {name}\n\n{about.strip()}\n"]
    lines = [line.strip().removeprefix(": ") for line in examples.partition("[/bold]")[2].splitlines() if line.strip()]
    if lines:
        parts.append("\n```sh\n" + "\n".join(lines) + "\n```\n")
    rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows:
        parts.append("\n| argument or option | meaning |\n| --- | --- |\n" + "".join(rows))
    return "".join(parts)


def _parameter(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    about = help_of(parameter).replace("\\[", "[").replace("|", "\\|")
    default = parameter.default
    shown = parameter.show_default and default is not None and not callable(default) and default not in ("", (), [])
    if isinstance(parameter.show_default, str):
        about += f" Default: {parameter.show_default}."
    elif parameter.required:
        about += " Required."
    elif shown and not getattr(parameter, "is_flag", False):
        about += f" Default: `{default}`."
    return f"| {names} | {' '.join(about.split())} |\n"


def modules_of(package: str) -> Iterator[str]:
    """The modules that the reference shows: the package, and what is in it at any depth."""
    found = importlib.util.find_spec(package)
    assert found is not None, f"{package} is not installed"
    yield package
    for module in pkgutil.iter_modules(found.submodule_search_locations or [], f"{package}."):
        if LEFT_OUT.search(module.name):
            continue
        if module.ispkg:
            yield from modules_of(module.name)
        else:
            yield module.name


def api_pages(packages: Collection[str]) -> Iterator[tuple[str, str]]:
    """A page for each package with its modules, and one that lists them."""
    listed = []
    prefixes = tuple(f"{package}." for package in packages)
    for package, about in PARTS.items():
        modules = [module for module in modules_of(package) if f"{module}.".startswith(prefixes)]
        if not modules:
            continue
        listed.append(f"\n## {package}\n\n{about}\n\n")
        pages: dict[str, list[str]] = {}
        parents = {module.rpartition(".")[0] for module in modules} | {package}
        for module in modules:
            home = module if module in parents else module.rpartition(".")[0]
            pages.setdefault(home, []).append(module)
        for name, members in sorted(pages.items()):
            shown = [member for member in members if member != name]
            yield f"{API}/{name}.md", f"# {name}\n" + "".join(_module(name, member) for member in (name, *shown))
            listed.append(f"- [{name}]({name}.md)\n")
    entries = "\n".join(re.findall(r"\(([^)]+)\.md\)", "".join(listed)))
    head = "# Python API\n\nEvery public class and function, from its docstring, by package.\n"
    yield f"{API}/index.md", f"{head}{''.join(listed)}\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"


def _module(page: str, module: str) -> str:
    if module == page:  # what a package hands on from its modules is shown there
        return f"\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"
    return f"\n## {module.removeprefix(page + '.')}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n"
