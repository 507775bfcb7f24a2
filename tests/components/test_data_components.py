"""The pipeline components of the data: run as the local runner runs them, in a process of their own."""

import builtins
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import dsl, local
from rich.console import Console

from csm_components.ingest.component import (
    ingest_component,
    ingest_shard_component,
    join_ingest_component,
    plan_ingest_component,
)
from csm_components.ingest.step import ingest
from csm_components.tokenise.component import (
    join_tokenise_component,
    plan_tokenise_component,
    tokenise_component,
    tokenise_shard_component,
)
from csm_components.tokenise.step import tokenise
from csm_model.text import load_tokenizer


@pytest.mark.filterwarnings("ignore::FutureWarning:kfp", "ignore::DeprecationWarning:kfp")
def test_ingest_and_tokenise_as_a_pipeline(
    tmp_path: Path, write_corpus: dict[str, Callable[..., Path]], debug_codec: Path
) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus")

    @dsl.pipeline(name="data")
    def data(corpus: str, codec: str) -> str:
        ingested = ingest_component(corpus=corpus, default_license="", max_conversations=0, workers=1, code_version="1")
        tokenised = tokenise_component(
            conversations=ingested.outputs["conversations"],
            codec=codec,
            tokenizer_from="",
            min_energy_correlation=-1.0,
            workers=1,
            code_version="1",
            tokenizer="bpe:300",
            prompt_format="sesame",
        )
        return tokenised.outputs["Output"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the local runner's own parts
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
        task = data(corpus=str(corpus), codec=str(debug_codec))
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "root").rglob("manifest.json")]
    tokens = next(manifest for manifest in manifests if "codec_digest" in manifest)
    conversations = next(manifest for manifest in manifests if manifest.get("kind") == "conversations")
    assert task.output == tokens["digest"]
    assert tokens["dataset_digest"] == conversations["digest"]
    assert load_tokenizer(next((tmp_path / "root").rglob("tokenizer.json"))).digest == tokens["tokenizer_digest"]
    assert tokens["vocab_size"] <= 300


@pytest.mark.filterwarnings("ignore::FutureWarning:kfp", "ignore::DeprecationWarning:kfp")
def test_the_same_in_shards_as_a_pipeline(
    tmp_path: Path,
    write_corpus: dict[str, Callable[..., Path]],
    debug_codec: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(builtins, "print", print)  # the local runner's loops do not put it back
    corpus = write_corpus["lhotse"](tmp_path / "corpus")
    quiet = Console(quiet=True)
    ingest(corpus, tmp_path / "ingest", workers=1, console=quiet)
    whole = tokenise(
        tmp_path / "ingest", debug_codec, None, tmp_path / "tokens", 1, min_energy_correlation=-1, console=quiet
    )

    @dsl.pipeline(name="data-in-shards")
    def data(corpus: str, codec: str) -> str:
        of_corpus = {"corpus": corpus, "default_license": "", "max_conversations": 0, "code_version": "1"}
        planned = plan_ingest_component(shards=2, **of_corpus)
        with dsl.ParallelFor(planned.output) as shard:
            ingested = ingest_shard_component(shard=shard, workers=1, **of_corpus)
        joined = join_ingest_component(parts=dsl.Collected(ingested.outputs["part"]), **of_corpus)
        conversations = joined.outputs["conversations"]
        prepared = plan_tokenise_component(
            conversations=conversations, codec=codec, tokenizer_from="", shards=2, code_version="1"
        )
        of_tokens = {"conversations": conversations, "tools": prepared.outputs["tools"], "code_version": "1"}
        with dsl.ParallelFor(prepared.outputs["Output"]) as shard:
            tokenised = tokenise_shard_component(shard=shard, workers=1, **of_tokens)
        return join_tokenise_component(
            parts=dsl.Collected(tokenised.outputs["part"]), min_energy_correlation=-1.0, **of_tokens
        ).outputs["Output"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the local runner's own parts
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
        task = data(corpus=str(corpus), codec=str(debug_codec))
    assert task.output == whole.digest


@pytest.mark.parametrize(
    "component",
    [
        ingest_component,
        plan_ingest_component,
        ingest_shard_component,
        join_ingest_component,
        tokenise_component,
        plan_tokenise_component,
        tokenise_shard_component,
        join_tokenise_component,
    ],
    ids=lambda component: component.name,
)
def test_a_component_installs_nothing(component: dsl.base_component.BaseComponent) -> None:  # type: ignore[name-defined]
    container = component.component_spec.implementation.container
    assert "pip install" not in " ".join(container.command)
    assert "code_version" in component.component_spec.inputs
