"""The tests in lanes: `main` proves the product on this machine (`make test`), the others take long or need more.

`tools/lanes.py main -- -k mimi` runs one, with more options for pytest; `tools/lanes.py --all` runs each in turn, as CI
does. What it says last is one line that sums them. Each lane leaves `.test-results/LANE.xml`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / ".test-results"
NO_TESTS: Final = 5
"""pytest's exit code where it found nothing to run."""
INTERRUPTED: Final = 130
"""The exit code where somebody stops the run: no lane follows."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Tests that run together."""

    what: str
    """Said by `--list`."""
    marks: str
    """pytest's expression of marks; the marks follow from what a test starts (`tests/support/starts.py`)."""
    minutes: int
    """After which it is stopped: room for a machine of half the speed."""
    workers: int = 1
    """Processes that share the tests."""
    env: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""
    """A flag of the processor without which the lane says nothing new."""


APART: Final = ("containers", "cluster", "kills", "company")
"""Marks of what takes long or needs root: it has lanes of its own."""
AVX2: Final = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "CSM_CPU_ISA": "avx2",
}
"""A processor with AVX-512 as one without it sees the world: torch, oneDNN, MKL, and this program's kernels."""
LANES: Final[Mapping[str, Lane]] = {
    "main": Lane(
        what="everything that proves the product on this machine",
        marks=" and ".join(f"not {mark}" for mark in APART),
        minutes=60,
        workers=2,
    ),
    "cluster": Lane(
        what="pipelines in shards, jobs of several pods, the platform's servers as their chart starts them",
        marks="cluster and not containers and not kills",
        minutes=15,
        workers=2,
    ),
    "kills": Lane(what="trainings that are killed again and again", marks="kills", minutes=8),
    "company": Lane(
        what="each number of streams from 1 to 64, by either set of instructions",
        marks="company",
        minutes=10,
    ),
    "avx2": Lane(
        what="what is promised to the bit, as a processor without AVX-512 computes it",
        marks="bits and not kills",
        minutes=12,
        workers=2,
        env=AVX2,
        needs="avx512f",
    ),
    "images": Lane(
        what="container images: built, looked into, run",
        marks="containers",
        minutes=25,
        env={"TEST_IMAGES": os.environ.get("TEST_IMAGES", "tracking")},
    ),
}


@dataclass(kw_only=True)
class Counted:
    """How the tests of some lanes ended."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, more: Counted) -> None:
        """Sums."""
        self.passed, self.failed = self.passed + more.passed, self.failed + more.failed
        self.skipped += more.skipped

    def line(self) -> str:
        """The closing line."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def count(result: Path) -> Counted:
    """Counts of a JUnit file; nothing where there is none."""
    found = Counted()
    if result.exists():
        for suite in ET.parse(result).getroot().iter("testsuite"):  # noqa: S314 - pytest wrote it here
            tests, bad, skipped = (
                sum(int(suite.get(name, "0")) for name in names)
                for names in (("tests",), ("failures", "errors"), ("skipped",))
            )
            found.add(Counted(passed=tests - bad - skipped, failed=bad, skipped=skipped))
    return found


def command(name: str, more: Sequence[str] = ()) -> list[str]:
    """pytest's command line for a lane."""
    lane = LANES[name]
    together = ["-n", str(lane.workers), "--dist", "loadgroup", "--no-loadscope-reorder"] if lane.workers > 1 else []
    return [
        *(sys.executable, "-m", "pytest", "-q", "-m", lane.marks, *together),
        *(f"--junitxml={RESULTS / f'{name}.xml'}", "-o", "junit_duration_report=total", "--durations=25"),
        *more,
    ]


def run(name: str, more: Sequence[str] = ()) -> tuple[int, Counted]:
    """Runs a lane to its end or its limit; returns an exit code and the counts."""
    lane = LANES[name]
    print(f"== {name}: {lane.what}", flush=True)
    if lane.needs and lane.needs not in Path("/proc/cpuinfo").read_text(encoding="utf-8").split():
        print(f"this processor has no {lane.needs}: the lane main has shown it already", flush=True)
        return 0, Counted()
    RESULTS.mkdir(exist_ok=True)
    result = RESULTS / f"{name}.xml"
    result.unlink(missing_ok=True)
    with subprocess.Popen(command(name, more), cwd=ROOT, env={**os.environ, **lane.env}) as pytest:
        try:
            status = pytest.wait(60 * lane.minutes)
        except subprocess.TimeoutExpired:
            print(f"error: the lane {name} took more than {lane.minutes} minutes and was stopped", file=sys.stderr)
            status = stopped(pytest)
        except KeyboardInterrupt:
            print(f"error: the lane {name} was stopped from outside", file=sys.stderr)
            stopped(pytest)
            status = INTERRUPTED
    counted = count(result)
    if status == NO_TESTS:
        print(f"error: the lane {name} has no tests (pytest's exit code {NO_TESTS}); look at ARGS", file=sys.stderr)
    if status != 0 and not counted.failed:
        counted.failed = 1  # it was stopped, or could not begin
    return status, counted


def stopped(pytest: subprocess.Popen[bytes]) -> int:
    """Lets pytest end its servers and write what it has; 1."""
    pytest.send_signal(signal.SIGINT)
    try:
        pytest.wait(60)
    except subprocess.TimeoutExpired:
        pytest.kill()
    return 1


def run_all(names: Iterable[str], more: Sequence[str] = ()) -> int:
    """Runs lanes in turn, each though another has failed; the closing line is the last."""
    total, status = Counted(), 0
    for name in names:
        code, counted = run(name, more)
        print(f"== {name}: {counted.line()}", flush=True)
        total.add(counted)
        status = status or code
        if code == INTERRUPTED:
            break
    print(total.line(), flush=True)
    return status


def main() -> int:
    """Runs from the command line."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that servers end with the tests
    given, more = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lanes", nargs="*", choices=[[], *LANES], metavar="LANE", help=", ".join(LANES))
    parser.add_argument("--all", action="store_true", help="every lane in turn")
    parser.add_argument("--list", action="store_true", help="what each lane is")
    asked = parser.parse_args(given)
    if asked.list:
        print("\n".join(f"{name:8} {lane.what}" for name, lane in LANES.items()))
        return 0
    names = list(LANES) if asked.all else asked.lanes
    if not names:
        parser.error(f"name a lane: {', '.join(LANES)}; or --all")
    return run_all(names, more)


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What comes before and after `--`."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


if __name__ == "__main__":
    sys.exit(main())
