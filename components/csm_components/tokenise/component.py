"""The pipeline components of tokenise: conversations in, token shards out; as one step, or fanned out and joined."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def tokenise_component(
    conversations: dsl.Input[dsl.Dataset],
    codec: str,
    tokenizer_from: str,
    min_energy_correlation: float,
    workers: int,
    code_version: str,
    tokens: dsl.Output[dsl.Dataset],
    tokenizer: str = "",
    prompt_format: str = "",
    work: str = "",
    run: str = "",
) -> str:
    """Turns conversations into shards of text ids and codes, and checks a sample by decoding it again.

    Args:
        conversations: What ingest wrote.
        codec: Folder of the codec, or a tree in the storage (s3://bucket/prefix/key).
        tokenizer_from: Folder that holds the base's tokenizer.json, or a tree in the storage; empty has no base.
        min_energy_correlation: What the decoded turns must reach; -1 lets any codec through.
        workers: Worker processes; 0 is one a core.
        code_version: Version of the package; a new one makes the step run again.
        tokens: The result.
        tokenizer: phonemes, bpe:SIZE, a tokenizer.json, or a tree in the storage that holds one; empty takes the
            base's, or phonemes without a base.
        prompt_format: How a BPE tokenizer writes a turn, sesame or miso; empty for phonemes and where a file says it.
        work: Folder of the run; empty leaves the place of the result to the pipeline.
        run: Name of the pipeline run on a cluster.

    Returns:
        Digest of the tokens.
    """
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.steps import place, run_step
    from csm_components.tokenise import step
    from csm_components.tokenise.tokenizer import local_tools

    out = place(tokens, work, "tokens")
    with local_tools(codec, tokenizer_from, tokenizer, prompt_format) as sources:
        result = run_step(
            work,
            "tokenise",
            step.tokenise,
            run=run,
            dataset="dataset_digest",
            address=tokens.uri,
            conversations=Path(conversations.path),
            out=out,
            min_energy_correlation=min_energy_correlation,
            workers=workers or None,
            **sources,
        )
    tokens.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_tokenise_component(
    conversations: dsl.Input[dsl.Dataset],
    codec: str,
    tokenizer_from: str,
    shards: int,
    code_version: str,
    tools: dsl.Output[dsl.Artifact],
    tokenizer: str = "",
    prompt_format: str = "",
    run: str = "",
) -> list[str]:
    """Chooses, or makes, the tokenizer, and divides conversations into shards that can be tokenised side by side.

    Args:
        conversations: What ingest wrote.
        codec: Folder of the codec, or a tree in the storage (s3://bucket/prefix/key).
        tokenizer_from: Folder that holds the base's tokenizer.json, or a tree in the storage; empty has no base.
        shards: How many; fewer where there are fewer token shards.
        code_version: Version of the package; a new one makes the step run again.
        tools: tokenizer.json and codec/, for every shard.
        tokenizer: phonemes, bpe:SIZE, a tokenizer.json, or a tree in the storage that holds one; empty takes the
            base's, or phonemes without a base.
        prompt_format: How a BPE tokenizer writes a turn, sesame or miso; empty for phonemes and where a file says it.
        run: Name of the pipeline run on a cluster.

    Returns:
        Names of the shards.
    """
    from pathlib import Path

    from csm_components.steps import run_step
    from csm_components.tokenise.fanout import plan_tokenise
    from csm_components.tokenise.tokenizer import local_tools

    with local_tools(codec, tokenizer_from, tokenizer, prompt_format) as sources:
        result = run_step(
            "",
            "plan-tokenise",
            plan_tokenise,
            run=run,
            conversations=Path(conversations.path),
            out=Path(tools.path),
            shards=shards,
            **sources,
        )
    tools.metadata.update(
        {
            "codec_digest": result.codec_digest,
            "tokenizer_digest": result.tokenizer_digest,
            "code_version": code_version,
        }
    )
    return result.shards


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def tokenise_shard_component(
    conversations: dsl.Input[dsl.Dataset],
    tools: dsl.Input[dsl.Artifact],
    shard: str,
    workers: int,
    code_version: str,
    part: dsl.Output[dsl.Dataset],
    run: str = "",
) -> None:
    """Tokenises the conversations of one shard.

    Args:
        conversations: What ingest wrote.
        tools: Tokenizer and codec, as planned.
        shard: Name of the shard.
        workers: Worker processes; 0 is one a core.
        code_version: Version of the package; a new one makes the step run again.
        part: The result.
        run: Name of the pipeline run on a cluster.
    """
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.steps import run_step
    from csm_components.tokenise.fanout import tokenise_shard

    result = run_step(
        "",
        "tokenise-shard",
        tokenise_shard,
        run=run,
        part=shard,
        conversations=Path(conversations.path),
        tools=Path(tools.path),
        shard=shard,
        out=Path(part.path),
        workers=workers or None,
        code_version=code_version,
    )
    part.metadata.update(asdict(result) | {"code_version": code_version})


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def join_tokenise_component(
    parts: dsl.Input[list[dsl.Dataset]],
    conversations: dsl.Input[dsl.Dataset],
    tools: dsl.Input[dsl.Artifact],
    min_energy_correlation: float,
    code_version: str,
    tokens: dsl.Output[dsl.Dataset],
    run: str = "",
) -> str:
    """Joins the shards to what tokenise would have written in one step, and checks a sample by decoding it again.

    Args:
        parts: What the shards wrote.
        conversations: What ingest wrote.
        tools: Tokenizer and codec, as planned.
        min_energy_correlation: What the decoded turns must reach; -1 lets any codec through.
        code_version: Version of the package; a new one makes the step run again.
        tokens: The result.
        run: Name of the pipeline run on a cluster.

    Returns:
        Digest of the tokens.
    """
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.steps import run_step
    from csm_components.tokenise.fanout import join_tokenise

    result = run_step(
        "",
        "tokenise",
        join_tokenise,
        run=run,
        dataset="dataset_digest",
        address=tokens.uri,
        parts=[Path(part.path) for part in parts],
        conversations=Path(conversations.path),
        tools=Path(tools.path),
        out=Path(tokens.path),
        min_energy_correlation=min_energy_correlation,
    )
    tokens.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest
