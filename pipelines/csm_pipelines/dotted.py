"""Settings by their dotted names, `train.recipe.steps=200`, applied to a configuration; values are JSON, else text."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from csm_components.spec import StepSettings
from csm_model.errors import InputError
from csm_pipelines.config import RunConfig

Configuration = TypeVar("Configuration")
"""A `RunConfig`, or a frozen dataclass of settings."""


def with_settings(config: Configuration, settings: Iterable[str]) -> Configuration:
    """Applies `key=value` settings.

    Raises:
        InputError: no such setting, with the nearest that there is; another type; a value that breaks its rule.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InputError(f"setting {setting!r}: write it as key=value, such as gate.max_wer=0.2")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        config = _with(config, key.split("."), value, key)
    return config


def _with(node: Any, path: Sequence[str], value: Any, key: str) -> Any:
    head, *rest = path
    if isinstance(node, Mapping):
        return {**node, head: _with(node.get(head, {}), rest, value, key) if rest else value}
    types = _types(node)
    if head not in types:
        near = difflib.get_close_matches(head, types, n=1)
        raise InputError(
            f"setting {key}: there is no {head!r}; there are {', '.join(types)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    old = getattr(node, head)
    if rest and not (is_dataclass(old) or isinstance(old, Mapping | BaseModel)):
        raise InputError(f"setting {key}: {head!r} is one value and has no {rest[0]!r}")
    new = _with(old, rest, value, key) if rest else _checked(types[head], value, key)
    if isinstance(node, RunConfig):
        return replace(node, sections={**node.sections, head: new})
    if isinstance(node, StepSettings):
        return type(node)(**{**dict(node), head: new})
    return replace(node, **{head: new})


def _types(node: Any) -> dict[str, Any]:
    if isinstance(node, RunConfig):
        return {name: type(section) for name, section in node.sections.items()}
    if isinstance(node, BaseModel):
        return {name: field.annotation for name, field in type(node).model_fields.items()}
    hints = get_type_hints(type(node))
    return {each.name: hints[each.name] for each in fields(node)}


def _checked(kind: Any, value: Any, key: str) -> Any:
    """`value` where it fits; int fits float, and anything fits what is written as text."""
    kinds = get_args(kind) or (kind,)
    if str in kinds and not isinstance(value, str) and not (value is None and type(None) in kinds):
        value = str(value)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        if all(row["type"] == "literal_error" for row in error.errors()):
            return value  # the class says which words there are
        raise InputError(f"setting {key}={value!r}: must be {_name(kind)}") from None


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("NoneType", "None")
