"""The pipeline component tokenise: conversations in, token shards out."""

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

    Returns:
        Digest of the tokens.
    """
    from contextlib import ExitStack
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.steps import place, run_step
    from csm_components.storage import local_folder
    from csm_components.tokenise import step

    with ExitStack() as stack:
        result = run_step(
            work,
            "tokenise",
            step.tokenise,
            dataset="dataset_digest",
            conversations=Path(conversations.path),
            codec=stack.enter_context(local_folder(codec)),
            tokenizer_from=stack.enter_context(local_folder(tokenizer_from)) if tokenizer_from else None,
            out=place(tokens, work, "tokens"),
            min_energy_correlation=min_energy_correlation,
            workers=workers or None,
            tokenizer=(str(stack.enter_context(local_folder(tokenizer))) if "://" in tokenizer else tokenizer) or None,
            prompt_format=prompt_format or None,
        )
    tokens.metadata.update(asdict(result) | {"code_version": code_version})
    return result.digest
