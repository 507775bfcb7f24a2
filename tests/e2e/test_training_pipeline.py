"""The pipeline training, run for real by Kubeflow's local runner: in three shards, with a storage and an MLflow.

Its runner for processes takes components of Python functions alone, and looks for a word in the command; ours are
programs of this Python, which it runs as well once that question is left out. In containers, with nothing left out, the
pipelines run in `tests/images`.

One run serves all tests. A shard of it is killed the first time that it works, as by a node that goes away.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from csm_components.artefacts import Artefact
from csm_components.spec import StepSpec
from csm_components.storage import LocalStorage
from csm_components.tracking import Tracker
from csm_model.bundle import read_manifest
from csm_model.files import read_json
from csm_pipelines.checks import check_config
from csm_pipelines.config import RunConfig
from csm_pipelines.dotted import with_settings
from csm_pipelines.pipelines import PIPELINES, step_of_task
from csm_pipelines.presets import preset
from csm_pipelines.sources import Source
from csm_pipelines.submission import arguments_of
from csm_pipelines.tiny import random_codec

pytestmark = pytest.mark.timeout(2400)
KILLED = "00001-of-00003"
NODE_THAT_GOES_AWAY = f"""
import os, pathlib, re, signal, sys
home = pathlib.Path(os.environ["STORY"])
if "--kubeflow" in sys.argv:
    step = sys.argv[sys.argv.index("--kubeflow") - 1]
    shard = re.search(r"\\d{{5}}-of-\\d{{5}}", " ".join(sys.argv)) if step.endswith("-shard") else None
    with open(home / "attempts", "a") as file:
        file.write(step + (" " + shard[0] if shard else "") + "\\n")
    if step == "ingest-shard" and shard[0] == "{KILLED}" and not (home / "killed").exists():
        (home / "killed").touch()
        def goes_away(event, given):
            if event == "os.rename" and str(given[1]).startswith(str(home)):
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(goes_away)
"""
"""What Python runs first in each process of a step: it notes what begins, and kills one process of one shard, once,
where it is about to commit its first file."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened."""

    config: RunConfig
    codec: Path
    storage: LocalStorage
    mlflow: str
    artifacts: Path
    """What the first run left."""
    attempts: Counter[str]
    """How often each step began, shards by their names."""


def run_locally(pipeline: Any, arguments: Mapping[str, Any], root: Path, patch: pytest.MonkeyPatch) -> None:
    """Runs a pipeline in processes of this machine."""
    from kfp import local
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    own_print = builtins.print
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of kfp: images and limits have no effect here
            local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
            patch.setattr(SubprocessTaskHandler, "validate_not_container_component", lambda *_: None)
            pipeline(**arguments)
    finally:
        builtins.print = own_print  # kfp's threads put one of theirs in its place and may leave it there


def with_a_second_try(spec: StepSpec, task: Any) -> Any:
    """Shards are tried twice."""
    task.set_caching_options(False)
    return task.set_retry(1) if spec.role == "shard" else task


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    from csm_pipelines.dressing import Dress
    from csm_pipelines.kubeflow import build

    home = tmp_path_factory.mktemp("training")
    (home / "hook").mkdir()
    (home / "hook" / "sitecustomize.py").write_text(NODE_THAT_GOES_AWAY)
    config = check_config(with_settings(preset("debug"), ["judge.mos=false"]))
    codec = random_codec(home / "codec")
    sources = {
        name: Source(address=str(at), digest="") for name, at in {"corpus": config.data.corpus, "codec": codec}.items()
    }
    training = PIPELINES["training"]
    arguments = arguments_of(training, config, sources, shards=3)
    mlflow = f"sqlite:///{home / 'mlflow.db'}"
    dress: Dress = with_a_second_try
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSM_STORAGE", str(home / "storage"))
        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setenv("STORY", str(home))
        patch.setenv("PYTHONPATH", str(home / "hook"))
        patch.setenv("MLFLOW_TRACKING_URI", mlflow)
        run_locally(build(training, dress, parallelism=2), arguments, home / "artifacts", patch)
    return Story(
        config=config,
        codec=codec,
        storage=LocalStorage(home / "storage"),
        mlflow=mlflow,
        artifacts=home / "artifacts",
        attempts=Counter((home / "attempts").read_text().splitlines()),
    )


