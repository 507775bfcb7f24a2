"""The tests themselves: none was lost, each is in a lane, and their marks are what they start."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import affected
import costs
import lanes
import pytest
import starts
import test_costs
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BEFORE = HERE / "ids" / "before.txt.gz"
MOVED = HERE / "ids" / "moved.txt"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line of `moved.txt`."""

    old: str
    new: tuple[str, ...] = ()
    """None: any parameter of the same test."""
    gone: str = ""
    """Why it is no more."""

    def becomes(self, test: str) -> tuple[re.Pattern[str], ...] | None:
        """Patterns of what a test became; None where the rule is not about it."""
        found = re.fullmatch(_pattern(self.old, groups=True), test)
        if found is None:
            return None
        if self.gone:
            return ()
        if not self.new:
            return (re.compile(rf"{re.escape(test.partition('[')[0])}(\[.*)?"),)
        first = found[1] if found.groups() else ""
        return tuple(re.compile(_pattern(new.replace("{}", first))) for new in self.new)


def _pattern(text: str, *, groups: bool = False) -> str:
    return ("(.*)" if groups else ".*").join(re.escape(part) for part in text.split("*"))


def rules() -> Iterator[Rule]:
    for line in MOVED.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        before, dashes, why = line.partition(" -- ")
        old, arrow, new = line.partition(" => ")
        assert (dashes and why) or arrow or line.endswith(" ~"), f"{MOVED.name}: {line!r} is no rule"
        if dashes:
            yield Rule(old=before, gone=why)
        else:
            yield Rule(old=old.removesuffix(" ~"), new=tuple(new.split(" , ")) if arrow else ())


def lost(before: list[str], now: set[str], moved: list[Rule]) -> list[str]:
    """Tests that are gone, and for which no rule names a test that is there."""
    gone = []
    for test in before:
        if test in now:
            continue
        became = next((found for rule in moved if (found := rule.becomes(test)) is not None), None)
        if became is None or not all(any(pattern.fullmatch(other) for other in now) for pattern in became):
            gone.append(test)
    return gone


@pytest.fixture(scope="module")
def collected(request: pytest.FixtureRequest) -> Mapping[str, set[str]]:
    """The marks of all tests by their ids; skips where not all of them were asked for."""
    found = request.config.stash[starts.COLLECTED]
    files = {test.partition("::")[0] for test in found}
    if missing := {path.relative_to(ROOT).as_posix() for path in HERE.rglob("test_*.py")} - files:
        pytest.skip(f"only a part of the tests was asked for: {len(missing)} files were not collected")
    return {test.replace(str(ROOT), "ROOT"): marks for test, marks in found.items()}


def test_no_test_was_lost(collected: Mapping[str, set[str]]) -> None:
    before = gzip.decompress(BEFORE.read_bytes()).decode().splitlines()
    assert len(before) == 4229
    gone = lost(before, set(collected), list(rules()))
    assert gone[:20] == [], f"{len(gone)} tests are gone; where did each go? {MOVED.name}"


def test_a_lost_test_is_noticed() -> None:
    moved = [
        Rule(old="a.py::test_x[*]", new=("b.py::test_x[{}]",)),
        Rule(old="a.py::test_all[*]"),
        Rule(old="a.py::test_feature", gone="the feature is no more"),
    ]
    before = ["a.py::test_x[1]", "a.py::test_x[2]", "a.py::test_all[old]", "a.py::test_gone", "a.py::test_feature"]
    now = {"b.py::test_x[1]", "a.py::test_all[new]"}
    assert lost(before, now, moved) == ["a.py::test_x[2]", "a.py::test_gone"]


def test_every_test_is_in_a_lane(collected: Mapping[str, set[str]]) -> None:
    from _pytest.mark.expression import Expression

    expressions = [Expression.compile(lane.marks) for lane in lanes.LANES.values()]
    nowhere = [
        test
        for test, marks in collected.items()
        if not any(each.evaluate(lambda name, marks=marks, **_: name in marks) for each in expressions)
    ]
    assert nowhere == []


def test_every_mark_is_somebodys(collected: Mapping[str, set[str]]) -> None:
    used = set().union(*collected.values())
    assert set(starts.MARKS) <= used


