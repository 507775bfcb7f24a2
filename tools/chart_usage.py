"""Finds which values the templates of a chart use, by reading the actions of Go templates.

It follows `with .Values.a` and `$x := .Values.a`, so that `.b` inside such a `with` counts as `a.b`. A section that is
handed on as a whole (`toYaml .Values.a`, an argument of `include`) counts as used with all that is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from chart_values import Value

ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`')
REFERENCE = re.compile(r"(?<![\w).\]$])(\$\w*)?((?:\.\w+)+|\.(?!\w))|(?<![\w$])(\$\w+)")
ASSIGNMENT = re.compile(r"^(?:\$\w+\s*,\s*)?(\$\w+)\s*:?=\s*(.*)$", re.DOTALL)
BLOCKS = ("if", "with", "range", "define", "block")

Path_ = tuple[str, ...]


class Usage:
    """What one template uses: `whole` paths are taken as they are, `opened` ones only looked into."""

    def __init__(self, text: str) -> None:
        self.whole: set[Path_] = set()
        self.opened: set[Path_] = set()
        self._variables: dict[str, Path_ | None] = {}
        self._blocks: list[tuple[str, Path_ | None, Path_ | None]] = []
        self._dot: Path_ | None = None
        for action in ACTION.finditer(text):
            self._read(action[1])

    def _read(self, action: str) -> None:
        if action.startswith("/*"):
            return
        word, _, rest = LITERAL.sub('""', action).partition(" ")
        rest = rest.strip()
        if word == "end":
            _, self._dot, _ = self._blocks.pop()
        elif word == "else":
            keyword, outside, _ = self._blocks[-1]
            self._dot = outside
            inner, _, condition = rest.partition(" ")
            if inner == "with":
                self._dot = self._bind(condition)
            elif inner == "if":
                self._open(condition)
            else:
                assert keyword in BLOCKS, f"else of {keyword}"
        elif word in BLOCKS:
            outside = self._dot
            if word == "with":
                self._dot = self._bind(rest)
            elif word == "if":
                self._open(rest)
            elif word == "range":
                self._use(ASSIGNMENT.sub(r"\2", rest))
                self._dot = None
            else:
                self._dot, self._variables = None, {}
            self._blocks.append((word, outside, self._dot))
        else:
            assigned = ASSIGNMENT.match(f"{word} {rest}")
            if assigned:
                self._variables[assigned[1]] = self._bind(assigned[2])
            else:
                self._use(f"{word} {rest}")

    def _bind(self, expression: str) -> Path_ | None:
        """The path that an expression is, if it is nothing else; it is opened. Otherwise what it names is used."""
        assigned = ASSIGNMENT.match(expression)
        pure = assigned[2] if assigned else expression
        match = REFERENCE.fullmatch(pure.strip())
        path = self._resolve(match) if match else None
        if path is None:
            self._use(pure)
        else:
            self.opened.add(path)
        if assigned:
            self._variables[assigned[1]] = path
        return path

    def _open(self, condition: str) -> None:
        self.opened.update(self._paths(condition))

    def _use(self, expression: str) -> None:
        self.whole.update(self._paths(expression))

    def _paths(self, expression: str) -> Iterator[Path_]:
        for match in REFERENCE.finditer(expression):
            path = self._resolve(match)
            if path is not None:
                yield path

    def _resolve(self, match: re.Match[str]) -> Path_ | None:
        """The path under `.Values` that a reference means; None if it means something else."""
        names = tuple(name for name in (match[2] or "").split(".") if name)
        if "Values" in names:
            return names[names.index("Values") + 1 :]
        variable = match[1] or match[3]
        base = self._variables.get(variable) if variable else self._dot
        return None if base is None else (*base, *names)


def sources(chart: Path) -> list[Path]:
    """The files of a chart that may use values; what is only said to a person (NOTES.txt) does not count."""
    found = [*(chart / "templates").rglob("*"), *(chart / "files").rglob("*")]
    return sorted(path for path in found if path.is_file() and path.name != "NOTES.txt")


def usage_problems(chart: Path, root: Value) -> list[str]:
    """One line for every value that no template uses, and for every use of a value that there is not."""
    used: set[Path_] = set()
    lines = []
    for source in sources(chart):
        text = source.read_text(encoding="utf-8")
        if ".Values" not in text:
            continue
        usage = Usage(text)
        for path in sorted(usage.whole | usage.opened):
            value = _find(root, path)
            if value is None:
                name = source.relative_to(chart)
                lines.append(f"{chart.name}: {name} uses .Values.{'.'.join(path)}, which values.yaml does not have")
            elif path in usage.whole or not value.children:
                used.update(leaf.path for leaf in value.leaves())
    unused = [leaf.name for leaf in root.leaves() if leaf.path not in used]
    return lines + [f"{chart.name}: no template uses the value {name}" for name in unused]


def _find(root: Value, path: Path_) -> Value | None:
    """The value of a path, or the free map that it leads into."""
    value = root
    for name in path:
        child = next((child for child in value.children if child.path[-1] == name), None)
        if child is None:
            free = not value.children and value.schema.get("type") == "object" and value is not root
            return value if free else None
        value = child
    return value
