"""What `--help` shows: Typer's pages, with every default written alike, names taken from the code, and flags bare.

Only the page is changed, not what is parsed: a command is copied, its parameters with it, and the copy is shown.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer import Typer


def _presets() -> Iterable[str]:
    from csm_pipelines.presets import PRESETS

    return PRESETS


def _pipelines() -> Iterable[str]:
    from csm_pipelines.pipelines import PIPELINES

    return PIPELINES


def _models() -> Iterable[str]:
    from csm_model.config import CONFIGS

    return CONFIGS


def _gpus() -> Iterable[str]:
    from csm_model.planner.hardware import GPUS

    return GPUS


def _encodings() -> Iterable[str]:
    from csm_serving.wire.protocol import ENCODINGS

    return ENCODINGS


def _precisions() -> Iterable[str]:
    from typing import get_args

    from csm_model.manifest import Precision

    return get_args(Precision)


NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "presets": _presets,
    "pipelines": _pipelines,
    "models": _models,
    "gpus": _gpus,
    "encodings": _encodings,
    "precisions": _precisions,
}
"""What `{presets}` and the like stand for in the help of an option. They are asked for when a page is shown: to import
them would cost every command its time."""


def help_of(parameter: Any) -> str:
    """The help of an option or argument, with the names that there are."""
    return re.sub(r"\{(\w+)\}", lambda match: _listed(match[1]) or match[0], parameter.help or "")


def _listed(kind: str) -> str:
    """`a, b or c`; nothing for what is no kind of names."""
    if kind not in NAMES:
        return ""
    *names, last = NAMES[kind]()
    return f"{', '.join(names)} or {last}"


def _plain(parameter: Any) -> Any:
    """A copy whose page reads `[default: 8001]`, and names no type where no value is taken."""
    shown = copy.copy(parameter)
    shown.help = help_of(parameter)
    if isinstance(parameter.show_default, str):  # Typer puts it in parentheses, as if it were no value
        shown.help += rf" [dim]\[default: {parameter.show_default}][/dim]"
        shown.show_default = False
    if getattr(parameter, "is_flag", False):
        shown.metavar = ""
    return shown


class _PlainHelp:
    """Shows a page of plain parameters."""

    params: list[Any]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown = copy.copy(self)
        shown.params = [_plain(parameter) for parameter in self.params]
        super(_PlainHelp, shown).format_help(ctx, formatter)  # type: ignore[misc]

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        return None if option is None else _plain(option)


class PlainCommand(_PlainHelp, TyperCommand):
    """A command with a plain page."""


class PlainGroup(_PlainHelp, TyperGroup):
    """A group of commands with a plain page."""


def use_plain_help(commands: Typer) -> None:
    """Gives every command and group a plain page."""
    commands.info.cls = PlainGroup
    for command in commands.registered_commands:
        command.cls = PlainCommand
    for group in commands.registered_groups:
        group.cls = PlainGroup
        if group.typer_instance is not None:
            use_plain_help(group.typer_instance)
