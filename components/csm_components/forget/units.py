"""What lies on a shelf, in units that go whole: a step's folder of a run, a tree of a storage, a file by itself.

Conversations in a run's folder are the exception: of them only those go that hold a record, with what names them all,
so that the next run makes what is missing and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from csm_components.forget.shelves import RunsShelf, Shelf, StorageShelf
from csm_components.forget.traces import Traces, holds
from csm_components.ingest.blocklist import BLOCKLIST, Blocklist
from csm_components.table import STEPS
from csm_components.tree_list import MADE, TREE
from csm_model.errors import CsmError
from csm_model.files import known_json

Sort = Literal["conversations", "made", "models", "copy", "yours"]
"""Conversations; what steps made of them; what has learnt; copies of corpora; and what no step of ours has written."""
_MODELS = frozenset({"train", "bundle", "register", "release", "trained", "exported", "releases", "bundles"})
"""Folders with what has learnt, which cannot forget; of these only single files go."""
_MADE = frozenset(
    output.at.split("/")[0] or output.kind.name
    for step in STEPS
    for task in (step, *step.tasks)
    for output in task.outputs
)
"""Folders of a storage that steps write trees of conversations, and of what is made of them, to."""
_BY_FILE = frozenset({"logs", "mlruns", "steps", "ledger", "inputs", *_MODELS})
"""Of these, each file by itself."""
_PART = re.compile(r"parts/[^/]+\.json")
_NAMES_ALL = ("cuts.jsonl.gz", "rejected.jsonl", "manifest.json", MADE, TREE)
"""Files of conversations that speak of them all."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Files that go together."""

    shelf: Shelf
    name: str
    """Beginning of their keys, or the one key."""
    keys: tuple[str, ...]
    sort: Sort

    def inner(self, key: str) -> str:
        """A key without the unit's name."""
        return key.removeprefix(self.name).lstrip("/")

    def read(self, name: str) -> Any | None:
        """The JSON of one of its files; None where there is none that can be read."""
        key = f"{self.name}/{name}"
        if key not in self.keys:
            return None
        try:
            return known_json(self.shelf.open(key))
        except CsmError:
            return None

    def parts(self) -> dict[str, Mapping[str, Any]]:
        """Its conversations, by the keys that they lie under."""
        found = {key: self.read(self.inner(key)) for key in self.keys if _PART.fullmatch(self.inner(key))}
        return {key: part for key, part in found.items() if isinstance(part, dict) and "turns" in part}

    def size(self, keys: Sequence[str]) -> int:
        """Bytes of some of its files, as far as they are known without fetching them."""
        listed = (self.read(TREE) or {}).get("files", {})
        return sum(listed[row]["size"] if (row := self.inner(key)) in listed else self.shelf.size(key) for key in keys)


def units_of_runs(shelf: RunsShelf) -> list[Unit]:
    """The units of this machine's runs."""
    groups: dict[str, list[str]] = {}
    for key in shelf.all():
        top, *rest = key.split("/")
        alone = len(rest) < 2 or top == "mlruns" or rest[0] in _BY_FILE
        name = key if alone else f"{top}/{rest[0]}"
        if not _is_ours(key):
            groups.setdefault(name, []).append(key)
    return [
        Unit(
            shelf=shelf, name=name, keys=tuple(keys), sort="conversations" if name.endswith("/ingest") else _sort(name)
        )
        for name, keys in groups.items()
    ]


def _sort(name: str) -> Sort:
    return "models" if _MODELS & set(name.split("/")[:2]) else "made"


def _is_ours(key: str) -> bool:
    """Whether a file of the runs is one that is never taken away: configurations, MLflow's own, locks."""
    name = key.rpartition("/")[2]
    return name in (BLOCKLIST, "config.json", ".lock", ".step.lock") or key.startswith("mlflow.db")


def units_of_storage(shelf: StorageShelf) -> list[Unit]:
    """The units of a storage: its trees, whole ones and halves of those that steps write, and single files."""
    keys = shelf.all()
    trees = {key.removesuffix(f"/{TREE}") for key in keys if key.endswith(f"/{TREE}")}
    groups: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split("/")
        inside = ("/".join(parts[:count]) for count in range(1, len(parts)))
        name = next((each for each in inside if each in trees), None) or _half(parts) or key
        if key != BLOCKLIST:
            groups.setdefault(name, []).append(key)
    return [Unit(shelf=shelf, name=name, keys=tuple(rows), sort=_sort_of_tree(name)) for name, rows in groups.items()]


def _half(parts: Sequence[str]) -> str | None:
    """The tree that a file belongs to whose list is not there: a step was stopped, or a forgetting was."""
    depth = 3 if parts[0] == "shards" else 2
    return "/".join(parts[:depth]) if parts[0] in {*_MADE, "inputs"} and depth < len(parts) else None


def _sort_of_tree(name: str) -> Sort:
    top = name.split("/")[0]
    if top == "conversations" or name.startswith("shards/ingest/"):
        return "conversations"
    if top in _MODELS:
        return "models"
    if top == "inputs":
        return "copy"
    return "made" if top in {*_MADE, "ledger"} else "yours"


def doomed(unit: Unit, rows: Blocklist, traces: Traces) -> tuple[list[str], list[str]]:
    """The files of a unit that hold a record: those that go first, and those that go last, for they show what else to
    look for.

    Args:
        unit: the unit.
        rows: who and what is to be forgotten.
        traces: what they have left anywhere.
    """
    if unit.sort == "conversations":
        return _of_conversations(unit, rows)
    if unit.sort == "models" or len(unit.keys) == 1:
        return [key for key in unit.keys if _holds(unit, key, traces)], []
    shows = f"{unit.name}/manifest.json" if _made_of(unit, traces) else None
    shows = shows or next((key for key in unit.keys if _holds(unit, key, traces)), None)
    return ([*_record_first(key for key in unit.keys if key != shows), shows], []) if shows else ([], [])


def _record_first(keys: Iterable[str]) -> list[str]:
    """Files in the order in which they go: what says that they are whole goes first."""
    return sorted(keys, key=lambda key: not key.endswith((TREE, MADE)))


def _of_conversations(unit: Unit, rows: Blocklist) -> tuple[list[str], list[str]]:
    parts = {key: part for key, part in unit.parts().items() if holds(part, rows)}
    if not parts:
        return [], []
    if isinstance(unit.shelf, RunsShelf):
        files = {f"{unit.name}/{part['file']}" for part in parts.values() if part.get("file")}
        halves = {key for key in unit.keys if key.endswith(".partial")}
        names_all = {f"{unit.name}/{name}" for name in _NAMES_ALL}
        first = [key for key in unit.keys if key in files | halves | names_all]
    else:
        first = [key for key in unit.keys if key not in parts]
    return _record_first(first), list(parts)


def _made_of(unit: Unit, traces: Traces) -> bool:
    """Whether a unit is tokens of a data set that holds a record."""
    manifest = unit.read("manifest.json") if unit.sort == "made" else None
    return isinstance(manifest, dict) and manifest.get("dataset_digest") in traces.datasets


def _holds(unit: Unit, key: str, traces: Traces) -> bool:
    try:
        path = unit.shelf.open(key)
        return path.is_file() and traces.in_file(path)
    except CsmError:
        return False
