"""The steps of the data as Kubeflow runs them: each program in a process of its own, addresses between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kfp_container import executor_input
from rich.console import Console

from csm_components.artefacts import Artefact
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.spec import INGEST, ONLY_TEXTS
from csm_components.ingest.step import ingest
from csm_components.spec import StepSpec
from csm_components.storage import LocalStorage
from csm_components.table import STEPS
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.spec import TOKENISE
from csm_components.tokenise.step import tokenise
from csm_model.files import read_json
from csm_model.text import load_tokenizer


class Cluster:
    """Runs steps one after another, with a storage of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.storage = LocalStorage(home / "storage")
        self._count = 0

    def __call__(self, spec: StepSpec, **given: Any) -> dict[str, Any]:
        """Runs a step: the values that it gave back, and by their names the files of its artefacts."""
        self._count += 1
        outputs = self.home / f"{self._count}-{spec.name}"
        outputs.mkdir()
        command = [sys.executable, "-m", "csm_components.run", spec.name]
        done = subprocess.run(
            [*command, "--kubeflow", json.dumps(executor_input(spec, outputs, {"run": "run-1", **given}))],
            env={**os.environ, "CSM_STORAGE": str(self.storage.root)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        said = read_json(outputs / "executor_output.json")
        return said["parameterValues"] | {name: outputs / name for name in said["artifacts"]}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_ingest_and_tokenise_as_a_pipeline(
    cluster: Cluster, tmp_path: Path, write_corpus: dict[str, Callable[..., Path]], debug_codec: Path
) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus")
    ingested = cluster(INGEST, corpus=str(corpus))
    tokenised = cluster(
        TOKENISE,
        conversations=ingested["conversations"],
        codec=str(debug_codec),
        base="",
        data_tokenizer="bpe:300",
        data_prompt_format="sesame",
        data_min_energy_correlation=-1.0,
        data_heard_turns=0,
    )
    tokens = Artefact.load(tokenised["tokens"])
    folder = tokens.fetch(tmp_path / "tokens")
    manifest = read_json(folder / "manifest.json")
    assert manifest["digest"] == tokens.digest
    assert manifest["dataset_digest"] == Artefact.load(ingested["conversations"]).digest
    assert load_tokenizer(folder / "tokenizer.json").digest == manifest["tokenizer_digest"]
    assert manifest["vocab_size"] <= 300
    assert tokenised["tokens"].stat().st_size < 500, "what Kubeflow carries is an address"


def test_the_same_in_shards_as_a_pipeline(
    cluster: Cluster, tmp_path: Path, write_corpus: dict[str, Callable[..., Path]], debug_codec: Path
) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus")
    quiet = Console(quiet=True)
    check = CheckSettings(min_energy_correlation=-1)
    ingest(corpus, tmp_path / "ingest", workers=1, console=quiet)
    whole = tokenise(tmp_path / "ingest", debug_codec, None, tmp_path / "tokens", 1, check=check, console=quiet)

    plan, shard, join = INGEST.tasks
    parts = [
        cluster(shard, corpus=str(corpus), shard=name)["part"]
        for name in cluster(plan, corpus=str(corpus), shards=2)["Output"]
    ]
    conversations = cluster(join, parts=parts, corpus=str(corpus))["conversations"]
    plan, shard, join = TOKENISE.tasks
    planned = cluster(plan, conversations=conversations, codec=str(debug_codec), base="", shards=2, data_heard_turns=0)
    given = {"conversations": conversations, "tools": planned["tools"]}
    parts = [cluster(shard, shard=name, **given)["part"] for name in planned["Output"]]
    joined = cluster(join, parts=parts, **given, data_min_energy_correlation=-1.0)
    assert Artefact.load(joined["tokens"]).digest == whole.digest


def test_a_step_fetches_the_sound_that_it_reads_alone(
    cluster: Cluster, tmp_path: Path, write_corpus: dict[str, Callable[..., Path]]
) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus")
    stored = Artefact.load(cluster(INGEST, corpus=str(corpus))["conversations"])
    address = Artefact(url=f"file://{stored.url}", digest=stored.digest)
    folder = address.fetch(tmp_path / "pod", ONLY_TEXTS.__contains__)
    conversations = list(read_conversations(folder))
    assert not (folder / "audio").exists()
    whole = {item.id: item for item in read_conversations(Path(stored.url))}
    assert np.array_equal(conversations[1].audio(), whole[conversations[1].id].audio())
    assert [path.name for path in (folder / "audio").iterdir()] == [Path(conversations[1].file).name]


EVERY = {spec.name: spec for step in STEPS for spec in (step, *step.tasks)}


@pytest.mark.parametrize("spec", EVERY.values(), ids=EVERY)
def test_a_component_installs_nothing(spec: StepSpec) -> None:
    from csm_pipelines.kubeflow import component
    from csm_pipelines.pipelines import Feed, WiredStep

    feeds = {each.name: Feed(source=each.name) for each in spec.inputs}
    made = component(WiredStep(spec=spec, feeds=feeds)).component_spec
    assert made.implementation.container.command == ["python3", "-m", "csm_components.run", spec.name]
    assert made.description == spec.description
    described = {**(made.inputs or {}), **(made.outputs or {})}
    assert [name for name, row in described.items() if not row.description] == []