@pytest.mark.parametrize(
    ("test", "mark"),
    [
        ("serving/test_triton.py::test_said_to_a_file", "triton"),
        ("serving/test_triton.py::test_a_killed_parent_takes_triton_with_it", "triton"),
        ("serving/test_scale_in.py::test_a_scale_in_with_the_rendered_times_loses_no_frame", "triton"),
        ("components/test_storage_s3.py", "s3"),
        ("charts/test_platform_live.py", "postgres"),
        ("components/test_judges.py", "judges"),
        ("images/test_containers.py", "containers"),
    ],
)
def test_marks_say_what_a_test_starts(collected: Mapping[str, set[str]], test: str, mark: str) -> None:
    """By a fixture, by a helper, by a module of the benchmarks, or in the text of a program."""
    found = [marks for name, marks in collected.items() if name.startswith(f"tests/{test}")]
    assert found
    assert any(mark in marks for marks in found)


def test_what_starts_nothing_has_no_mark(collected: Mapping[str, set[str]]) -> None:
    for file in ("model/test_config.py", "serving/test_protocol.py", "pipelines/test_scaling_hpa.py"):
        for test, marks in collected.items():
            if test.startswith(f"tests/{file}::"):
                assert not marks & (set(starts.MARKS) - {"helm"}), test


def test_marks_are_not_given_by_hand() -> None:
    """But for full counts of kills, which are a parameter."""
    names = "|".join(set(starts.MARKS) - {"kills"})
    by_hand = [
        path.name for path in HERE.rglob("test_*.py") if re.search(rf"mark\.({names})\b", path.read_text("utf-8"))
    ]
    assert by_hand == []


def test_fixtures_that_are_named_are_there() -> None:
    for place in starts.OF_FIXTURES:
        file, _, fixture = place.partition("::")
        assert re.search(rf"^def {fixture}\(", (HERE / file).read_text("utf-8"), re.MULTILINE), place
    assert [file for file in starts.BITS if not (HERE / file).exists()] == []


def test_the_table_of_costs_has_every_file() -> None:
    there = [path.relative_to(HERE).as_posix() for path in HERE.rglob("test_*.py")]
    assert test_costs.missing(there, costs.shares()) == []


def test_a_share_that_is_far_off_is_told_and_a_faster_machine_is_not() -> None:
    table = {"a.py": 500.0, "b.py": 300.0, "c.py": 200.0}
    assert test_costs.far_off({"a.py": 5.0, "b.py": 3.0, "c.py": 2.0}, table) == []
    assert test_costs.far_off({"a.py": 5.0, "b.py": 3.0, "c.py": 0.1}, table) == [
        "c.py: 12.35 thousandths of this run, 200 in tests/costs.json"
    ]


def test_lanes_are_summed_in_one_line(tmp_path: Path) -> None:
    suite = '<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" />'
    (tmp_path / "main.xml").write_text(f"<testsuites>{suite}</testsuites>")
    total = lanes.Counted(passed=5)
    total.add(lanes.count(tmp_path / "main.xml"))
    total.add(lanes.count(tmp_path / "none.xml"))
    assert total.line() == "9 passed, 3 failed, 3 skipped"


def test_a_change_touches_what_imports_it_the_nearest_first() -> None:
    found = affected.touched(["deploy/serving/csm_serving/client/retry.py"])
    steps = {each.file: each.steps for each in found}
    assert steps["tests/serving/test_client_policy.py"] == 1
    assert steps["tests/pipelines/test_say.py"] > 1
    assert "tests/model/test_config.py" not in steps
    assert [each.steps for each in found] == sorted(each.steps for each in found)


def test_a_change_of_a_helper_a_chart_or_a_test_touches_its_tests() -> None:
    assert {each.file for each in affected.touched(["tests/support/kubelet.py"])} >= {"tests/test_kube_api.py"}
    assert "tests/charts/test_serving.py" in {
        each.file for each in affected.touched(["charts/csm-serving/values.yaml"])
    }
    assert affected.Touched(file="tests/test_house.py", steps=0) in affected.touched(["tests/test_house.py"])


def test_a_quick_run_takes_the_nearest_that_fit_and_names_the_others() -> None:
    tests = [affected.Touched(file=f"tests/{name}.py", steps=steps) for name, steps in (("own", 0), ("a", 1), ("b", 2))]
    taken, left = affected.within(tests, {"own.py": 500.0, "a.py": 1.0, "b.py": 2.0})
    assert [each.file for each in taken] == ["tests/own.py"]
    taken, left = affected.within(tests, {"own.py": 1.0, "a.py": 100.0, "b.py": 50.0})
    assert [each.file for each in taken] == ["tests/own.py", "tests/a.py"]
    assert [each.file for each in left] == ["tests/b.py"]


def test_tests_side_by_side_share_the_cores() -> None:
    """Threads that wait for each other on cores that other tests use made products ten times slower."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    assert torch.get_num_threads() <= max(1, len(os.sched_getaffinity(0)) // workers)
