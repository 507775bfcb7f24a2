"""Every path of a chart's values, and values of every kind that its schema lets stand there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import yaml
from chart_values import Value
from jsonschema import Draft202012Validator

STRINGS = (
    "1234", "007", "true", "null", "~", "-", "0x10", "1e3", "20261129", "2026-11-29", "12:30:00", "yes",
    "R&D <demo>", "a: b", "# none", "a\"b'c", "{x, y}", "[x]", "*x", "&x", "!x", "%x",
    "@x", "`x`", "x\\y", "x, y", "x: {y", "ä ö", "- x",
)  # fmt: skip
"""Texts that YAML reads as something else where nobody quotes them, or that HTML's escapes would change."""
ADDRESSES = ("http://h.example:80", "http://h.example/R&D?x=%20#y", "http://10.0.0.1:80", "s3://b-1/007/R&D'x")
PLAIN = "plain-text-{number}"
"""What stands in a value's place to see where it comes out."""


def values_at(root: Value) -> Iterator[Value]:
    """Every section and every leaf of a chart's values, outer ones first."""
    for child in root.children:
        yield child
        yield from values_at(child)


def at(values: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path in a values file; None where nothing does."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Sets one value of a tree, which gets the sections that it lacks."""
    *above, last = path
    for key in above:
        values = values.setdefault(key, {})
    values[last] = value


def copy(values: Any) -> Any:
    """A values file that may be changed."""
    return json.loads(json.dumps(values or {}))


def texts(leaf: Value, plain: str) -> list[Any]:
    """Values with a text in them that the leaf's schema allows: `plain`, or what is most like it, then the odd ones."""
    form = form_of(leaf)
    if form is None or "enum" in leaf.schema:
        return []
    takes = Draft202012Validator(leaf.schema).is_valid
    likely = (plain, f"http://{plain}.example:80", f"s3://bucket/{plain}")
    first = next((form(text) for text in likely if takes(form(text))), None)
    if first is None:
        return []
    return [first, *(form(text) for text in (*STRINGS, *ADDRESSES) if takes(form(text)))]


def form_of(leaf: Value) -> Callable[[str], Any] | None:
    """How a text is written as the leaf's value: as it is, in a list, or in a map; None where it takes no text."""
    kind, schema = leaf.schema.get("type"), leaf.schema
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return lambda text: text
    if kind == "array" and schema.get("items", {}).get("type") == "string":
        return lambda text: [text]
    if kind == "object" and schema.get("additionalProperties") == {"type": "string"}:
        return lambda text: {f"key-of-{leaf.name}": text}
    return None


def strings_of(thing: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every scalar of an object with its place; what is JSON or YAML inside a string is looked into."""
    if isinstance(thing, str) and thing[:1] in ("{", "["):
        with suppress(ValueError):
            thing = json.loads(thing)
    elif isinstance(thing, str) and ":\n" in thing:
        with suppress(yaml.YAMLError):
            thing = yaml.safe_load(thing)
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from strings_of(value, (*path, key))
    elif isinstance(thing, list):
        for number, value in enumerate(thing):
            yield from strings_of(value, (*path, number))
    else:
        yield path, thing
