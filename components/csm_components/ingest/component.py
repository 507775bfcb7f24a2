"""The pipeline components of ingest: a corpus in, conversations out; as one step, or as shards that are then joined."""

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
    run: str = "",
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
        run: Name of the pipeline run on a cluster.

    Returns:
        Digest of the conversations.
    """
    from dataclasses import asdict

    from csm_components.ingest import step
    from csm_components.steps import place, run_step
    from csm_components.storage import local_folder

    out = place(conversations, work, "ingest")
    with local_folder(corpus) as folder:
        result = run_step(
            work,
            "ingest",
            step.ingest,
            run=run,
            dataset="digest",
            address=conversations.uri,
            corpus=folder,
            out=out,
            default_license=default_license or None,
            max_conversations=max_conversations or None,
            workers=workers or None,
        )
    conversations.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_ingest_component(
    corpus: str,
    default_license: str,
    max_conversations: int,
    shards: int,
    code_version: str,
    run: str = "",
) -> list[str]:
    """Divides a corpus into shards that can be ingested side by side.

    Args:
        corpus: Folder of sound and text, or a tree in the storage (s3://bucket/prefix/key).
        default_license: Licence of records that name none; empty takes what the corpus's LICENSE file names.
        max_conversations: Take only so many, evenly spread; 0 takes all.
        shards: How many; fewer where there are fewer conversations.
        code_version: Version of the package; a new one makes the step run again.
        run: Name of the pipeline run on a cluster.

    Returns:
        Names of the shards.
    """
    from csm_components.ingest.fanout import plan_ingest
    from csm_components.steps import run_step

    result = run_step(
        "",
        "plan-ingest",
        plan_ingest,
        run=run,
        corpus=corpus,
        default_license=default_license or None,
        max_conversations=max_conversations or None,
        shards=shards,
    )
    return result.shards


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest_shard_component(
    corpus: str,
    shard: str,
    default_license: str,
    max_conversations: int,
    workers: int,
    code_version: str,
    part: dsl.Output[dsl.Dataset],
    run: str = "",
) -> None:
    """Ingests the conversations of one shard; of the sound, only theirs is fetched.

    Args:
        corpus: Folder of sound and text, or a tree in the storage (s3://bucket/prefix/key).
        shard: Name of the shard.
        default_license: Licence of records that name none; empty takes what the corpus's LICENSE file names.
        max_conversations: Take only so many, evenly spread; 0 takes all.
        workers: Worker processes; 0 is one a core.
        code_version: Version of the package; a new one makes the step run again.
        part: The result.
        run: Name of the pipeline run on a cluster.
    """
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.ingest.fanout import ingest_shard
    from csm_components.steps import run_step

    result = run_step(
        "",
        "ingest-shard",
        ingest_shard,
        run=run,
        part=shard,
        corpus=corpus,
        shard=shard,
        out=Path(part.path),
        default_license=default_license or None,
        max_conversations=max_conversations or None,
        workers=workers or None,
        code_version=code_version,
    )
    part.metadata.update(asdict(result) | {"code_version": code_version})


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def join_ingest_component(
    parts: dsl.Input[list[dsl.Dataset]],
    corpus: str,
    default_license: str,
    max_conversations: int,
    code_version: str,
    conversations: dsl.Output[dsl.Dataset],
    run: str = "",
) -> str:
    """Joins the shards of a corpus to what ingest would have written in one step.

    Args:
        parts: What the shards wrote.
        corpus: Folder of sound and text, or a tree in the storage; only its texts are read.
        default_license: Licence of records that name none; empty takes what the corpus's LICENSE file names.
        max_conversations: Take only so many, evenly spread; 0 takes all.
        code_version: Version of the package; a new one makes the step run again.
        conversations: The result.
        run: Name of the pipeline run on a cluster.

    Returns:
        Digest of the conversations.
    """
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.ingest.fanout import join_ingest
    from csm_components.steps import run_step

    result = run_step(
        "",
        "ingest",
        join_ingest,
        run=run,
        dataset="digest",
        address=conversations.uri,
        parts=[Path(part.path) for part in parts],
        corpus=corpus,
        out=Path(conversations.path),
        default_license=default_license or None,
        max_conversations=max_conversations or None,
    )
    conversations.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest
