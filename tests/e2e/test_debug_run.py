"""`csm run --preset debug`: the whole path with everything real but small, killed on the way and started again.

One run serves all tests: it is killed with SIGKILL amid its data, its tokens and its training, goes on, and is asked
for once more; then files of it are damaged, and it is killed while it makes them again. Its folders have names that are
not ASCII, and its locale knows none of their letters.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import kill_moments
import pytest
import soundfile
from kill_moments import Moment
from waiting import eventually

from csm_components.tracking import Tracker
from csm_components.tree_list import MADE
from csm_model.files import read_json
from csm_pipelines.pipelines import STEPS

pytestmark = pytest.mark.timeout(2400)
STEPS_OF_TRAINING = 40
WOUNDED = ("ingest", "tokens", "train", "bundle", "register", "steps")
"""Folders of the run in which files are damaged; what evaluate and speak say again takes as long as the rest."""
SLOW_DISK = """
import sys, threading
def slow(event, given):
    if event == "os.rename" and "/checkpoints/step-" in str(given[1]):
        threading.Event().wait(2.0)
sys.addaudithook(slow)
"""
"""What Python runs first in the run that is killed: each of its checkpoints takes two seconds. A training hears only
after a second that nobody wants it any more, and would be done by then."""


EARLY = (
    Moment(name="amid the conversations", step=1, pattern=r"os\.rename ingest/parts/.*", number=6),
    Moment(name="a shard of tokens", step=2, pattern=r"os\.rename tokens/.*-00000\.safetensors"),
)
"""Where the run is killed before it trains."""
LATE = (Moment(name="the quantised bundle", step=4, pattern=r"os\.rename bundle.*"),)
"""Where it is killed while it makes again what was damaged."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened."""

    folder: Path
    second: str
    """What the run that went on printed."""
    third: str
    """What the run that found everything printed."""
    summary: dict[str, object]
    """After the second."""
    again: dict[str, object]
    """The same after the third."""
    rows: list[dict[str, float]]
    """What the training had logged by then."""
    tokenised: float
    """When its tokens were there, seconds since 1970."""
    checkpoints_at_kill: list[str]
    kills: dict[str, int]
    """How the attempts ended that were to be killed at a moment."""
    orphans: list[int]
    """Processes of the killed run that were still alive after a while."""
    wounded: dict[str, str]
    """What was done to which files before the fourth run."""
    healed: dict[str, object]
    """The summary after that."""


def command() -> list[str]:
    return [
        sys.executable, "-m", "csm_cli.cli", "run", "--preset", "debug",
        "--set", f"train.recipe.steps={STEPS_OF_TRAINING}", "--set", "release.say=Good evening, everyone.",
    ]  # fmt: skip


