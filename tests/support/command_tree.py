"""The command `csm` as a tree: every command and every group, by the words that name it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from csm_cli.cli import app


def tree(words: tuple[str, ...] = (), command: Any = None) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every group and command, the whole first, in the order in which help lists them."""
    command = typer.main.get_command(app) if command is None else command
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from tree((*words, name), below)


TREE = dict(tree())
COMMANDS = {words: command for words, command in TREE.items() if not hasattr(command, "commands")}
"""Those that do something, without the groups."""


def shown(words: tuple[str, ...]) -> str:
    """`csm runs list`, or `csm`."""
    return " ".join(("csm", *words))
