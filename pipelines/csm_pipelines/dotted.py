"""Settings by their dotted names, `train.recipe.steps=200`, applied to a configuration; values are JSON, else text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from csm_components.spec import Knob
from csm_model.errors import InputError, quoted
from csm_model.rules import broken_rules, nearest, refuse
from csm_pipelines.config import RunConfig

D = TypeVar("D")


def with_settings(config: RunConfig, settings: Iterable[str]) -> RunConfig:
    """Applies `SECTION.FIELD=VALUE` settings.

    Raises:
        InputError: all that is wrong with them: no such setting, with the nearest that there is; another type; a value
            that breaks its rule.
    """
    changed, problems = applied(config, settings)
    refuse(problems)
    return changed


def applied(config: RunConfig, settings: Iterable[str]) -> tuple[RunConfig, list[str]]:
    """The configuration with those settings that are right, and what is wrong with the others, a line each."""
    problems: list[str] = []
    values: dict[tuple[str, str], Any] = {}
    for setting in settings:
        try:
            path, text = _parsed(setting)
            knob = _knob(config, path)
            where = (path[0], path[1])
            values[where] = _placed(knob, values.get(where, config.value(knob)), path, text)
        except InputError as error:
            problems.append(str(error))
    changes: dict[str, dict[str, Any]] = {}
    for (section, name), value in values.items():
        if wrong := Knob(owner=type(config.sections[section]), name=name).problems(value):
            problems += wrong
        else:
            changes.setdefault(section, {})[name] = value
    return config.changed(**changes), problems  # type: ignore[arg-type]  # sections, never the preset


def with_fields(settings: D, given: Iterable[str]) -> D:
    """Applies `FIELD=VALUE` settings to a frozen dataclass of settings; raises `InputError` as `with_settings` does."""
    names = [each.name for each in fields(settings)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    problems: list[str] = []
    for setting in given:
        try:
            (name, *rest), text = _parsed(setting)
            if name not in names:
                raise _unknown(setting, name, names)
            if rest:
                old = values.get(name, getattr(settings, name))
                values[name] = _within(old, rest, _value(text), ".".join([name, *rest]))
            else:
                values[name] = _value(text)
        except InputError as error:
            problems.append(str(error))
    refuse([*problems, *broken_rules(type(settings), values)])
    return replace(settings, **values)  # type: ignore[type-var]


def _parsed(setting: str) -> tuple[list[str], str]:
    """The parts of a setting's name, and its value as it was written."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"setting {setting!r}: write it as key=value, such as gate.max_wer=0.2")
    return key.split("."), text


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _knob(config: RunConfig, path: Sequence[str]) -> Knob:
    """The setting that a name means."""
    section, *rest = path
    if section not in config.sections:
        raise _unknown(".".join(path), section, config.sections)
    known = list(type(config.sections[section]).model_fields)
    if not rest:
        raise InputError(f"setting {section}: must be one of its settings: {section}.{f', {section}.'.join(known)}")
    if rest[0] not in known:
        raise _unknown(".".join(path), rest[0], known, f"{section}.")
    return Knob(owner=type(config.sections[section]), name=rest[0])


def _unknown(setting: str, name: str, known: Iterable[str], before: str = "") -> InputError:
    known = list(known)
    key = setting.partition("=")[0]
    near = nearest(name, known, before=before)
    return InputError(f"setting {key}: there is no {name!r}; there are {', '.join(known)}{near}")


def _placed(knob: Knob, old: Any, path: Sequence[str], text: str) -> Any:
    """The value of a setting, of which the path may name a part."""
    value = _value(text)
    if path[2:]:
        return _within(old, path[2:], value, ".".join(path))
    if knob.text and isinstance(value, int | float):  # text that looks like a number or a word of JSON
        return text
    return value


def _within(old: Any, path: Sequence[str], value: Any, key: str) -> Any:
    """A mapping with the value at a place in it."""
    if not path:
        return value
    if not isinstance(old, Mapping | None):
        raise InputError(f"setting {key}: it is one value, {quoted(old)}, and has no {path[0]!r}")
    return {**(old or {}), path[0]: _within((old or {}).get(path[0]), path[1:], value, key)}
