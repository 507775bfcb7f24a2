"""The tasks of a pipeline's IR, and how they advance: what a cluster would do with them, without doing their work.

Each look at a run is one tick: tasks whose upstream has ended well begin, those that work end. A loop has as many
iterations as it is told; a condition is met or not; an exit task runs whatever became of the others.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

OVER = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")


def now() -> str:
    """This moment as the API writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Task:
    """One task of a run; of a loop, one iteration's."""

    name: str
    after: set[str]
    is_exit: bool = False
    condition: str = ""
    """Component of the condition that it stands under."""
    cache_key: str = ""
    state: str = "PENDING"
    start: str | None = None
    end: str | None = None
    error: str = ""
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def to_json(self, run_id: str) -> dict[str, Any]:
        """As the API shows it."""
        row: dict[str, Any] = {
            "run_id": run_id,
            "task_id": self.task_id,
            "display_name": self.name,
            "create_time": self.start,
            "start_time": self.start,
            "end_time": self.end,
            "state": self.state,
        }
        if self.error:
            row["error"] = {"code": 13, "message": self.error}
        return {key: value for key, value in row.items() if value is not None}

    def go(self, state: str) -> None:
        """Enters a state."""
        self.state = state
        self.start = self.start or now()
        if state in OVER:
            self.end = now()


def tasks_of(ir: dict[str, Any], iterations: int) -> list[Task]:
    """All tasks that run a container, those of loops once an iteration, with the tasks that each waits for."""
    found: list[Task] = []

    def walk(dag: dict[str, Any], before: set[str], condition: str, times: int) -> None:
        inside: dict[str, set[str]] = {}
        for name in _in_order(dag["tasks"]):
            spec = dag["tasks"][name]
            waits = before.union(*(inside[other] for other in spec.get("dependentTasks", [])), set())
            component = ir["components"][spec["componentRef"]["name"]]
            if "dag" in component:
                start = len(found)
                walk(
                    component["dag"],
                    waits,
                    spec["componentRef"]["name"] if "triggerPolicy" in spec else condition,
                    times * (iterations if "parameterIterator" in spec else 1),
                )
                inside[name] = {task.name for task in found[start:]}
                continue
            is_exit = spec.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            key = spec.get("cachingOptions", {}).get("cacheKey", "")
            found.extend(
                Task(name=name, after=waits, is_exit=is_exit, condition=condition, cache_key=key) for _ in range(times)
            )
            inside[name] = {name}

    walk(ir["root"]["dag"], set(), "", 1)
    return found


def _in_order(tasks: dict[str, Any]) -> list[str]:
    """The tasks of a DAG, each after those that it depends on."""
    done: list[str] = []
    while len(done) < len(tasks):
        ready = [name for name in tasks if name not in done and set(tasks[name].get("dependentTasks", [])) <= set(done)]
        assert ready, "the tasks depend on one another in a circle"
        done += ready
    return done


def advance(tasks: list[Task], *, failures: dict[str, list[str]], gate: bool) -> str:
    """One tick; the state of the run after it.

    Args:
        tasks: the run's.
        failures: what tasks will fail with, each attempt taking one.
        gate: whether conditions are met.
    """
    for task in tasks:
        if task.state == "RUNNING":
            if failures.get(task.name):
                task.error = failures[task.name].pop(0)
                task.go("FAILED")
            else:
                task.go("SUCCEEDED")
    broken = any(task.state in ("FAILED", "CANCELED") for task in tasks)
    for task in tasks:
        if task.state != "PENDING":
            continue
        before = [other for other in tasks if other.name in task.after]
        over = all(other.state in OVER for other in before)
        if task.is_exit:
            working = any(other.state == "RUNNING" for other in tasks)
            if over or (broken and not working):
                task.go("RUNNING")
        elif over and all(other.state in ("SUCCEEDED", "SKIPPED") for other in before):
            task.go("RUNNING" if gate or not task.condition else "SKIPPED")
    if any(task.state == "RUNNING" for task in tasks):
        return "RUNNING"
    return "FAILED" if broken else "SUCCEEDED" if all(task.state in OVER for task in tasks) else "RUNNING"
