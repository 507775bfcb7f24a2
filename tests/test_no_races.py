"""No test counts on how fast or slow a machine is: none sleeps, and none measures how long something took.

A test waits for what it needs (`eventually`), or holds it by a gate that it opens itself; `waiting.py` says how. What
follows is found in the text of the tests, and in that of the programs they start.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
FILES = sorted(path for path in TESTS.rglob("*.py") if path != Path(__file__).resolve())
CLOCKS = {"sleep", "monotonic", "perf_counter", "process_time", "monotonic_ns", "perf_counter_ns", "Timer"}
MAY = {
    "support/waiting.py": "waits for all others",
    "support/kubelet.py": "plays a kubelet, whose grace periods are seconds",
    "support/job_controllers.py": "plays a cluster's controllers: a finished job is removed after its time to live",
    "model/kill_and_go_on.py": "kills at random instants",
}
"""Files that read a clock or sleep, and why they must."""
A_PERIOD, MOST_SECONDS = 1.0, 60.0
"""A wait between these is a guess at how fast a machine is; a shorter one is the period of somebody who looks again."""


def name_of(path: Path) -> str:
    return path.relative_to(TESTS).as_posix()


def clocks_read(tree: ast.AST) -> list[str]:
    """`line: name` of every clock that is read and every sleep, but for `sleep(0)`, which only lets others run."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name)):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            nothing = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if name in CLOCKS and not nothing:
                found.append(f"{node.lineno}: {name}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            called = re.findall(r"(?:time|threading)\.(\w+)\(", node.value)
            found += [f"{node.lineno}: {name}" for name in called if name in CLOCKS]
    return found


def short_deadlines(tree: ast.AST) -> list[str]:
    """Waits that end after a few seconds: `.wait(5)`, `.join(5)`, `.communicate(timeout=5)` and their kin."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = [*node.args, *(word.value for word in node.keywords if word.arg == "timeout")]
            for value in given:
                seconds = value.value if isinstance(value, ast.Constant) else None
                waits = node.func.attr in ("wait", "join", "communicate", "result", "run", "wait_for")
                if waits and type(seconds) in (int, float) and A_PERIOD < seconds < MOST_SECONDS:
                    found.append(f"{node.lineno}: {node.func.attr} for {seconds:g} s")
    return found


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in FILES}


def test_tests_read_no_clock_and_do_not_sleep(trees: dict[str, ast.Module]) -> None:
    found = {name: clocks for name, tree in trees.items() if name not in MAY and (clocks := clocks_read(tree))}
    assert found == {}, "wait for what you need: tests/support/waiting.py has eventually, never, let_pass and held_back"


def test_no_wait_is_a_guess_at_a_machines_speed(trees: dict[str, ast.Module]) -> None:
    found = {name: waits for name, tree in trees.items() if name not in MAY and (waits := short_deadlines(tree))}
    assert found == {}, "a deadline only bounds a hang: waiting.HANG_S"


def test_the_exceptions_are_still_needed(trees: dict[str, ast.Module]) -> None:
    assert [name for name in MAY if name not in trees or not clocks_read(trees[name])] == []


def test_a_clock_in_a_program_that_a_test_starts_is_found() -> None:
    assert clocks_read(ast.parse("run('import time; time.sleep(60)')")) == ["1: sleep"]
    assert clocks_read(ast.parse("import time\nbegan = time.monotonic()")) == ["2: monotonic"]
    assert clocks_read(ast.parse("await asyncio.sleep(0)")) == []
    assert short_deadlines(ast.parse("done.wait(5); done.join(timeout=2.5); done.wait(300)")) == [
        "1: wait for 5 s",
        "1: join for 2.5 s",
    ]
