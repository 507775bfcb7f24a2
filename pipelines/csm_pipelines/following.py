"""Follows a run on a cluster: one row a step, until it has ended.

The client's own wait never ends for a run that was terminated, so the states are looked at here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from csm_pipelines.kfp_client import KfpClient
from csm_pipelines.pipelines import step_of_task
from csm_pipelines.progress import StepBoard

ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "ERROR")
_SHOWN = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "SKIPPED": "skipped",
    "FAILED": "failed",
    "ERROR": "failed",
    "CANCELING": "running",
    "CANCELED": "failed",
    "PAUSED": "waiting",
}


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended."""

    run_id: str
    state: str
    failed_step: str = ""
    """The first step that failed; empty where none did."""
    words: str = ""
    """What Kubeflow says of it."""

    @property
    def well(self) -> bool:
        """Whether the run succeeded."""
        return self.state == "SUCCEEDED"


@dataclass(frozen=True, kw_only=True)
class StepState:
    """One step of a run as it stands; a fanned-out one with all its shards."""

    step: str
    state: str
    """As the board shows it."""
    seconds: float
    note: str


def follow(
    client: KfpClient,
    run_id: str,
    *,
    steps: Sequence[str],
    console: Console,
    sleep: Callable[[float], None] = time.sleep,
) -> Ended:
    """Shows the steps of a run until it has ended.

    Args:
        client: Kubeflow Pipelines.
        run_id: the run.
        steps: steps that it has, in order.
        console: where they are shown.
        sleep: waits.
    """
    board = StepBoard(console=console, steps=steps, note=lambda _step: (False, ""))
    with board:
        while True:
            run = client.run(run_id)
            for row in states_of(run):
                board.put(row.step, state=row.state, seconds=row.seconds, note=row.note)
            if run.state in ENDED:
                return ended(run)
            sleep(client.poll_s)


def tasks_of(run: Any) -> list[Any]:
    """The tasks of a run that are steps; Kubeflow lists drivers, loops and containers beside them."""
    details = getattr(run.run_details, "task_details", None) or []
    return [task for task in details if step_of_task(task.display_name or "")]


def states_of(run: Any) -> list[StepState]:
    """The steps of a run as they stand, in the order in which they began."""
    rows: dict[str, list[Any]] = {}
    for task in tasks_of(run):
        rows.setdefault(step_of_task(task.display_name), []).append(task)
    return [_state(step, tasks) for step, tasks in rows.items()]


def _state(step: str, tasks: Sequence[Any]) -> StepState:
    counts = Counter(_SHOWN.get(task.state or "PENDING", "waiting") for task in tasks)
    for state in ("failed", "running", "waiting", "done", "skipped"):
        if counts[state]:
            break
    began = min((when for task in tasks if (when := task.start_time or task.create_time)), default=None)
    ends = [task.end_time for task in tasks if task.end_time]
    until = max(ends) if ends and state not in ("running", "waiting") else datetime.now(UTC)
    note = ""
    if len(tasks) > 1:
        note = f"{counts['done'] + counts['skipped']} of {len(tasks)} shards"
        note += f", {counts['failed']} failed" if counts["failed"] else ""
    return StepState(
        step=step, state=state, seconds=max(0.0, (until - began).total_seconds()) if began else 0.0, note=note
    )


def ended(run: Any) -> Ended:
    """How a run ended, and which step was the first to fail."""
    failed = [task for task in tasks_of(run) if task.state in ("FAILED", "ERROR")]
    failed.sort(key=lambda task: task.end_time or datetime.max.replace(tzinfo=UTC))
    error = next((task.error for task in failed if task.error), None) or run.error
    return Ended(
        run_id=str(run.run_id),
        state=str(run.state),
        failed_step=step_of_task(failed[0].display_name) if failed else "",
        words=" ".join(str(error.message or "").split()) if error else "",
    )


def log_hint(done: Ended, namespace: str) -> str:
    """The command that shows what the failed step printed."""
    step = f",app.kubernetes.io/component={done.failed_step}" if done.failed_step else ""
    return f"kubectl -n {namespace} logs -l pipeline/runid={done.run_id}{step} -c main --prefix --tail=100"
