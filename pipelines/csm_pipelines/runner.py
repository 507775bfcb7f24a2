"""Runs the pipeline on this machine, with Kubeflow's local runner and the steps of this environment.

A run's folder is named by its preset and a digest of its configuration: the same command finds the same folder, and
each step in it finds what it has committed. Kubeflow's own cache stays off; it does not see the code of the steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from csm_components.failures import cause, error_from
from csm_components.lifeline import sole_user
from csm_model.errors import CsmError
from csm_model.files import digest_of, write_json
from csm_pipelines.arguments import settings_arguments
from csm_pipelines.checks import RANDOM_CODEC, check_config, check_path
from csm_pipelines.presets import RunConfig
from csm_pipelines.progress import StepBoard, StepOutput, console_for
from csm_pipelines.steps import STEPS
from csm_pipelines.summary import describe_step, record, record_failure, summarise

RUNS = Path("runs")
SPARE_SENTENCES = (
    "My sister arrives at nine fifteen, so we should leave soon.",
    "Is there a quiet place near the river where we can eat?",
    "It will rain on Monday, but the weekend looks warm and clear.",
    "Please bring two coffees and a slice of lemon cake.",
)
"""Said at the end for the clock."""


class StepError(CsmError):
    """A step ended in an error that is no `CsmError` of its own: a fault of this program or of the machine."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that has ended well."""

    folder: Path
    config: RunConfig
    summary: dict[str, Any]


def run_pipeline(config: RunConfig, *, runs: Path = RUNS, console: Console | None = None) -> Run:
    """Runs every step that is not committed yet; `runs/latest` names the run's folder.

    Raises:
        CsmError: what a step raised, with its own type; `StepError` for anything else that ended one.
    """
    console = console or console_for(sys.stdout)
    config = check_config(config)
    folder = check_path("runs", (runs / f"{config.preset}-{digest_of(config.to_json())[:8]}").absolute())
    with sole_user(folder):
        write_json(folder / "config.json", config.to_json())
        _point_latest(runs, folder)
        arguments = pipeline_arguments(_prepared(config, folder), folder)
        began = time.monotonic()
        try:
            _execute(arguments, folder, console)
        except CsmError:
            record_failure(folder)
            raise
        summary = summarise(folder, seconds=time.monotonic() - began)
        record(folder, config.to_json(), summary)
    return Run(folder=folder, config=config, summary=summary)


def pipeline_arguments(config: RunConfig, folder: Path) -> dict[str, Any]:
    """What the pipeline function takes."""
    data, release = config.data, config.release
    return settings_arguments(config) | {
        "corpus": data.corpus,
        "codec": data.codec,
        "code_version": version("csm-foundry"),
        "base": data.base or "",
        "tokenizer": data.tokenizer or "",
        "text": release.say,
        "speaker": release.speaker,
        "sentences": json.dumps(SPARE_SENTENCES),
        "max_frames": config.judge.max_frames or 0,
        "workers": data.workers,
        "work": str(folder),
    }


def _prepared(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the inputs that it asks to be made: a random codec."""
    data = config.data
    if data.codec == RANDOM_CODEC:
        from csm_pipelines.tiny import random_codec

        data = replace(data, codec=str(random_codec(folder / "inputs" / "codec")))
    return replace(config, data=data)


def _execute(arguments: dict[str, Any], folder: Path, console: Console) -> None:
    from kfp import local

    from csm_pipelines.pipeline import csm_pipeline

    board = StepBoard(console=console, steps=STEPS, note=lambda step: describe_step(folder, step))
    output = StepOutput(board, folder / "logs")
    with (
        tempfile.TemporaryDirectory(prefix="csm-pipeline-") as scratch,
        _environment(CSM_PARENT_PID=str(os.getpid()), PYTHONUNBUFFERED="1"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of kfp: the image's name, settings without effect here
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=scratch, raise_on_error=True)
        with board, contextlib.redirect_stdout(output):
            try:
                csm_pipeline(**arguments)
            except RuntimeError as error:
                if output.failed is None:
                    raise
                raise _failure(output, output.failed) from error
            finally:
                output.close()


def _failure(output: StepOutput, step: str) -> CsmError:
    """What ended a step."""
    lines = output.log_of(step).read_text(encoding="utf-8").splitlines()
    if (own := error_from(lines)) is not None:
        return own
    block = cause(lines)
    last = block[-1] if block else next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    return StepError(f"step {step} failed: {last.strip()}; all that it printed is in {output.log_of(step)}")


def _point_latest(runs: Path, folder: Path) -> None:
    """Makes `runs/latest` name the folder, in one step."""
    partial = runs / f".latest.{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    partial.replace(runs / "latest")


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Sets variables for the steps, which inherit them, and puts the old ones back."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
