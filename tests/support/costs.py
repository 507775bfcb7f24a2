"""What the test files cost, as shares of the whole (`tests/costs.json`, by `tools/test_costs.py`), and their order.

Shares and not seconds: machines differ by a factor of two and more, the shares hardly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TABLE: Final = Path(__file__).resolve().parent.parent / "costs.json"

TOGETHER: Final = {"triton": "the Triton of serving/conftest.py"}
"""Fixtures of a session that are worth sharing: all tests that use one run in the same process, one after the other."""


@cache
def shares() -> dict[str, float]:
    """Each file's share of the whole cost, in thousandths."""
    table: dict[str, float] = json.loads(TABLE.read_text(encoding="utf-8"))["thousandths"]
    return table


def file_of(item: pytest.Item) -> str:
    """A test's file, from `tests` on."""
    return item.nodeid.partition("::")[0].removeprefix("tests/")


def group_of(item: pytest.Item) -> str:
    """Tests of one group run in one process: those of a file, and those that share a server of the session."""
    fixtures = getattr(item, "fixturenames", ())
    return next((name for name in TOGETHER if name in fixtures and "serving/" in item.nodeid), file_of(item))


def dearest_first(items: list[pytest.Item]) -> None:
    """Sorts groups by what they cost, so that none that takes long begins last; within a group the order stays."""
    costs = _costs(items)
    items.sort(key=lambda item: (-costs[group_of(item)], group_of(item)))


def _costs(items: Iterable[pytest.Item]) -> dict[str, float]:
    files: dict[str, set[str]] = {}
    for item in items:
        files.setdefault(group_of(item), set()).add(file_of(item))
    return {group: sum(shares().get(file, 0.0) for file in sorted(names)) for group, names in files.items()}
