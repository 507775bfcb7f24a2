"""The pipeline component end-run: for the exit handler of a pipeline; ends the run's record in MLflow."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def end_run_component(status: dsl.PipelineTaskFinalStatus, run: str) -> None:
    """Marks the MLflow run of a pipeline run as finished or failed.

    Args:
        status: How the tasks ended, given by Kubeflow.
        run: Name of the pipeline run.
    """
    from csm_components.finish.step import end_run

    end_run(run, state=status.state, failed_task=status.pipeline_task_name, message=status.error_message or "")
