"""The pipeline component export: a float bundle in, the released bundle out."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def export_component(
    parent: dsl.Input[dsl.Model],
    precision: str,
    code_version: str,
    bundle: dsl.Output[dsl.Model],
    work: str = "",
    run: str = "",
) -> str:
    """Writes a bundle with quantised weights, its codec and its tokenizer, every file named by its digest.

    Args:
        parent: The float bundle that train wrote.
        precision: Weights of the result: int8, int4, bf16, fp16 or fp32.
        code_version: Version of the package; a new one makes the step run again.
        bundle: The result.
        work: Folder of the run; empty leaves the place of the result to the pipeline.
        run: Name of the pipeline run on a cluster.

    Returns:
        Digest of the bundle.
    """
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.export.step import export
    from csm_components.steps import place, run_step

    result = run_step(
        work,
        "export",
        export,
        run=run,
        params={"precision": precision},
        parent=Path(parent.path),
        out=place(bundle, work, "bundle"),
        precision=precision,
    )
    bundle.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest
