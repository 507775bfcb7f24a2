"""The end of a run as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csm_components.spec import StepSpec

if TYPE_CHECKING:
    from csm_components.job import StepJob


def _end_run(job: StepJob) -> Any:
    from csm_components.finish.step import end_run

    status = job.status
    return end_run(
        job.run,
        state=str(status["state"]),
        failed_task=str(status.get("pipelineTaskName") or status.get("pipeline_task_name") or ""),
        message=str((status.get("error") or {}).get("message", "")),
    )


END_RUN = StepSpec(
    name="end-run",
    role="exit",
    description="Marks the MLflow run of a pipeline run as finished or failed.",
    work=_end_run,
    cacheable=False,
    effects="closes the record of the run",
    records=False,
)
