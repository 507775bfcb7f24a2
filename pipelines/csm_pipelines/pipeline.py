"""The pipeline: how the steps compose. It wires and does nothing else.

The same function is run here by `kfp.local` and compiled for a cluster (`python -m csm_pipelines.pipeline FILE`).
With `work`, a folder, every step puts its result there; a run that was killed finds what it had committed.
"""

from kfp import dsl

from csm_components.evaluate.component import evaluate_component
from csm_components.export.component import export_component
from csm_components.ingest.component import ingest_component
from csm_components.register.component import register_component
from csm_components.speak.component import speak_component
from csm_components.tokenise.component import tokenise_component
from csm_components.train.component import train_component


@dsl.pipeline(
    name="csm-foundry",
    description="Recorded conversations in, a served conversational speech model out.",
)
def csm_pipeline(
    corpus: str,
    codec: str,
    code_version: str,
    base: str = "",
    tokenizer: str = "",
    prompt_format: str = "",
    default_license: str = "",
    max_conversations: int = 0,
    min_energy_correlation: float = 0.5,
    recipe: str = "{}",
    nodes: str = "2x1",
    threads: int = 1,
    precision: str = "int8",
    evaluation: str = "{}",
    thresholds: str = "{}",
    gate: str = "{}",
    model: str = "csm-demo",
    text: str = "",
    speaker: int = 1,
    sentences: str = "[]",
    max_frames: int = 0,
    workers: int = 0,
    work: str = "",
) -> None:
    """From recorded conversations to a registered model that speaks.

    Args:
        corpus: Folder of sound and text.
        codec: Folder of the codec.
        code_version: Version of the package.
        base: Bundle to begin from; empty trains from nothing.
        tokenizer: phonemes, bpe:SIZE or a tokenizer.json; empty takes the base's, or phonemes without a base.
        prompt_format: How a BPE tokenizer writes a turn, sesame or miso; empty for phonemes and where a file says it.
        default_license: Licence of records that name none.
        max_conversations: Take only so many, evenly spread; 0 takes all.
        min_energy_correlation: What turns decoded again must reach.
        recipe: The trainer's settings, as JSON.
        nodes: torchrun agents x workers of each.
        threads: Compute threads of a worker.
        precision: Weights of the released bundle.
        evaluation: How much is spoken and who judges, as JSON.
        thresholds: What the figures should reach, as JSON; shown in the report.
        gate: Bounds on the figures, as JSON.
        model: Name of the registered model.
        text: What to say at the end.
        speaker: Whose voice.
        sentences: More to say for the clock, a JSON list.
        max_frames: Longest turn; 0 is the model's own bound.
        workers: Processes of a step; 0 is one a core.
        work: Folder of the run; empty leaves the place of results to Kubeflow.
    """
    ingested = ingest_component(
        corpus=corpus,
        default_license=default_license,
        max_conversations=max_conversations,
        workers=workers,
        code_version=code_version,
        work=work,
    )
    tokenised = tokenise_component(
        conversations=ingested.outputs["conversations"],
        codec=codec,
        tokenizer_from=base,
        tokenizer=tokenizer,
        prompt_format=prompt_format,
        min_energy_correlation=min_energy_correlation,
        workers=workers,
        code_version=code_version,
        work=work,
    )
    trained = train_component(
        tokens=tokenised.outputs["tokens"],
        base=base,
        recipe=recipe,
        nodes=nodes,
        threads=threads,
        code_version=code_version,
        work=work,
    )
    exported = export_component(
        parent=trained.outputs["bundle"], precision=precision, code_version=code_version, work=work
    )
    evaluated = evaluate_component(
        bundle=exported.outputs["bundle"],
        parent=trained.outputs["bundle"],
        conversations=ingested.outputs["conversations"],
        tokens=tokenised.outputs["tokens"],
        base=base,
        settings=evaluation,
        thresholds=thresholds,
        workers=workers,
        code_version=code_version,
        work=work,
    )
    registered = register_component(
        bundle=exported.outputs["bundle"],
        evaluation=evaluated.outputs["evaluation"],
        gate=gate,
        model=model,
        code_version=code_version,
        work=work,
    )
    speak_component(
        version=registered.outputs["version"],
        bundle=exported.outputs["bundle"],
        text=text,
        speaker=speaker,
        sentences=sentences,
        max_frames=max_frames,
        code_version=code_version,
        work=work,
    )


def compile_to(path: str) -> None:
    """Writes the pipeline's IR YAML, which a cluster takes."""
    import warnings

    from kfp import compiler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of kfp's own protobuf use
        compiler.Compiler().compile(csm_pipeline, path)


if __name__ == "__main__":
    import sys

    compile_to(sys.argv[1])
