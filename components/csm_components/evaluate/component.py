"""The pipeline component evaluate: a bundle and held-out conversations in, figures and a report out."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate_component(
    bundle: dsl.Input[dsl.Model],
    conversations: dsl.Input[dsl.Dataset],
    tokens: dsl.Input[dsl.Dataset],
    parent: dsl.Input[dsl.Model],
    base: str,
    settings: str,
    thresholds: str,
    workers: int,
    code_version: str,
    evaluation: dsl.Output[dsl.Metrics],
    work: str = "",
    run: str = "",
) -> float:
    """Streams held-out sentences from Triton in every voice and has them judged beside recordings and the codec alone.

    Args:
        bundle: What export wrote: the bundle that is judged.
        conversations: What ingest wrote.
        tokens: What tokenise wrote.
        parent: The float bundle that train wrote; shows what quantising cost.
        base: Folder of the bundle that training began from, or a tree in the storage; empty where there is none.
        settings: How much is spoken and who judges, as JSON.
        thresholds: What the figures should reach, as JSON; shown in the report.
        workers: Processes; 0 is one a core.
        code_version: Version of the package; a new one makes the step run again.
        evaluation: The result: figures as metadata, the report and all clips in its folder.
        work: Folder of the run; empty leaves the place of the result to the pipeline.
        run: Name of the pipeline run on a cluster.

    Returns:
        Word error rate of the generated speech.
    """
    import json
    from contextlib import ExitStack
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.evaluate.sources import best_source
    from csm_components.evaluate.step import EvaluateSettings, evaluate
    from csm_components.steps import place, run_step
    from csm_components.storage import local_folder

    with ExitStack() as stack:
        result = run_step(
            work,
            "evaluate",
            evaluate,
            run=run,
            keep=("report.html",),
            params={"settings": json.loads(settings)},
            bundle=Path(bundle.path),
            conversations=Path(conversations.path),
            tokens=Path(tokens.path),
            out=place(evaluation, work, "evaluate"),
            settings=EvaluateSettings(**json.loads(settings)),
            source=best_source(Path(bundle.path)),
            parent=Path(parent.path) if parent.path != bundle.path else None,
            base=stack.enter_context(local_folder(base)) if base else None,
            training=Path(parent.path).parent,
            thresholds=json.loads(thresholds),
            workers=workers or None,
        )
    known = asdict(result) | result.for_gate() | {"code_version": code_version}
    evaluation.metadata.update({key: value for key, value in known.items() if value is not None})
    return result.wer_generated
