"""The pipeline component ingest: a corpus's folder in, conversations out."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest_component(
    corpus: str,
    default_license: str,
    max_conversations: int,
    workers: int,
    code_version: str,
    conversations: dsl.Output[dsl.Dataset],
    work: str = "",
) -> str:
    """Checks every record of a corpus and writes what can be used as conversations of 24 kHz mono sound.

    Args:
        corpus: Folder of sound and text, or a tree in the storage (s3://bucket/prefix/key).
        default_license: Licence of records that name none; empty takes what the corpus's LICENSE file names.
        max_conversations: Take only so many, evenly spread; 0 takes all.
        workers: Worker processes; 0 is one a core.
        code_version: Version of the package; a new one makes the step run again.
        conversations: The result.
        work: Folder of the run; empty leaves the place of the result to the pipeline.

    Returns:
        Digest of the conversations.
    """
    from dataclasses import asdict

    from csm_components.ingest import step
    from csm_components.steps import place, run_step
    from csm_components.storage import local_folder

    with local_folder(corpus) as folder:
        result = run_step(
            work,
            "ingest",
            step.ingest,
            dataset="digest",
            corpus=folder,
            out=place(conversations, work, "ingest"),
            default_license=default_license or None,
            max_conversations=max_conversations or None,
            workers=workers or None,
        )
    conversations.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest
