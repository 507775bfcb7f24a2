"""What each test file costs, as a share of the whole: `tests/costs.json`, made from what a run of the tests recorded.

`tools/test_costs.py RESULT.xml...` writes the table from pytest's JUnit files; without any it adds new files with a
guess, drops those that are gone, and leaves the others as they are. `--check` compares instead: a file that is missing
is an error, one whose share is far from the table is told in a line. Shares, never seconds: machines differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
TABLE: Final = ROOT / "tests" / "costs.json"
GUESS: Final = 1.0
"""Thousandths of a file of which no run is recorded yet."""
FAR: Final = 4.0
"""A share that is so many times the table's, or as small a part of it, is far from it..."""
NOTABLE: Final = 10.0
"""... where it also differs by so many thousandths of the whole."""


def seconds_by_file(results: Iterable[Path]) -> dict[str, float]:
    """Seconds of each test file, its fixtures among them, from JUnit files."""
    found: dict[str, float] = {}
    for path in results:
        for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it here
            file = file_of(case.get("classname", ""))
            found[file] = found.get(file, 0.0) + float(case.get("time", "0"))
    return found


def file_of(name: str) -> str:
    """`tests.model.test_mimi.TestSlots` as `model/test_mimi.py`."""
    parts = name.split(".")
    modules = [number for number, part in enumerate(parts) if part.startswith("test_")]
    return "/".join(parts[1 : modules[0] + 1] if modules else parts) + ".py"


def thousandths(seconds: Mapping[str, float]) -> dict[str, float]:
    """Shares of the whole, in thousandths, the dearest first."""
    whole = sum(seconds.values()) or 1.0
    shares = {file: round(1000 * seconds[file] / whole, 2) for file in seconds}
    return dict(sorted(shares.items(), key=lambda row: (-row[1], row[0])))


def read_table() -> dict[str, float]:
    """The table as it stands in the repository."""
    table: dict[str, float] = json.loads(TABLE.read_text(encoding="utf-8"))["thousandths"]
    return table


def all_files() -> set[str]:
    """Every test file, from `tests` on."""
    return {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}


def merged(seconds: Mapping[str, float], table: Mapping[str, float]) -> dict[str, float]:
    """A table of all test files: what a run shows of some, and the old table or a guess of the others."""
    there = all_files()
    known = {file: share for file, share in table.items() if file in there}
    if not seconds:
        return known | dict.fromkeys(sorted(there - known.keys()), GUESS)
    scale = sum(known.get(file, GUESS) for file in seconds) / (sum(seconds.values()) or 1.0)
    shown = {file: scale * seconds[file] for file in seconds if file in there}
    return thousandths({file: shown.get(file, known.get(file, GUESS)) for file in there})


def missing(files: Iterable[str], table: Mapping[str, float]) -> list[str]:
    """One line for each file that the table lacks, and for each that is only in the table."""
    there = all_files()
    lost = [f"{file}: not in tests/costs.json" for file in sorted(set(files) - set(table))]
    return lost + [f"{file}: in tests/costs.json, and nowhere else" for file in sorted(set(table) - there)]


def far_off(seconds: Mapping[str, float], table: Mapping[str, float]) -> list[str]:
    """One line for each file whose share of this run is far from its share of the table, among the files of both."""
    both = [file for file in seconds if file in table]
    found, said = (
        thousandths({file: seconds[file] for file in both}),
        thousandths({file: table[file] for file in both}),
    )
    return [
        f"{file}: {found[file]:g} thousandths of this run, {said[file]:g} in tests/costs.json"
        for file in both
        if abs(found[file] - said[file]) > NOTABLE
        and not said[file] / FAR <= found[file] <= max(said[file], 0.01) * FAR
    ]


def main() -> int:
    """Runs from the command line; 1 where `--check` finds a file that is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="JUnit files of a run")
    parser.add_argument("--check", action="store_true", help="compare with the table, and write nothing")
    given = parser.parse_args()
    seconds = seconds_by_file(given.results)
    if not given.check:
        note = "Shares of the tests' whole time, in thousandths: tools/test_costs.py."
        text = json.dumps({"what": note, "thousandths": merged(seconds, read_table())}, indent=1)
        TABLE.write_text(text + "\n", encoding="utf-8")
        return 0
    table = read_table()
    lost, far = missing(seconds, table), far_off(seconds, table)
    for line in lost:
        print(f"error: {line}", file=sys.stderr)
    for line in far:
        print(f"note: {line}", file=sys.stderr)
    if lost or far:
        print("make the table again: .venv/bin/python tools/test_costs.py .test-results/*.xml", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
