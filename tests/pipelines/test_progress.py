"""What Kubeflow's local runner prints is taken apart into steps, logs and notes."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from csm_pipelines.progress import StepBoard, StepOutput

PRINTED = """\
16:27:01.214 - INFO - Running pipeline: \x1b[95m'csm-foundry'\x1b[0m
--------------------------------------------------------------------------------
16:27:01.236 - INFO - Executing task \x1b[96m'ingest-component'\x1b[0m
16:27:01.237 - INFO - Streamed logs:

    [KFP Executor 2026-11-22 16:27:01,401 INFO]: Looking for component `ingest_component`
    {
        "inputs": {
    4 conversations read
16:27:01.423 - INFO - Task \x1b[96m'ingest-component'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
16:27:01.425 - INFO - Executing task \x1b[96m'train-component'\x1b[0m
    step 1/2  loss 3.000
    Traceback (most recent call last):
      File "x.py", line 1, in <module>
    csm_model.errors.DigestError: shard-3: not the bytes of its manifest
16:27:01.583 - ERROR - Task \x1b[96m'train-component'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""


def test_steps_their_logs_and_their_ends(tmp_path: Path) -> None:
    screen = io.StringIO()
    board = StepBoard(
        console=Console(file=screen, width=120),
        steps=("ingest", "train", "export"),
        note=lambda step: (True, f"{step} made something"),
    )
    with board:
        output = StepOutput(board, tmp_path)
        for start in range(0, len(PRINTED), 7):  # as it comes, not line by line
            output.write(PRINTED[start : start + 7])
    assert (board.rows["ingest"].state, board.rows["ingest"].note) == ("reused", "ingest made something")
    assert board.rows["train"].state == "failed"
    assert board.rows["train"].note == "csm_model.errors.DigestError: shard-3: not the bytes of its manifest"
    assert board.rows["export"].state == "waiting"
    assert output.failed == "train"
    log = output.log_of("train").read_text()
    assert log.splitlines()[:3] == [
        "step 1/2  loss 3.000",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in <module>',
    ]
    lines = [line.split()[:2] for line in screen.getvalue().splitlines()]
    assert lines == [["ingest", "running"], ["ingest", "reused"], ["train", "running"], ["train", "failed"]]
    output.close()


def test_notes_with_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    board = StepBoard(console=Console(file=io.StringIO(), width=120), steps=("train",), note=lambda step: (False, ""))
    board.started("train")
    board.printed("train", "[red]not markup[/red]")
    screen = io.StringIO()
    Console(file=screen, width=120).print(board.table())
    assert "[red]not markup[/red]" in screen.getvalue()