def workers_of(folder: Path) -> list[int]:
    """Processes whose command line names the run's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder).encode() in line and state != "Z" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def checkpoints(run: Path) -> list[str]:
    """Names of the checkpoints that a run holds."""
    return sorted(path.name for path in (run / "train" / "checkpoints").glob("step-*"))


def debris(folder: Path) -> list[Path]:
    """What was begun and not ended."""
    return [path for path in folder.rglob("*") if path.name.endswith((".partial", ".old"))]


def wound(run: Path, rng: random.Random) -> dict[str, str]:
    """Does to a quarter of the files that steps have committed what a power cut may do; says what to which."""
    done = {}
    for step in WOUNDED:
        files = [path for path in sorted((run / step).rglob("*")) if path.is_file() and path.stat().st_size]
        files = [path for path in files if path.name != MADE and not {"checkpoints", "logs"} & set(path.parts)]
        for path in rng.sample(files, -(-len(files) // 4)):
            data, way = path.read_bytes(), rng.choice(["empty", "half", "zeros", "gone"])
            if way == "gone":
                path.unlink()
            else:
                path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "zeros": bytes(len(data))}[way])
            done[str(path.relative_to(run))] = way
    return done


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = tmp_path_factory.mktemp("e2e") / "Gespräche"
    (place / "hook").mkdir(parents=True)
    (place / "töne").mkdir()
    (place / "hook" / "sitecustomize.py").write_text(SLOW_DISK)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CSM_", "MLFLOW_", "LC_"))}
    environment |= {"LANG": "C", "TMPDIR": str(place / "töne")}
    slowed = environment | {"PYTHONPATH": str(place / "hook")}
    latest = place / "runs" / "latest"

    def run() -> str:
        done = subprocess.run(
            command(), cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=1200
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def killed_at(moment: Moment) -> int:
        hooked = environment | kill_moments.environment(place / "moments", moment=moment)
        with (place / "said").open("wb") as said:
            return subprocess.run(
                command(), cwd=place, env=hooked, stdout=said, stderr=said, start_new_session=True, check=False
            ).returncode

    kills = {moment.name: killed_at(moment) for moment in EARLY}
    with subprocess.Popen(
        command(), cwd=place, env=slowed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as first:
        try:
            eventually(lambda: bool(checkpoints(latest)) or first.poll() is not None)
            assert first.poll() is None, first.communicate()[1]
        finally:
            first.send_signal(signal.SIGKILL)
    at_kill = checkpoints(latest)
    assert not (latest / "train" / "result.json").exists()
    folder = latest.resolve()
    eventually(lambda: not workers_of(folder), "a process of the killed run lives on")
    orphans = workers_of(folder)

    second = run()
    summary = read_json(folder / "summary.json")
    third = run()
    again = read_json(folder / "summary.json")
    rows = [json.loads(line) for line in (folder / "train" / "metrics.jsonl").read_text().splitlines()]
    tokenised = read_json(folder / "steps" / "tokenise.json")["finished"]
    wounded = wound(folder, random.Random(0))
    kills |= {moment.name: killed_at(moment) for moment in LATE}
    run()
    return Story(
        folder=folder,
        second=second,
        third=third,
        summary=summary,
        again=again,
        rows=rows,
        tokenised=tokenised,
        checkpoints_at_kill=at_kill,
        kills=kills,
        orphans=orphans,
        wounded=wounded,
        healed=read_json(folder / "summary.json"),
    )


def test_nothing_of_the_killed_run_lives_on(story: Story) -> None:
    assert story.checkpoints_at_kill
    assert story.orphans == []


def test_a_run_that_is_killed_at_a_moment_leaves_nothing_unfinished(story: Story) -> None:
    assert story.kills == dict.fromkeys((moment.name for moment in (*EARLY, *LATE)), -signal.SIGKILL)
    assert debris(story.folder) == []


def test_the_run_went_on_from_what_was_committed(story: Story) -> None:
    assert story.summary["reused"] == {step: step in ("ingest", "tokenise") for step in STEPS}
    rows = story.rows
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS_OF_TRAINING
    times = [row["time"] for row in rows]
    assert times[0] < story.tokenised, "its first rows are the killed run's"


def test_every_figure_was_measured(story: Story) -> None:
    summary = story.summary
    for key in ("wer_generated", "wer_reconstruction", "wer_original", "speaker_accuracy", "wer_int8_delta"):
        assert isinstance(summary[key], float), key
    assert float(str(summary["wer_original"])) < 0.3, "the recordings are real speech"
    assert 0 < float(str(summary["real_time_factor"])) < 20
    assert float(str(summary["first_audio_ms"])) > 0
    assert (summary["served"], summary["frames_equal"], summary["champion"]) == (True, True, False)
    paths = summary["paths"]
    assert isinstance(paths, dict)
    info = soundfile.info(paths["speech"])
    assert (info.samplerate, info.channels) == (24_000, 1)
    assert info.frames % 1_920 == 0
    assert "<html" in Path(paths["report"]).read_text(encoding="utf-8")


def test_a_missed_gate_is_said_and_is_no_error(story: Story) -> None:
    assert "version 1 is candidate: " in story.second
    assert "misses at most 0.15" in story.second


def test_the_third_run_reuses_every_step_and_says_so(story: Story) -> None:
    for step in STEPS:
        assert any(line.split()[:2] == [step, "reused"] for line in story.third.splitlines()), step
    assert story.again["reused"] == dict.fromkeys(STEPS, True)
    for key, value in story.summary.items():
        if key not in ("reused", "minutes_now"):
            assert story.again[key] == value, key


def test_files_that_were_damaged_are_made_again_as_they_were(story: Story) -> None:
    assert {name.partition("/")[0] for name in story.wounded} == set(WOUNDED)
    assert story.healed["digests"] == story.summary["digests"]
    lost = [name for name in story.wounded if not (story.folder / name).is_file()]
    assert not [name for name in lost if Path(name).name not in ("metrics.jsonl", "loss.png")], (
        "both curves may be lost"
    )
    assert not [name for name in story.wounded if name not in lost and not (story.folder / name).stat().st_size]
    for name in story.wounded:
        if name.endswith(".json"):
            assert read_json(story.folder / name), name


def test_mlflow_has_the_run_its_steps_and_the_model(story: Story) -> None:
    tracker = Tracker(folder=story.folder)
    parent = tracker.pipeline_run_id()
    runs = tracker.client.search_runs([tracker.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_name for run in runs} == {
        "ingest",
        "tokenise",
        "train",
        "export",
        "evaluate",
        "register",
        "speak",
    }
    assert {run.info.status for run in runs} == {"FINISHED"}
    whole = tracker.client.get_run(parent)
    assert Path(tracker.uri.removeprefix("sqlite:///")) == story.folder.parent / "mlflow.db"
    assert "| figure | measured | target |" in whole.data.tags["mlflow.note.content"]
    assert whole.info.status == "FINISHED"
    assert not list(story.folder.glob("*.jsonl")), "nothing waits for MLflow, and nothing was refused"
    assert whole.data.params["preset"] == "debug"
    assert whole.data.metrics["wer_generated"] == story.summary["wer_generated"]
    assert {entry.path for entry in tracker.client.list_artifacts(parent)} == {"report.html", "summary.json"}
    candidate = tracker.by_alias("csm-debug", "candidate")
    assert candidate is not None
    digests = story.summary["digests"]
    assert isinstance(digests, dict)
    assert candidate.tags["bundle_digest"] == digests["bundle"]
    assert digests["dataset"][:36] in {entry.dataset.digest for entry in whole.inputs.dataset_inputs}
    assert candidate.tags["parent_digest"] == digests["float_bundle"]
    assert tracker.by_alias("csm-debug", "champion") is None
