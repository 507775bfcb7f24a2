"""csm submit, plan-run, runs and schedule, against an API with Kubeflow's semantics and a real S3 service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from kfp_api import KfpApi, kfp_api
from object_store import seaweedfs

from csm_components.made import Record, enter
from csm_components.settings import Settings
from csm_components.storage import Storage, open_storage
from csm_model.bundle import load_bundle, write_bundle
from csm_model.files import write_json
from csm_pipelines.pipelines import PIPELINES
from csm_pipelines.profile import PROFILES

Csm = Callable[..., Any]
URL = "s3://csm/tests"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with seaweedfs(tmp_path_factory.mktemp("seaweed")) as settings:
        yield settings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four conversations of two turns."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(4):
        sound = np.sin(np.arange(24_000) * (0.05 + 0.01 * number)).astype(np.float32) / 4
        soundfile.write(folder / f"{number}.wav", sound, 24_000)
        rows += [
            {"audio": f"{number}.wav", "text": text, "speaker": text, "start": start, "duration": 0.4}
            for text, start in (("anna", 0.0), ("ben", 0.5))
        ]
    (folder / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Cluster:
    """An API, a storage with a prefix of its own, and the options that lead to them."""

    def __init__(self, api: KfpApi, storage: Storage, profile: Path, corpus: Path) -> None:
        self.api, self.storage, self.profile, self.corpus = api, storage, profile, corpus

    def options(self, *more: str) -> list[str]:
        chosen = ["--preset", "debug", "--set", f"data.corpus={self.corpus}", "--set", "data.conversations=null"]
        return ["--profile", str(self.profile), *chosen, "--set", "data.license=CC0-1.0", "--shards", "2", *more]

    def note(self, step: str, key: str) -> None:
        """What a step leaves in the ledger when it has ended well."""
        made = Record(step=step, key=key, seconds=700.0, finished=1_790_000_000.0, run="a-run", result={})
        enter(self.storage, made)


@pytest.fixture
def cluster(
    s3: Settings, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    url = f"{URL}/{abs(hash(request.node.name))}"
    assert s3.s3_secret_key is not None
    monkeypatch.setenv("CSM_S3_ACCESS_KEY", str(s3.s3_access_key))
    monkeypatch.setenv("CSM_S3_SECRET_KEY", s3.s3_secret_key.get_secret_value())
    values = yaml.safe_load((PROFILES / "kind.yaml").read_text())
    with kfp_api() as api:
        values["storage"] |= {"url": url, "endpoint": f"http://{s3.s3_endpoint}"}
        values["kfp"]["host"] = api.url
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
        monkeypatch.setenv("CSM_KFP_POLL_S", "0")
        yield Cluster(api, open_storage(url, s3), tmp_path / "mine.yaml", corpus)


def planned(csm: Csm, cluster: Cluster, *more: str, pipeline: str = "training") -> dict[str, Any]:
    """The plan by step."""
    outcome = csm("plan-run", pipeline, *cluster.options(*more, "--json"))
    assert outcome.status == 0, outcome.err
    return {row["step"]: row for row in json.loads(outcome.out)["steps"]}


def test_a_run_is_sent_started_and_followed(csm: Csm, cluster: Cluster) -> None:
    outcome = csm("submit", "training", *cluster.options("--name", "first"))
    assert (outcome.status, outcome.err) == (0, "")
    assert "corpus: sending 5 files" in outcome.out
    assert f"{cluster.api.url}/#/runs/details/" in outcome.out
    assert "the run succeeded" in outcome.out
    for step in PIPELINES["training"].step_names:
        assert f"\n{step} " in outcome.out, step
    (run,) = cluster.api.runs.values()
    given = run.body["runtime_config"]["parameters"]
    assert run.body["display_name"] == "first"
    assert (given["shards"], given["release_model"]) == (2, "csm-debug")
    assert json.loads(given["train_recipe"])["steps"] == 6
    assert given["replay"] == ""
    for name in ("corpus", "codec"):
        prefix, _, key = given[name].rpartition("/inputs/")
        assert prefix.startswith(URL)
        assert cluster.storage.read_tree(f"inputs/{key}")["digest"] == key

    again = csm("submit", "training", *cluster.options("--no-follow"))
    assert again.status == 0
    assert "corpus: in the storage already" in again.out
    assert "there already" in again.out, "the same pipeline is not uploaded twice"
    assert len(cluster.api.versions) == 2, "one of its own name, made with the pipeline, and one of its content"


def test_a_run_that_fails_names_the_step_its_log_and_the_way_on(csm: Csm, cluster: Cluster) -> None:
    cluster.api.failures["train"] = ["out of memory"]
    outcome = csm("submit", "training", *cluster.options())
    assert outcome.status == 1
    (run,) = cluster.api.runs
    assert "ended as FAILED in step train: out of memory" in outcome.out
    hint = f"kubectl -n csm-training logs -l pipeline/runid={run},app.kubernetes.io/component=train -c main"
    assert hint in outcome.out
    assert f"csm runs retry {run}" in outcome.out

    options = ["--profile", str(cluster.profile)]
    assert csm("runs", "retry", run, *options).status == 0
    followed = csm("runs", "show", run, "--follow", *options)
    assert followed.status == 0
    assert "the run succeeded" in followed.out


def test_an_interrupted_following_leaves_the_run_alone(
    csm: Csm, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("csm_pipelines.following.states_of", interrupted)
    outcome = csm("submit", "training", *cluster.options())
    assert outcome.status == 130
    assert "no longer following; the run goes on" in outcome.out
    assert not any(":terminate" in request for request in cluster.api.requests)


def test_runs_are_listed_shown_and_ended(csm: Csm, cluster: Cluster) -> None:
    assert csm("submit", "training", *cluster.options("--no-follow", "--name", "one")).status == 0
    (run,) = cluster.api.runs
    options = ["--profile", str(cluster.profile)]
    (row,) = json.loads(csm("runs", "list", *options, "--json").out)
    assert (row["run"], row["name"]) == (run, "one")
    whole = json.loads(csm("runs", "show", run, *options, "--json").out)
    assert (whole["run"], whole["name"]) == (run, "one")
    assert {"step", "state", "seconds", "note"} == set(whole["steps"][0])
    listed = csm("runs", "list", *options)
    assert run in listed.out
    assert "one" in listed.out
    shown = csm("runs", "show", run, *options)
    assert "plan-ingest" in shown.out
    assert csm("runs", "terminate", run, *options).status == 0
    ended = csm("runs", "show", run, "--follow", *options)
    assert ended.status == 1
    assert "ended as CANCELED" in ended.out
    refused = csm("runs", "show", "nothing", *options)
    assert (refused.status, refused.err.count("\n")) == (2, 1)


def test_a_plan_says_what_runs_and_sends_nothing(csm: Csm, cluster: Cluster) -> None:
    rows = planned(csm, cluster)
    assert list(rows) == list(PIPELINES["training"].step_names)
    assert not any(row["reused"] for row in rows.values())
    assert rows["train"]["why"] == "never submitted before"
    assert rows["ingest-shard"]["why"] == "0 of 2 shards are in the storage"
    assert rows["register"]["key"] == ""
    assert cluster.storage.list() == []
    assert cluster.api.requests == []


def test_what_the_ledger_knows_is_reused_and_what_changed_is_named(csm: Csm, cluster: Cluster, tmp_path: Path) -> None:
    assert csm("submit", "training", *cluster.options("--no-follow")).status == 0
    first = planned(csm, cluster)
    assert first["train"]["why"] == "submitted before, and has not ended well since"
    for step in ("plan-ingest", "ingest", "plan-tokenise", "tokenise", "train"):
        cluster.note(step, first[step]["key"])

    same = planned(csm, cluster)
    assert [step for step, row in same.items() if row["reused"]] == [
        "plan-ingest",
        "ingest",
        "plan-tokenise",
        "tokenise",
        "train",
    ]
    assert same["train"]["why"].startswith("made on 21 September 2026")
    assert same["train"]["why"].endswith("run a-run, took 12 min")

    longer = planned(csm, cluster, "--set", "train.recipe.steps=250")
    assert longer["tokenise"]["reused"]
    assert not longer["train"]["reused"]
    assert longer["train"]["why"] == "changed: train.recipe.steps 6 → 250"
    assert longer["export"]["why"] == "train will be other than before"

    table = csm("plan-run", "training", *cluster.options("--set", "train.recipe.steps=250"))
    assert "3 of 7 steps that can be reused will run" in table.out

    manifest = {"digest": "d", "splits": {}, "speakers": {}, "codec_digest": "c", "tokenizer_digest": "t"}
    write_json(tmp_path / "replay" / "manifest.json", manifest)
    replayed = planned(csm, cluster, "--set", f"data.replay={tmp_path / 'replay'}")
    assert replayed["tokenise"]["reused"]
    assert replayed["train"]["why"].startswith("changed: replay none → ")

    in_three = planned(csm, cluster, "--shards", "3")
    assert in_three["plan-ingest"]["why"] == "changed: shards 2 → 3"
    assert in_three["ingest"]["reused"], "what is joined does not depend on how it was cut"


def test_other_sound_makes_other_keys_though_the_folder_is_the_same(csm: Csm, cluster: Cluster) -> None:
    before = planned(csm, cluster)
    sound = (cluster.corpus / "3.wav").read_bytes()
    try:
        soundfile.write(cluster.corpus / "3.wav", np.zeros(24_000, np.float32), 24_000)
        after = planned(csm, cluster)
    finally:
        (cluster.corpus / "3.wav").write_bytes(sound)
    keyed = [step for step, row in before.items() if row["key"]]
    assert all(before[step]["key"] != after[step]["key"] for step in keyed)
    assert before == planned(csm, cluster)


def test_a_source_may_be_an_address_and_must_be_there(csm: Csm, cluster: Cluster) -> None:
    local = planned(csm, cluster)
    cluster.storage.put_tree(cluster.corpus, "corpora/calls")
    address = f"{yaml.safe_load(cluster.profile.read_text())['storage']['url']}/corpora/calls"
    stored = planned(csm, cluster, "--set", f"data.corpus={address}")
    assert {step: row["key"] for step, row in stored.items()} == {step: row["key"] for step, row in local.items()}
    missing = csm("plan-run", "training", *cluster.options("--set", f"data.corpus={address}-2"))
    assert missing.status == 2
    assert "no such tree in the storage" in missing.err


def test_a_release_takes_a_kept_bundle(csm: Csm, cluster: Cluster, bundle: Path) -> None:
    refused = csm("plan-run", "release", *cluster.options())
    assert refused.status == 2
    assert "--bundle s3://" in refused.err
    rows = planned(csm, cluster, "--bundle", str(bundle), pipeline="release")
    assert list(rows) == list(PIPELINES["release"].step_names)
    assert rows["export"]["key"]
    assert rows["deploy"]["why"] == "only where the gate lets it through"
    outcome = csm("submit", "release", *cluster.options("--bundle", str(bundle)))
    assert outcome.status == 0, outcome.err
    (run,) = cluster.api.runs.values()
    assert "train_recipe" not in run.body["runtime_config"]["parameters"]


def test_a_schedule_of_nightly_is_made_paused_and_deleted(
    csm: Csm, cluster: Cluster, bundle: Path, tmp_path: Path
) -> None:
    rounded = csm("schedule", "create", "nights", *cluster.options("--set", f"data.base={bundle}"), "--every", "1h")
    assert rounded.status == 2
    assert "its weights are int8, which is for speaking only" in rounded.err
    loaded = load_bundle(bundle, kernels=False)
    told = {"tokenizer": loaded.tokenizer, "codec_folder": bundle / "codec", "info": {}}
    write_bundle(tmp_path / "base", model=loaded.model, precision="fp32", **told)  # type: ignore[arg-type]
    options = cluster.options("--set", f"data.base={tmp_path / 'base'}")
    made = csm("schedule", "create", "nights", *options, "--cron", "0 0 3 * * *")
    assert made.status == 0, made.err
    (row,) = cluster.api.schedules.values()
    assert row["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert (row["no_catchup"], row["max_concurrency"]) == (True, "1")
    version = cluster.api.versions[row["pipeline_version_reference"]["pipeline_version_id"]]
    assert "cacheKey" not in json.dumps(version["pipeline_spec"]), "the data of a night are not known before it"
    known = ["--profile", str(cluster.profile)]
    assert "nights" in csm("schedule", "list", *known).out
    (listed,) = json.loads(csm("schedule", "list", *known, "--json").out)
    assert (listed["schedule"], listed["when"]) == ("nights", "0 0 3 * * *")
    assert csm("schedule", "pause", "nights", *known).status == 0
    assert row["status"] == "DISABLED" or "disabled" in csm("schedule", "list", *known).out
    assert csm("schedule", "resume", "nights", *known).status == 0
    assert csm("schedule", "delete", "nights", *known).status == 0
    assert cluster.api.schedules == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "trainings", "--profile", "kind"], "pipeline 'trainings': there are training, finetune"),
        (["submit", "training", "--profile", "moon"], "profile 'moon': no such file; there are cpu, gpu, kind"),
        (["submit", "training", "--profile", "gpu"], "is not named by its digest"),
        (["submit", "training", "--profile", "kind", "--image", "serve=x"], "image 'serve=x': write it as data="),
        (["submit", "training", "--profile", "kind", "--preset", "x"], "preset 'x': there are demo"),
        (["submit", "training", "--profile", "kind", "--shards", "0"], "shards 0: must be at least 1"),
        (
            ["plan-run", "training", "--profile", "kind", "--set", "data.corpus=s3://Bucket"],
            "an address is s3://bucket/prefix/key",
        ),
        (["plan-run", "training", "--profile", "kind"], "needs CSM_S3_ACCESS_KEY, CSM_S3_SECRET_KEY"),
        (["plan-run", "release", "--profile", "kind", "--bundle", "nowhere"], "nowhere: not a bundle"),
        (["compile", "training", "--profile", "kind", "--format", "xml"], "format 'xml' is not one of ir, crs"),
        (["compile", "training", "--profile", "kind", "--set", "train.recipe.stepz=3"], "did you mean steps?"),
        (
            ["plan-run", "training", "--profile", "kind", "--set", "gate.max_wer=NaN"],
            "gate.max_wer nan: must be a finite",
        ),
        (
            ["submit", "training", "--profile", "kind", "--set", "judge.split=tset"],
            "'tset' is not one of test, validation",
        ),
        (["schedule", "create", "n", "--profile", "kind"], "give either --cron"),
        (["schedule", "create", "n", "--profile", "kind", "--cron", "0 3 * * *"], "must be six fields"),
        (["schedule", "create", "n", "--profile", "kind", "--every", "soon"], "must be a number with s, m, h or d"),
        (["runs", "list"], "no Kubeflow Pipelines is named: set CSM_KFP_HOST"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_exit_2(csm: Csm, arguments: list[str], words: str) -> None:
    outcome = csm(*arguments)
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err


def test_a_base_of_another_name_is_asked_for_where_one_is_needed(csm: Csm, cluster: Cluster) -> None:
    outcome = csm("submit", "finetune", *cluster.options())
    assert outcome.status == 2
    assert "name one with --set data.base=" in outcome.err


def test_compile_writes_the_file_and_the_environment_goes_before_the_profile(
    csm: Csm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert csm("compile", "training", "--profile", "kind", "--out", tmp_path / "t.yaml").status == 0
    assert "name: csm-training" in (tmp_path / "t.yaml").read_text()
    monkeypatch.setenv("CSM_KFP_HOST", "http://127.0.0.1:1")
    outcome = csm("runs", "list", "--profile", "gpu")
    assert outcome.status == 2
    assert "http://127.0.0.1:1: Kubeflow Pipelines does not answer" in outcome.err
