"""The pipeline components of the data: run as the local runner runs them, in a process of their own."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import dsl, local

from csm_components.ingest.component import ingest_component
from csm_components.tokenise.component import tokenise_component
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


@pytest.mark.parametrize("component", [ingest_component, tokenise_component])
def test_a_component_installs_nothing(component: dsl.base_component.BaseComponent) -> None:  # type: ignore[name-defined]
    container = component.component_spec.implementation.container
    assert "pip install" not in " ".join(container.command)
    assert "code_version" in component.component_spec.inputs
