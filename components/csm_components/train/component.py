"""The pipeline component train: token shards in, a float bundle out."""

from kfp import dsl

from csm_components.image import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def train_component(
    tokens: dsl.Input[dsl.Dataset],
    base: str,
    recipe: str,
    nodes: str,
    threads: int,
    code_version: str,
    bundle: dsl.Output[dsl.Model],
    work: str = "",
    run: str = "",
) -> str:
    """Fine-tunes a base bundle, or trains one from nothing, with torchx; a run that was killed goes on.

    Args:
        tokens: What tokenise wrote.
        base: Folder of the bundle to begin from, or a tree in the storage; empty trains from nothing.
        recipe: The trainer's settings, as JSON.
        nodes: torchrun agents x workers of each.
        threads: Compute threads of a worker.
        code_version: Version of the package; a new one makes the step run again.
        bundle: The result.
        work: Folder of the run; empty leaves the place of the result to the pipeline.
        run: Name of the pipeline run on a cluster.

    Returns:
        Digest of the bundle.
    """
    import json
    import shutil
    from contextlib import ExitStack
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.settings import load_settings
    from csm_components.steps import place, run_step, tracker_of
    from csm_components.storage import local_folder
    from csm_components.train.step import TrainSettings, train

    target = load_settings().train_target
    out = place(bundle, work, "train") if work else Path(f"{bundle.path}.training")
    with ExitStack() as stack:
        result = run_step(
            work,
            "train",
            train,
            run=run,
            record=False,
            tokens=Path(tokens.path),
            out=out,
            base=stack.enter_context(local_folder(base)) if base else None,
            settings=TrainSettings(recipe=json.loads(recipe), nodes=nodes, threads=threads, target=target),
            tracker=tracker_of(work, run),
            pipeline=run,
            code_version=code_version,
        )
    if work:
        bundle.uri = result.bundle
    else:  # the bundle alone is the output; the pipeline sends it where it belongs
        shutil.copytree(result.bundle, bundle.path, dirs_exist_ok=True)
    bundle.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest
