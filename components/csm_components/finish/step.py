"""The end of a pipeline run: its record in MLflow is closed, whatever became of the tasks."""

from __future__ import annotations

from dataclasses import dataclass

from csm_components.tracking import tracker_of

_WELL = "SUCCEEDED"


@dataclass(frozen=True, kw_only=True)
class EndResult:
    """How a run ended; JSON-able."""

    state: str
    recorded: bool
    """Whether there is a server, and it was told."""
    reused: bool = False


def end_run(run: str, *, state: str, failed_task: str = "", message: str = "") -> EndResult:
    """Marks the MLflow run of a pipeline run as finished, or as failed with the reason; does nothing without a server.

    Args:
        run: name of the pipeline run.
        state: of its tasks, as Kubeflow says it: SUCCEEDED, FAILED, CANCELLED.
        failed_task: the task that the state is of.
        message: why it failed.
    """
    tracker = tracker_of("", run)
    if tracker is None:
        return EndResult(state=state, recorded=False)
    failed = state != _WELL
    reason = {"csm.failed_task": failed_task, "csm.failure": message} if failed else {}
    recorded = tracker.end_pipeline(failed=failed, tags={"csm.state": state, **reason})
    return EndResult(state=state, recorded=recorded)
