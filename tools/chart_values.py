"""Reads a chart's commented `values.yaml`: what each value is, its type and its default.

A value is documented directly above its key:

    # -- One sentence or more; the lines that follow belong to it.
    # @schema {type: [string, "null"], pattern: "^sha256:"}
    digest: ""

The type is read off the default; `@schema` (a YAML flow mapping of JSON Schema 2020-12 keywords) says more, and must
where the default says nothing: null, an empty list (`items`), an empty map (`additionalProperties`). A map with
`additionalProperties` is free: its keys are not documented one by one. Every other map refuses keys it does not name.

Null is another word for the default, unless the type names it; of a free map, a key that is null is taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


class ChartError(Exception):
    """A chart breaks a rule; one line with the file, the rule and the cure."""


class StrictLoader(yaml.CSafeLoader):
    """PyYAML's loader, which refuses a key that stands twice in one map instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The map of a node; raises `ConstructorError` for a double key."""
        keys = [key.value for key, _ in node.value]
        double = next((key for key in keys if keys.count(key) > 1), None)
        if double is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {double!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


@dataclass(kw_only=True)
class Value:
    """One key of `values.yaml`; a section has `children`, a leaf has none."""

    path: tuple[str, ...]
    """Keys from the root, the own one last."""
    description: str
    """The text above it; may be empty for a section."""
    default: Any
    """What stands in `values.yaml`."""
    schema: dict[str, Any]
    """Its JSON Schema; of a section without its children's."""
    children: list[Value] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The path as one writes it after `--set`."""
        return ".".join(self.path)

    @property
    def nullable(self) -> bool:
        """Whether null is one of its values, and not just another word for the default."""
        return "null" in self.schema.get("type", ())

    def leaves(self) -> Iterator[Value]:
        """Every leaf under it, or itself if it is one, in the file's order."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    def json_schema(self) -> dict[str, Any]:
        """The whole JSON Schema of it."""
        schema = dict(self.schema)
        if self.description:
            schema["description"] = self.description
        if self.children:
            schema["properties"] = {child.path[-1]: child.json_schema() for child in self.children}
        else:
            schema["default"] = self.default
        return schema


def read_values(path: Path) -> Value:
    """The root section of a `values.yaml`. Raises `ChartError`."""
    text = path.read_text(encoding="utf-8")
    try:
        loaded = yaml.load(text, StrictLoader)  # noqa: S506  (a SafeLoader)
        node = yaml.compose(text, yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ChartError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ChartError(f"{path}: holds no map of values")
    root = Value(path=(), description="", default=loaded, schema={"type": "object", "additionalProperties": False})
    try:
        root.children = list(_children(node, loaded, (), text.splitlines()))
    except ChartError as error:
        raise ChartError(f"{path}: {error}") from None
    return root


def _children(node: yaml.MappingNode, loaded: Any, above: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, child in node.value:
        path, default = (*above, key.value), loaded[key.value]
        description, given = _comment(lines, key.start_mark.line, path)
        value = Value(path=path, description=description, default=default, schema=_schema(default, given, path))
        free = "additionalProperties" in given or "$ref" in given
        if isinstance(child, yaml.MappingNode) and child.value and not free:
            value.schema = {**value.schema, "additionalProperties": False}
            value.children = list(_children(child, default, path, lines))
        elif not description:
            raise ChartError(f"{value.name} has no description; write '# -- ...' directly above it")
        yield value


def _comment(lines: list[str], line: int, path: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Description and `@schema` of the key in a line."""
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    comment = [text.lstrip().removeprefix("#").strip() for text in lines[first:line]]
    starts = [number for number, text in enumerate(comment) if text.startswith("-- ")]
    if not starts:
        return "", {}
    words = " ".join(comment[starts[-1] :]).removeprefix("-- ")
    description, marker, schema = words.partition("@schema")
    if not marker:
        return description.strip(), {}
    try:
        given = yaml.load(schema, StrictLoader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError:
        given = None
    if not isinstance(given, dict):
        raise ChartError(f"{'.'.join(path)}: @schema {schema.strip()} is no YAML flow mapping such as {{minimum: 1}}")
    return description.strip(), given


def _schema(default: Any, given: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    name = ".".join(path)
    if default is None and "type" not in given and "$ref" not in given:
        raise ChartError(f'{name} is null, which has no type; write # @schema {{type: [string, "null"]}} above it')
    if default == [] and not {"items", "$ref"} & given.keys():
        raise ChartError(f"{name} is an empty list; write # @schema {{items: ...}} above it")
    if default == {} and not {"additionalProperties", "$ref"} & given.keys():
        raise ChartError(f"{name} is an empty map; write # @schema {{additionalProperties: ...}} above it")
    inferred = {} if default is None else {"type": TYPES[type(default)]}
    return {**inferred, **given}
