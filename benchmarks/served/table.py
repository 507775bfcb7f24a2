"""What was to be reached, what was found, and whether that will do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    reach: str
    """What is to be reached; empty where a figure is only told."""
    found: str
    met: bool = True


def told(what: str, found: str) -> Row:
    """A figure without a bound."""
    return Row(what=what, reach="", found=found)


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Prints rows as a table of Markdown."""
    print(f"\n**{title}**\n\n| what | reach | found | |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.reach} | {row.found} | {'' if not row.reach else 'met' if row.met else 'MISSED'} |")
    print(flush=True)


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of all lie, the next higher one that was seen; nan of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
