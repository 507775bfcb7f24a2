"""A step in a process of its own tells what happens on its channel; what it prints goes to its log."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console
from waiting import eventually

from csm_components import events
from csm_components.events import describe, restored
from csm_components.ingest.spec import INGEST
from csm_model.errors import AudioError, CsmError, DigestError, InputError
from csm_pipelines.local import StepError, run_task
from csm_pipelines.progress import StepBoard


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = []
    for number in range(3):
        sound = np.sin(np.arange(24_000) * (0.05 + 0.01 * number)).astype(np.float32) / 4
        soundfile.write(folder / f"{number}.wav", sound, 24_000)
        rows += [
            f'{{"audio": "{number}.wav", "text": "turn {number}", "speaker": "anna", "start": 0.0, "duration": 0.5}}\n'
        ]
    (folder / "turns.jsonl").write_text("".join(rows))
    return folder


def ingest(corpus: Path, work: Path) -> list[str]:
    settings = '{"data.license": "CC0-1.0"}'
    return ["ingest", "--work", str(work), "--workers", "1", "--input", f"corpus={corpus}", "--settings", settings]


def test_steps_their_logs_and_their_ends(tmp_path: Path, corpus: Path) -> None:
    screen = io.StringIO()
    board = StepBoard(
        console=Console(file=screen, width=120),
        steps=("ingest", "train", "export"),
        note=lambda step: (True, f"{step} made something"),
    )
    heard: list[str] = []

    def progress(step: str, words: str) -> None:
        heard.append(words)
        board.printed(step, words)

    with board:
        board.started("ingest")
        result = run_task(ingest(corpus, tmp_path / "run"), "ingest", tmp_path / "logs", progress)
        board.ended("ingest", well=True)
        board.started("train")
        board.printed("train", "step 1/2  loss 3.000")
        board.ended("train", well=False)
    assert result["conversations"] == 3
    assert INGEST.words(result).startswith("3 conversations")
    assert heard == ["1 of 3 conversations", "2 of 3 conversations", "3 of 3 conversations"]
    assert "conversations" in (tmp_path / "logs" / "ingest.log").read_text(), "the tables that it prints"
    assert (board.rows["ingest"].state, board.rows["ingest"].note) == ("reused", "ingest made something")
    assert (board.rows["train"].state, board.rows["train"].note) == ("failed", "step 1/2  loss 3.000")
    assert board.rows["export"].state == "waiting"
    lines = [line.split()[:2] for line in screen.getvalue().splitlines()]
    assert lines == [["ingest", "running"], ["ingest", "reused"], ["train", "running"], ["train", "failed"]]


def test_a_log_is_not_silent_while_a_step_is(tmp_path: Path) -> None:
    screen = io.StringIO()
    board = StepBoard(
        console=Console(file=screen, width=120), steps=("ingest", "evaluate"), note=lambda _: (False, ""), silent_s=0.01
    )
    with board:
        board.started("evaluate")
        board.printed("evaluate", "judge, 12 of 96")
        eventually(lambda: screen.getvalue().count("judge, 12 of 96") > 2, "the log stays silent")
        board.ended("evaluate", well=True)
    said = screen.getvalue()
    assert all(line.startswith("evaluate") for line in said.splitlines())
    assert said.splitlines()[-1].split()[1] == "done"


def test_a_step_without_a_channel_says_in_its_log_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(events, "_log", [])
    events.progress("1 of 3")
    events.use_log(lambda: now)
    for now in (10.0, 30.0, 31.0, 59.0, 60.0):
        events.progress(f"at {now:.0f}")
    assert capsys.readouterr().err == "at 30\nat 60\n"


def test_an_error_of_a_step_comes_back_as_what_it_was(tmp_path: Path, corpus: Path) -> None:
    def run(*arguments: str) -> None:
        run_task(arguments, arguments[0], tmp_path / "logs", lambda step, words: None)

    with pytest.raises(InputError, match="no such folder; a corpus is a folder of audio and text"):
        run(*ingest(tmp_path / "nowhere", tmp_path / "run"))
    log = (tmp_path / "logs" / "ingest.log").read_text()
    assert log.startswith("error: ")
    assert log.count("\n") == 1
    with pytest.raises(InputError, match="step export needs its input 'parent'"):
        run("export", "--work", str(tmp_path / "run"))
    with pytest.raises(InputError, match=r"export has no setting data\.speed; it has release\.precision"):
        run("export", "--work", str(tmp_path / "run"), "--settings", '{"data.speed": 1}')
    (tmp_path / "file").touch()
    with pytest.raises(StepError, match=r"step ingest failed: FileExistsError: .*; all that it printed is in "):
        run(*ingest(corpus, tmp_path / "file"))
    assert "Traceback" in (tmp_path / "logs" / "ingest.log").read_text()


def test_a_step_that_is_killed_is_said_to_be(tmp_path: Path, corpus: Path) -> None:
    def kill(step: str, words: str) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in map(int, children):
            if b"csm_components.run" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)

    with pytest.raises(StepError, match=r"step ingest was killed by SIGKILL \(out of memory, or by hand\)"):
        run_task(ingest(corpus, tmp_path / "run"), "ingest", tmp_path / "logs", kill)


@pytest.mark.parametrize(
    "error", [InputError("a"), AudioError("b"), DigestError("c: d"), CsmError("e"), StepError("f")]
)
def test_errors_cross_processes_by_a_registry(error: CsmError) -> None:
    back = restored(describe(error))
    assert back is not None
    assert type(back) is (CsmError if isinstance(error, StepError) else type(error))
    assert str(back) == str(error)
    assert restored(describe(KeyError("x"))) is None


def test_notes_with_brackets_are_shown_as_they_are() -> None:
    board = StepBoard(console=Console(file=io.StringIO(), width=120), steps=("train",), note=lambda step: (False, ""))
    board.started("train")
    board.printed("train", "[red]not markup[/red]")
    screen = io.StringIO()
    Console(file=screen, width=120).print(board.table())
    assert "[red]not markup[/red]" in screen.getvalue()
