"""Rules of settings: what a field's annotation asks of its value, checked by pydantic, and what is said where one is
broken.

A frozen dataclass of settings calls `check_fields` in its `__post_init__`; types are strict (`"3"`, `True` and `2.5`
are no whole numbers), and a number is finite.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeGuard, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic_core import PydanticCustomError

from csm_model.errors import CsmError, InputError, quoted

_WORDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be text",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be an object of names and values",
    "mapping": "must be an object of names and values",
}
"""What a type asks, by the first part of pydantic's name of the error."""
_BOUNDS = {
    "greater_than_equal": ("ge", "must be {:g} or more"),
    "greater_than": ("gt", "must be more than {:g}"),
    "less_than_equal": ("le", "must be {:g} or less"),
    "less_than": ("lt", "must be less than {:g}"),
}
_MINE = "rules"

LISTED = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""For a tuple that JSON gives as a list."""


def by(check: Callable[[Any], object]) -> AfterValidator:
    """The rule that a function checks, which raises `CsmError`; the value stays as it is, and none is always right."""

    def checked(value: Any) -> Any:
        try:
            if value is not None:
                check(value)
        except CsmError as error:
            raise broken([f": {error}"]) from None
        return value

    return AfterValidator(checked)


def broken(lines: Iterable[str]) -> PydanticCustomError:
    """What a validator raises for rules of its own; each line begins with what follows the field's name."""
    return PydanticCustomError(_MINE, "breaks a rule", {"lines": list(lines)})


def problems(error: ValidationError, *, at: str = "", known: Iterable[str] = ()) -> list[str]:
    """What is wrong, a line a field: its name, the value, the rule.

    Args:
        error: pydantic's.
        at: where the fields are: goes before their names.
        known: names of which the nearest to an unknown one is told.
    """
    lines: list[str] = []
    for row in error.errors():
        where, bounds = ".".join(map(str, (at,) * bool(at) + row["loc"])), row.get("ctx", {})
        match row["type"]:
            case "rules":
                lines += [f"{where}{line}" for line in bounds["lines"]]
            case "missing":
                lines.append(f"{where}: is missing")
            case "extra_forbidden":
                lines.append(f"{where}: there is no such setting{nearest(str(row['loc'][-1]), known)}")
            case "literal_error":
                choices = bounds["expected"].replace("'", "").replace(" or ", ", ")
                lines.append(f"{where} {_as_given(row['input'])} is not one of {choices}")
            case kind:
                lines.append(f"{where} {_as_given(row['input'])}: {_rule(kind, row['msg'], bounds)}")
    return lines


def nearest(name: str, known: Iterable[str], *, before: str = "") -> str:
    """The nearest of the names that there are, after what stands `before` it, as a question; empty where none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {before}{near[0]}?" if near else ""


def refuse(lines: Iterable[str]) -> None:
    """Raises `InputError` of all lines in one, if there are any."""
    if found := list(dict.fromkeys(lines)):
        raise InputError("; ".join(found))


def check_fields(settings: Any) -> None:
    """Raises `InputError` for the fields of a dataclass whose values break the rules of their annotations."""
    kind = type(settings)
    refuse(broken_rules(kind, {each.name: getattr(settings, each.name) for each in fields(kind)}))


def broken_rules(kind: Any, values: Mapping[str, Any]) -> list[str]:
    """What is wrong with values of fields of a dataclass; fields that are not there are right."""
    rules = _rules(kind)
    try:
        rules.model_validate(dict(values))
    except ValidationError as error:
        return problems(error, known=rules.model_fields)
    return []


@cache
def _rules(kind: Any) -> type[BaseModel]:
    """The rules of a dataclass's fields, none of which must be there."""
    hints = get_type_hints(kind, include_extras=True)
    default = {each.name: None if each.default is MISSING else each.default for each in fields(kind)}
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    typed: dict[str, Any] = {name: (hints[name], value) for name, value in default.items()}
    return create_model(kind.__name__, __config__=config, **typed)


def finite(value: Any) -> TypeGuard[float]:
    """Whether a value is a number that was measured: neither none, nor NaN, nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rule(kind: str, message: str, bounds: Mapping[str, Any]) -> str:
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return words.format(bounds[name])
    if kind == "finite_number":
        return "must be a finite number"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    first, _, last = kind.partition("_")
    if last in ("type", "parsing", "from_float") and first in _WORDS:
        return _WORDS[first]
    return message.removeprefix("Value error, ")


def _as_given(value: object) -> str:
    """A value as JSON has it, where Python writes it otherwise."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else quoted(value)
