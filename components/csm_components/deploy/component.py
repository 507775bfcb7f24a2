"""The pipeline component deploy: a promoted bundle in, a published and rolled out release out."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy_component(
    version: dsl.Input[dsl.Artifact],
    bundle: dsl.Input[dsl.Model],
    model: str,
    code_version: str,
    release: dsl.Output[dsl.Artifact],
    run: str = "",
) -> str:
    """Publishes a bundle that the gate let through, and rolls it out as CSM_DEPLOY_TARGET says.

    Args:
        version: What register wrote: the version and the gate's verdict.
        bundle: What export wrote.
        model: Name of the registered model.
        code_version: Version of the package; a new one makes the step run again.
        release: The result: the values of the chart csm-serving that serve this bundle.
        run: Name of the pipeline run on a cluster.

    Returns:
        Digest of the bundle.
    """
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.deploy.step import deploy
    from csm_components.steps import run_step, tracker_of

    result = run_step(
        "",
        "deploy",
        deploy,
        run=run,
        bundle=Path(bundle.path),
        version=Path(version.path),
        out=Path(release.path),
        model=model,
        tracker=tracker_of("", run),
    )
    release.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest
