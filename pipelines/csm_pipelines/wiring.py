"""How the steps compose, in parts that several pipelines share. Wires tasks and does nothing else.

Every task passes through `dress` (`csm_pipelines.dressing`), with the name that a profile knows its step by.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from csm_components.deploy.component import deploy_component
from csm_components.evaluate.component import evaluate_component
from csm_components.export.component import export_component
from csm_components.finish.component import end_run_component
from csm_components.ingest.component import (
    ingest_shard_component,
    join_ingest_component,
    plan_ingest_component,
)
from csm_components.register.component import register_component
from csm_components.tokenise.component import (
    join_tokenise_component,
    plan_tokenise_component,
    tokenise_shard_component,
)
from csm_components.train.component import train_component
from csm_components.trees.component import fetch_component, keep_component
from csm_pipelines.dressing import Dress

Value = Any
"""A pipeline's parameter or a task's output, which kfp does not type; or a constant."""
RUN = dsl.PIPELINE_JOB_ID_PLACEHOLDER
"""The name of the pipeline run, which its steps write to MLflow under."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Conversations and their tokens."""

    conversations: Value
    tokens: Value


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A bundle that is a version of the registered model."""

    bundle: Value
    version: Value
    passed: Value
    """Whether the gate let it through."""


@contextmanager
def recorded(dress: Dress) -> Iterator[None]:
    """Whatever becomes of the tasks within, the run's record in MLflow is closed at the end."""
    with dsl.ExitHandler(dress("end-run", end_run_component(run=RUN)), name="run"):
        yield


def wire_data(
    dress: Dress,
    *,
    corpus: Value,
    codec: Value,
    tokenizer_from: Value,
    tokenizer: Value,
    prompt_format: Value,
    default_license: Value,
    max_conversations: Value,
    min_energy_correlation: Value,
    shards: Value,
    parallelism: int,
    code_version: Value,
) -> Data:
    """A corpus to tokens: both steps in shards, at most `parallelism` at once, each retried alone, then joined."""
    of_corpus = {
        "corpus": corpus,
        "default_license": default_license,
        "max_conversations": max_conversations,
        "code_version": code_version,
        "run": RUN,
    }
    planned = dress("plan-ingest", plan_ingest_component(shards=shards, **of_corpus))
    with dsl.ParallelFor(planned.output, name="ingest-shards", parallelism=parallelism) as shard:
        part = dress("ingest-shard", ingest_shard_component(shard=shard, workers=0, **of_corpus))
    joined = dress("ingest", join_ingest_component(parts=dsl.Collected(part.outputs["part"]), **of_corpus))
    conversations = joined.outputs["conversations"]

    prepared = dress(
        "plan-tokenise",
        plan_tokenise_component(
            conversations=conversations,
            codec=codec,
            tokenizer_from=tokenizer_from,
            tokenizer=tokenizer,
            prompt_format=prompt_format,
            shards=shards,
            code_version=code_version,
            run=RUN,
        ),
    )
    of_tokens = {
        "conversations": conversations,
        "tools": prepared.outputs["tools"],
        "code_version": code_version,
        "run": RUN,
    }
    with dsl.ParallelFor(prepared.outputs["Output"], name="tokenise-shards", parallelism=parallelism) as shard:
        part = dress("tokenise-shard", tokenise_shard_component(shard=shard, workers=0, **of_tokens))
    encoded = dress(
        "tokenise",
        join_tokenise_component(
            parts=dsl.Collected(part.outputs["part"]), min_energy_correlation=min_energy_correlation, **of_tokens
        ),
    )
    return Data(conversations=conversations, tokens=encoded.outputs["tokens"])


def wire_training(
    dress: Dress, *, tokens: Value, base: Value, recipe: Value, nodes: Value, threads: Value, code_version: Value
) -> Value:
    """Tokens to a float bundle, which is also kept in the storage, for a release of its own."""
    trained = dress(
        "train",
        train_component(
            tokens=tokens, base=base, recipe=recipe, nodes=nodes, threads=threads, code_version=code_version, run=RUN
        ),
    )
    bundle = trained.outputs["bundle"]
    dress("keep", keep_component(bundle=bundle, code_version=code_version, run=RUN))
    return bundle


def wire_fetched(dress: Dress, *, bundle: Value, code_version: Value) -> Value:
    """A float bundle that a training kept in the storage."""
    return dress("fetch", fetch_component(tree=bundle, code_version=code_version, run=RUN)).outputs["bundle"]


def wire_judgement(
    dress: Dress,
    *,
    parent: Value,
    data: Data,
    base: Value,
    precision: Value,
    evaluation: Value,
    thresholds: Value,
    gate: Value,
    model: Value,
    code_version: Value,
) -> Judged:
    """A float bundle to the one that may be released, what is measured of it, and a registered version."""
    exported = dress("export", export_component(parent=parent, precision=precision, code_version=code_version, run=RUN))
    evaluated = dress(
        "evaluate",
        evaluate_component(
            bundle=exported.outputs["bundle"],
            parent=parent,
            conversations=data.conversations,
            tokens=data.tokens,
            base=base,
            settings=evaluation,
            thresholds=thresholds,
            workers=0,
            code_version=code_version,
            run=RUN,
        ),
    )
    registered = dress(
        "register",
        register_component(
            bundle=exported.outputs["bundle"],
            evaluation=evaluated.outputs["evaluation"],
            gate=gate,
            model=model,
            code_version=code_version,
            run=RUN,
        ),
    )
    return Judged(
        bundle=exported.outputs["bundle"],
        version=registered.outputs["version"],
        passed=registered.outputs["Output"],
    )


def wire_deployment(dress: Dress, *, judged: Judged, model: Value, code_version: Value) -> None:
    """Rolls out what the gate let through, and nothing else."""
    with dsl.If(judged.passed == True, name="passed-the-gate"):  # noqa: E712  (builds a condition)
        dress(
            "deploy",
            deploy_component(
                version=judged.version, bundle=judged.bundle, model=model, code_version=code_version, run=RUN
            ),
        )
