"""Kubeflow Pipelines over its API: versions by content, runs that are followed, schedules, and refusals in one line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from kfp_api import KfpApi, kfp_api
from rich.console import Console

from csm_model.errors import ArtifactError, InputError, MissingDependencyError
from csm_pipelines.compiling import compile_pipeline
from csm_pipelines.following import ended, follow, states_of, tasks_of
from csm_pipelines.kfp_client import KfpClient, Trigger, Version
from csm_pipelines.pipelines import PIPELINES, step_of_task
from csm_pipelines.profile import load_profile
from csm_pipelines.settings import KfpSettings

NIGHTLY = {"corpus": "s3://csm/corpora/calls", "codec": "s3://csm/inputs/c", "base": "s3://csm/inputs/b"}
ARGUMENTS = {**NIGHTLY, "shards": 3}


@pytest.fixture(scope="module")
def ir() -> str:
    return compile_pipeline("nightly", load_profile("kind"))


@pytest.fixture
def api() -> Iterator[KfpApi]:
    with kfp_api(iterations=3) as found:
        yield found


@pytest.fixture
def client(api: KfpApi) -> KfpClient:
    return KfpClient(KfpSettings(host=api.url))


def watch(client: KfpClient, run: str) -> tuple[Any, str]:
    """Follows without waiting; how the run ended, and what was shown."""
    console = Console(width=120, file=io.StringIO())
    done = follow(client, run, steps=PIPELINES["nightly"].step_names, console=console, sleep=lambda _seconds: None)
    assert isinstance(console.file, io.StringIO)
    return done, console.file.getvalue()


def ends_of(client: KfpClient, run: str) -> dict[str, Any]:
    """When each step ended."""
    return {step_of_task(task.display_name): task.end_time for task in tasks_of(client.run(run))}


def test_the_same_pipeline_is_one_version_and_another_is_a_second(client: KfpClient, api: KfpApi, ir: str) -> None:
    first, again = client.upload(ir), client.upload(ir)
    assert (first.reused, again.reused) == (False, True)
    assert first.version_id == again.version_id
    other = client.upload(ir.replace("maxRetryCount: 1", "maxRetryCount: 2"))
    assert other.pipeline_id == first.pipeline_id
    assert other.version_id != first.version_id
    assert [row["display_name"] for row in api.pipelines.values()] == ["csm-nightly"]


def test_a_run_is_followed_to_its_end(client: KfpClient, ir: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = client.start(client.upload(ir), "a night", ARGUMENTS)
    done, shown = watch(client, run)
    assert done.well
    assert done.failed_step == ""
    assert "3 of 3 shards" in shown
    assert {row.step for row in states_of(client.run(run))} == set(PIPELINES["nightly"].step_names)
    assert client.url(run).endswith(f"/#/runs/details/{run}")
    assert capsys.readouterr().out == "", "the client of kfp prints links"


def test_a_gate_that_is_missed_leaves_deploy_out_and_is_no_failure(client: KfpClient, api: KfpApi, ir: str) -> None:
    api.gate = False
    run = client.start(client.upload(ir), "a night", ARGUMENTS)
    assert watch(client, run)[0].well
    assert {row.step: row.state for row in states_of(client.run(run))}["deploy"] == "skipped"


def test_the_step_that_failed_is_named_and_a_retry_starts_it_alone(client: KfpClient, api: KfpApi, ir: str) -> None:
    api.failures["train"] = ["the job was evicted"]
    run = client.start(client.upload(ir), "a night", ARGUMENTS)
    done, shown = watch(client, run)
    assert (done.state, done.failed_step, done.words) == ("FAILED", "train", "the job was evicted")
    assert "end-run" in shown, "the record of the run is closed however it ends"
    ingested = ends_of(client, run)["ingest"]
    client.retry(run)
    assert watch(client, run)[0].well
    assert ends_of(client, run)["ingest"] == ingested, "what succeeded is not run again"


def test_one_shard_that_fails_is_counted(client: KfpClient, api: KfpApi, ir: str) -> None:
    api.failures["ingest-shard"] = ["a damaged file"]
    run = client.start(client.upload(ir), "a night", ARGUMENTS)
    done, shown = watch(client, run)
    assert done.failed_step == "ingest-shard"
    assert "2 of 3 shards, 1 failed" in shown


def test_following_ends_with_a_run_that_was_terminated(client: KfpClient, ir: str) -> None:
    run = client.start(client.upload(ir), "a night", ARGUMENTS)
    client.run(run)
    client.terminate(run)
    assert watch(client, run)[0].state == "CANCELED"
    with pytest.raises(ArtifactError, match="cannot be terminated"):
        client.terminate(run)


def test_arguments_that_the_pipeline_does_not_have_are_refused(client: KfpClient, ir: str) -> None:
    version = client.upload(ir)
    with pytest.raises(ArtifactError, match="unknown input parameters: colour"):
        client.start(version, "a night", {**ARGUMENTS, "colour": "red"})
    with pytest.raises(ArtifactError, match="corpus requires value"):
        client.start(version, "a night", {"codec": "s3://a/b", "base": "s3://a/c"})
    with pytest.raises(ArtifactError, match="shards requires type"):
        client.start(version, "a night", {**ARGUMENTS, "shards": "three"})


def test_runs_are_listed_the_newest_first(client: KfpClient, ir: str) -> None:
    version = client.upload(ir)
    made = [client.start(version, name, ARGUMENTS) for name in ("one", "two", "three")]
    assert [run.run_id for run in client.runs(2)] == made[:0:-1]


def test_a_schedule_starts_one_run_at_a_time_until_it_is_paused(client: KfpClient, api: KfpApi, ir: str) -> None:
    made = client.schedule(client.upload(ir), "nights", ARGUMENTS, Trigger(cron="0 0 3 * * *"))
    row = api.schedules[made]
    assert (row["no_catchup"], row["max_concurrency"], row["status"]) == (True, "1", "ENABLED")
    run = api.fire(made)
    assert run is not None
    assert api.fire(made) is None, "a run of it still works"
    assert watch(client, run)[0].well
    assert api.fire(made) is not None
    client.pause(client.schedule_named("nights").recurring_run_id)
    assert client.schedule_named(made).status == "DISABLED"
    client.resume(made)
    assert client.schedule_named("nights").status == "ENABLED"
    client.delete_schedule(made)
    assert client.schedules() == []


def test_schedules_have_names_of_their_own_and_those_there_are_are_listed(
    client: KfpClient, api: KfpApi, ir: str
) -> None:
    version = client.upload(ir)
    first = client.schedule(version, "nights-0", ARGUMENTS, Trigger(every_s=43_200))
    for number in range(1, 60):  # more than one page
        name = f"nights-{number}"
        api.schedules[name] = {**api.schedules[first], "display_name": name, "recurring_run_id": name}
    with pytest.raises(InputError, match="nights-59: there is one of this name"):
        client.schedule(version, "nights-59", ARGUMENTS, Trigger(every_s=43_200))
    with pytest.raises(InputError, match="schedule 'days': there is no such; there are nights-0, nights-1"):
        client.schedule_named("days")


@pytest.mark.parametrize("token", ["", "old"])
def test_a_refused_token_names_the_variables(token: str) -> None:
    with (
        kfp_api(token="new") as api,
        pytest.raises(InputError, match="refused \\(401\\); give a token with CSM_KFP_TOKEN"),
    ):
        KfpClient(KfpSettings(host=api.url, token=token or None)).runs(1)


def test_a_token_is_read_from_its_file(tmp_path: Any) -> None:
    (tmp_path / "token").write_text("new\n")
    with kfp_api(token="new") as api:
        assert KfpClient(KfpSettings(host=api.url, token_file=str(tmp_path / "token"))).runs(1) == []
        with pytest.raises(InputError, match="none: cannot be read"):
            KfpClient(KfpSettings(host=api.url, token_file="none")).runs(1)


def test_a_host_that_is_not_there_is_one_line_at_once() -> None:
    with pytest.raises(MissingDependencyError, match=r"does not answer .*; check CSM_KFP_HOST"):
        KfpClient(KfpSettings(host="http://127.0.0.1:1")).runs(1)


def test_a_run_that_is_not_there_is_named(client: KfpClient) -> None:
    with pytest.raises(InputError, match=r"run nothing: http://.* knows of none"):
        client.run("nothing")
    with pytest.raises(InputError, match="knows of none"):
        client.start(Version(pipeline_id="a", version_id="b", name="c", reused=True), "x", ARGUMENTS)


def test_the_end_of_a_run_without_tasks_is_its_own_error(client: KfpClient, api: KfpApi, ir: str) -> None:
    run = client.start(client.upload(ir), "a night", ARGUMENTS)
    api.runs[run].tasks = []
    api.runs[run].body |= {"state": "FAILED", "error": {"code": 3, "message": "the workflow\n is too large"}}
    done = ended(client.run(run))
    assert (done.failed_step, done.words) == ("", "the workflow is too large")