def outputs_of(root: Path, task: str) -> list[dict[str, Any]]:
    """Metadata of the artefacts that the executions of a task wrote."""
    found = []
    for path in sorted(root.rglob("executor_output.json")):
        if path.parent.name.startswith(task):
            rows = read_json(path).get("artifacts", {}).values()
            found += [each.get("metadata", {}) for row in rows for each in row["artifacts"]]
    return found


def test_every_step_ran(story: Story) -> None:
    began = {step_of_task(name.partition(" ")[0]) for name in story.attempts}
    assert began == set(PIPELINES["training"].step_names)


def test_the_shard_that_was_killed_was_tried_again_alone(story: Story) -> None:
    shards = [f"{number:05}-of-00003" for number in range(3)]
    for step in ("ingest-shard", "tokenise-shard"):
        assert {f"{step} {shard}" for shard in shards} <= set(story.attempts)
    assert {name: times for name, times in story.attempts.items() if times != 1} == {f"ingest-shard {KILLED}": 2}


def test_the_digests_are_those_of_one_step_alone(story: Story, tmp_path: Path) -> None:
    from csm_components.ingest.step import ingest
    from csm_components.tokenise.knobs import CheckSettings
    from csm_components.tokenise.step import tokenise

    data = story.config.data
    whole = ingest(Path(data.corpus), tmp_path / "ingest", max_conversations=data.conversations, workers=1)
    check = CheckSettings(min_energy_correlation=-1)
    tokens = tokenise(tmp_path / "ingest", story.codec, None, tmp_path / "tokens", 1, check=check)
    (ingested,) = outputs_of(story.artifacts, "join-ingest")
    (encoded,) = outputs_of(story.artifacts, "join-tokenise")
    assert ingested["digest"] == whole.digest
    assert encoded["digest"] == tokens.digest


def test_the_float_bundle_is_kept_in_the_storage(story: Story) -> None:
    (key,) = story.storage.trees("trained/")
    digest = key.rpartition("/")[2]
    (trained,) = outputs_of(story.artifacts, "train")
    assert digest == trained["digest"]
    assert read_manifest(story.storage.root / key)["digest"] == digest
    assert len(story.storage.trees("tokens/")) == len(story.storage.trees("conversations/")) == 1


def test_kubeflow_carries_addresses_and_the_bytes_lie_in_the_storage(story: Story) -> None:
    for spec in PIPELINES["training"].on_cluster:
        for output in spec.outputs:
            files = list(story.artifacts.rglob(f"{spec.name}/{output.name}"))
            assert files, spec.name
            for file in files:
                artefact = Artefact.load(file)
                assert story.storage.has_tree(artefact.url.removeprefix(f"{story.storage.root}/"))


def test_the_report_has_the_curves_of_the_training(story: Story) -> None:
    (file,) = story.artifacts.rglob("evaluate/evaluation")
    report = (Path(Artefact.load(file).url) / "report.html").read_text(encoding="utf-8")
    assert "The losses while it was trained" in report


def test_mlflow_has_one_run_with_one_nested_run_a_step(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", story.mlflow)
    tracker = Tracker(run="any")
    runs = tracker.client.search_runs([tracker.experiment_id], max_results=200)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if run.data.tags.get("csm.step") == "pipeline"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    names = Counter(run.info.run_name for run in children)
    assert set(names.values()) == {1}
    for name in ("ingest", "ingest-shard-00000-of-00003", "tokenise", "train", "export", "evaluate", "register"):
        assert names[name] == 1, name
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_another_run_takes_the_shards_from_the_storage(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from csm_components.ingest.fanout import ingest_shard
    from csm_components.tokenise.fanout import tokenise_shard

    data = story.config.data
    conversations, tools = (
        Path(Artefact.load(next(story.artifacts.rglob(name))).url)
        for name in ("join-ingest/conversations", "plan-tokenise/tools")
    )
    for storage, reused in ((story.storage.root, True), (tmp_path / "another", False)):
        monkeypatch.setenv("CSM_STORAGE", str(storage))
        ingested = ingest_shard(
            data.corpus,
            KILLED,
            tmp_path / f"ingest-{reused}",
            max_conversations=data.conversations,
            workers=1,
        )
        encoded = tokenise_shard(conversations, tools, KILLED, tmp_path / f"tokens-{reused}", workers=1)
        assert (ingested.reused, encoded.reused) == (reused, reused)
