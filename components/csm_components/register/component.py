"""The pipeline component register: a bundle and its figures in, a model version out."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register_component(
    bundle: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Metrics],
    gate: str,
    model: str,
    code_version: str,
    version: dsl.Output[dsl.Artifact],
    work: str = "",
    run: str = "",
) -> bool:
    """Makes the bundle a version of the registered model, and champion where the gate lets it.

    Args:
        bundle: What export wrote.
        evaluation: What evaluate measured.
        gate: Bounds on the figures, as JSON.
        model: Name of the registered model.
        code_version: Version of the package, kept as a tag.
        version: The result.
        work: Folder of the run; empty leaves the place of the result to the pipeline.
        run: Name of the pipeline run on a cluster.

    Returns:
        Whether the version is now champion.
    """
    import json
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.register.gate import Gate
    from csm_components.register.step import register
    from csm_components.steps import place, run_step, tracker_of
    from csm_components.tracking import Tracker

    out = place(version, work, "register")
    result = run_step(
        work,
        "register",
        register,
        run=run,
        record=False,
        bundle=Path(bundle.path),
        out=out,
        figures={name: evaluation.metadata.get(name) for name in Gate.FIGURES},
        gate=Gate(**json.loads(gate)),
        tracker=tracker_of(work, run) or Tracker(folder=out),
        source="" if work else bundle.uri,
        model=model,
        code_version=code_version,
    )
    version.metadata.update({key: value for key, value in asdict(result).items() if value is not None})
    return result.promoted
