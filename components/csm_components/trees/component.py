"""The pipeline components keep and fetch: a bundle into the storage, and out of it again."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def keep_component(bundle: dsl.Input[dsl.Model], code_version: str, run: str = "") -> str:
    """Keeps a bundle in the storage, so that another pipeline run can start from it.

    Args:
        bundle: What train wrote.
        code_version: Version of the package; a new one makes the step run again.
        run: Name of the pipeline run on a cluster.

    Returns:
        Address of its tree.
    """
    from pathlib import Path

    from csm_components.steps import run_step
    from csm_components.trees.step import keep

    result = run_step("", "keep", keep, run=run, bundle=Path(bundle.path))
    print(f"kept at {result.url}")
    return result.url


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_component(tree: str, code_version: str, bundle: dsl.Output[dsl.Model], run: str = "") -> str:
    """Fetches a bundle that a training kept.

    Args:
        tree: Its address in the storage (s3://bucket/prefix/trained/DIGEST), or a folder.
        code_version: Version of the package; a new one makes the step run again.
        bundle: The result.
        run: Name of the pipeline run on a cluster.

    Returns:
        Digest of the bundle.
    """
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.steps import run_step
    from csm_components.trees.step import fetch

    result = run_step("", "fetch", fetch, run=run, tree=tree, out=Path(bundle.path))
    bundle.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest
