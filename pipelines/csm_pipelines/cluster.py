"""The pipelines of a cluster: training, finetune, release and nightly. They compose what `wiring` has, and do no more.

Each is built for a dressing (`csm_pipelines.dressing`), which brings all that is of the cluster. What differs between
two runs of one pipeline is a parameter; where it is to be reused, its cache keys are compiled into it.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from csm_model.errors import InputError
from csm_pipelines.dressing import Dress
from csm_pipelines.wiring import (
    recorded,
    wire_data,
    wire_deployment,
    wire_fetched,
    wire_judgement,
    wire_training,
)


def training(dress: Dress, parallelism: int, config: dsl.PipelineConfig | None) -> GraphComponent:
    """From a corpus to a registered model."""

    @dsl.pipeline(
        name="csm-training",
        description="Recorded conversations in, a registered and judged model out; its float bundle is kept.",
        pipeline_config=config,
    )
    def csm_training(
        corpus: str,
        codec: str,
        code_version: str,
        base: str = "",
        tokenizer: str = "",
        prompt_format: str = "",
        default_license: str = "",
        max_conversations: int = 0,
        min_energy_correlation: float = 0.5,
        shards: int = 16,
        recipe: str = "{}",
        nodes: str = "2x1",
        threads: int = 1,
        precision: str = "int8",
        evaluation: str = "{}",
        thresholds: str = "{}",
        gate: str = "{}",
        model: str = "csm",
    ) -> None:
        """From a corpus to a registered model.

        Args:
            corpus: Tree of sound and text in the storage.
            codec: Tree of the codec.
            code_version: Version of the code.
            base: Tree of the bundle to begin from; empty trains from nothing.
            tokenizer: phonemes, bpe:SIZE or the tree of one; empty takes the base's, or phonemes without a base.
            prompt_format: How a BPE tokenizer writes a turn, sesame or miso.
            default_license: Licence of records that name none.
            max_conversations: Take only so many, evenly spread; 0 takes all.
            min_energy_correlation: What turns decoded again must reach.
            shards: Parts that ingest and tokenise are cut into.
            recipe: The trainer's settings, as JSON.
            nodes: torchrun agents x workers of each.
            threads: Compute threads of a worker.
            precision: Weights of the released bundle.
            evaluation: How much is spoken and who judges, as JSON.
            thresholds: What the figures should reach, as JSON; shown in the report.
            gate: Bounds on the figures, as JSON.
            model: Name of the registered model.
        """
        with recorded(dress):
            data = wire_data(
                dress,
                corpus=corpus,
                codec=codec,
                tokenizer_from=base,
                tokenizer=tokenizer,
                prompt_format=prompt_format,
                default_license=default_license,
                max_conversations=max_conversations,
                min_energy_correlation=min_energy_correlation,
                shards=shards,
                parallelism=parallelism,
                code_version=code_version,
            )
            parent = wire_training(
                dress,
                tokens=data.tokens,
                base=base,
                recipe=recipe,
                nodes=nodes,
                threads=threads,
                code_version=code_version,
            )
            wire_judgement(
                dress,
                parent=parent,
                data=data,
                base=base,
                precision=precision,
                evaluation=evaluation,
                thresholds=thresholds,
                gate=gate,
                model=model,
                code_version=code_version,
            )

    return csm_training


def finetune(
    dress: Dress, parallelism: int, config: dsl.PipelineConfig | None, *, name: str = "csm-finetune"
) -> GraphComponent:
    """From new conversations and a base to a registered model; as `csm-nightly`, to a deployed one."""
    deploys = name == "csm-nightly"

    @dsl.pipeline(
        name=name,
        description="New conversations and a base in, a registered and judged model out"
        + ("; what passes the gate is deployed." if deploys else "; its float bundle is kept."),
        pipeline_config=config,
    )
    def csm_finetune(
        corpus: str,
        codec: str,
        base: str,
        code_version: str,
        default_license: str = "",
        max_conversations: int = 0,
        min_energy_correlation: float = 0.5,
        shards: int = 16,
        recipe: str = "{}",
        nodes: str = "2x1",
        threads: int = 1,
        precision: str = "int8",
        evaluation: str = "{}",
        thresholds: str = "{}",
        gate: str = "{}",
        model: str = "csm",
    ) -> None:
        """From new conversations and a base to a registered model.

        Args:
            corpus: Tree of the new conversations in the storage.
            codec: Tree of the codec that the base was trained with.
            base: Tree of the bundle to begin from; its tokenizer is taken.
            code_version: Version of the code.
            default_license: Licence of records that name none.
            max_conversations: Take only so many, evenly spread; 0 takes all.
            min_energy_correlation: What turns decoded again must reach.
            shards: Parts that ingest and tokenise are cut into.
            recipe: The trainer's settings, as JSON.
            nodes: torchrun agents x workers of each.
            threads: Compute threads of a worker.
            precision: Weights of the released bundle.
            evaluation: How much is spoken and who judges, as JSON.
            thresholds: What the figures should reach, as JSON; shown in the report.
            gate: Bounds on the figures, as JSON.
            model: Name of the registered model.
        """
        with recorded(dress):
            data = wire_data(
                dress,
                corpus=corpus,
                codec=codec,
                tokenizer_from=base,
                tokenizer="",
                prompt_format="",
                default_license=default_license,
                max_conversations=max_conversations,
                min_energy_correlation=min_energy_correlation,
                shards=shards,
                parallelism=parallelism,
                code_version=code_version,
            )
            parent = wire_training(
                dress,
                tokens=data.tokens,
                base=base,
                recipe=recipe,
                nodes=nodes,
                threads=threads,
                code_version=code_version,
            )
            judged = wire_judgement(
                dress,
                parent=parent,
                data=data,
                base=base,
                precision=precision,
                evaluation=evaluation,
                thresholds=thresholds,
                gate=gate,
                model=model,
                code_version=code_version,
            )
            if deploys:
                wire_deployment(dress, judged=judged, model=model, code_version=code_version)

    return csm_finetune


def nightly(dress: Dress, parallelism: int, config: dsl.PipelineConfig | None) -> GraphComponent:
    """Finetune from what is new, and release what passes the gate: for a schedule."""
    return finetune(dress, parallelism, config, name="csm-nightly")


def release(dress: Dress, parallelism: int, config: dsl.PipelineConfig | None) -> GraphComponent:
    """From a kept float bundle to a deployed model."""

    @dsl.pipeline(
        name="csm-release",
        description="A kept float bundle in; exported, judged, registered, and deployed where the gate allows it.",
        pipeline_config=config,
    )
    def csm_release(
        bundle: str,
        corpus: str,
        codec: str,
        code_version: str,
        base: str = "",
        default_license: str = "",
        max_conversations: int = 0,
        min_energy_correlation: float = 0.5,
        shards: int = 16,
        precision: str = "int8",
        evaluation: str = "{}",
        thresholds: str = "{}",
        gate: str = "{}",
        model: str = "csm",
    ) -> None:
        """From a kept float bundle to a deployed model.

        Args:
            bundle: Tree of the float bundle (trained/DIGEST), which a training kept.
            corpus: Tree of the conversations whose held-out part it is judged by; shards that are there are reused.
            codec: Tree of the codec.
            code_version: Version of the code.
            base: Tree of the bundle that it is compared with; empty compares with none.
            default_license: Licence of records that name none.
            max_conversations: Take only so many, evenly spread; 0 takes all.
            min_energy_correlation: What turns decoded again must reach.
            shards: Parts that ingest and tokenise are cut into.
            precision: Weights of the released bundle.
            evaluation: How much is spoken and who judges, as JSON.
            thresholds: What the figures should reach, as JSON; shown in the report.
            gate: Bounds on the figures, as JSON.
            model: Name of the registered model.
        """
        with recorded(dress):
            parent = wire_fetched(dress, bundle=bundle, code_version=code_version)
            data = wire_data(
                dress,
                corpus=corpus,
                codec=codec,
                tokenizer_from=bundle,
                tokenizer="",
                prompt_format="",
                default_license=default_license,
                max_conversations=max_conversations,
                min_energy_correlation=min_energy_correlation,
                shards=shards,
                parallelism=parallelism,
                code_version=code_version,
            )
            judged = wire_judgement(
                dress,
                parent=parent,
                data=data,
                base=base,
                precision=precision,
                evaluation=evaluation,
                thresholds=thresholds,
                gate=gate,
                model=model,
                code_version=code_version,
            )
            wire_deployment(dress, judged=judged, model=model, code_version=code_version)

    return csm_release


Build = Callable[[Dress, int, Any], GraphComponent]
PIPELINES: dict[str, Build] = {"training": training, "finetune": finetune, "release": release, "nightly": nightly}
"""All pipelines of a cluster by name."""


def build(name: str, dress: Dress, *, parallelism: int, config: dsl.PipelineConfig | None = None) -> GraphComponent:
    """A pipeline, ready to be compiled; raises `InputError` that lists them all."""
    if name not in PIPELINES:
        raise InputError(f"pipeline {name!r}: there are {', '.join(PIPELINES)}")
    return PIPELINES[name](dress, parallelism, config)
