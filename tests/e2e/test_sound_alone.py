"""`csm run --data`: from a folder of sound without a text to a served voice, everything real but small, in one command.

It is killed amid its recordings and goes on; one file of the folder is no sound.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import kill_moments
import pytest
from kill_moments import Moment

from csm_components.annotate.annotations import RECORDINGS, TURNS, read_rows
from csm_components.ingest.conversations import read_conversations
from csm_model.files import read_json
from csm_pipelines.pipelines import FROM_SOUND

pytestmark = pytest.mark.timeout(1200)
DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "corpus" / "audio"
TALKS = tuple(f"demo-test-100000{number}.opus" for number in (0, 1, 2, 5))
KILL = Moment(name="amid the recordings", step=0, pattern=r"os\.rename annotations/parts/.*", number=3)


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened."""

    folder: Path
    killed: int
    parts_at_kill: list[str]
    second: str
    """What the run that went on printed."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = tmp_path_factory.mktemp("alone")
    (place / "sound").mkdir()
    for name in TALKS:
        shutil.copy(DEMO / name, place / "sound")
    (place / "sound" / "poisoned.mp3").write_bytes(bytes(range(256)) * 40)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CSM_", "MLFLOW_"))}
    command = [
        sys.executable, "-m", "csm_cli.cli", "run", "--preset", "debug", "--data", "sound",
        "--set", "data.license=CC0-1.0", "--set", "release.dialogue=null",
    ]  # fmt: skip
    hooked = environment | kill_moments.environment(place / "moments", moment=KILL)
    with (place / "said").open("wb") as said:
        killed = subprocess.run(
            command, cwd=place, env=hooked, stdout=said, stderr=said, start_new_session=True, check=False
        ).returncode
    folder = (place / "runs" / "latest").resolve()
    at_kill = sorted(path.name for path in (folder / "annotations" / "parts").glob("*.json"))
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=1100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Story(folder=folder, killed=killed, parts_at_kill=at_kill, second=done.stdout)


def test_sound_alone_becomes_a_model_that_speaks(story: Story) -> None:
    summary = read_json(story.folder / "summary.json")
    assert summary["reused"].keys() == {step.name for step in FROM_SOUND.steps}
    assert summary["wer_generated"] is not None
    assert (story.folder / "speech").is_dir()
    assert "annotate" in story.second


def test_its_conversations_are_what_was_heard(story: Story) -> None:
    rows = {row["id"]: row for row in read_rows(story.folder / "annotations", TURNS)}
    conversations = list(read_conversations(story.folder / "ingest"))
    assert {item.split for item in conversations} == {"train", "validation", "test"}
    for item in conversations:
        assert [turn.text for turn in item.turns] == [rows[turn.id]["text"] for turn in item.turns]


def test_a_killed_run_goes_on_and_a_poisoned_file_costs_itself(story: Story) -> None:
    assert story.killed == -signal.SIGKILL
    assert 0 < len(story.parts_at_kill) < len(TALKS) + 1
    rows = {row["audio"]: row for row in read_rows(story.folder / "annotations", RECORDINGS)}
    assert [name for name, row in rows.items() if "reason" in row] == ["poisoned.mp3"]
    assert sorted(rows) == sorted([*TALKS, "poisoned.mp3"])
