"""Runs all steps on this machine, each in a process of its own.

A run's folder is named by its preset and a digest of its configuration: the same command finds the same folder, and
each step in it finds what it has committed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from csm_components.lifeline import sole_user
from csm_components.settings import load_settings
from csm_model.errors import CsmError
from csm_model.files import digest_of, write_json
from csm_pipelines.checks import RANDOM_CODEC, check_config
from csm_pipelines.config import MAKE, RunConfig
from csm_pipelines.local import run_task
from csm_pipelines.lost_record import mend
from csm_pipelines.pipelines import FROM_SOUND, HERE, Feed, Pipeline, WiredStep
from csm_pipelines.progress import StepBoard, console_for
from csm_pipelines.summary import announce, describe_step, record, record_failure, summarise

RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that has ended well."""

    folder: Path
    config: RunConfig
    summary: dict[str, Any]


def run_pipeline(config: RunConfig, *, runs: Path = RUNS, console: Console | None = None) -> Run:
    """Runs every step that is not committed yet; `runs/latest` names the run's folder.

    Raises:
        CsmError: what a step raised, with its own type; `local.StepError` for anything else that ended one.
    """
    console = console or console_for(sys.stdout)
    config = check_config(config)
    folder = (runs / f"{config.preset}-{digest_of(config.to_json())[:8]}").absolute()
    with sole_user(folder):
        write_json(folder / "config.json", config.to_json())
        _point_latest(runs, folder)
        if not load_settings().mlflow_tracking_uri and (lost := mend(runs)):
            console.print(f"warning: {lost}", markup=False)
        announce(folder, config.to_json())
        began = time.monotonic()
        try:
            _execute(_prepared(config, folder), folder, console)
        except CsmError:
            record_failure(folder)
            raise
        summary = summarise(folder, seconds=time.monotonic() - began)
        record(folder, config.to_json(), summary)
    return Run(folder=folder, config=config, summary=summary)


def _prepared(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the inputs that it asks to be made: a random codec."""
    if config.data.codec != RANDOM_CODEC:
        return config
    from csm_pipelines.tiny import random_codec

    return config.changed(data={"codec": str(random_codec(folder / "inputs" / "codec"))})


def pipeline_of(config: RunConfig) -> Pipeline:
    """What a run on this machine does."""
    return FROM_SOUND if config.data.annotations == MAKE else HERE


def _execute(config: RunConfig, folder: Path, console: Console) -> None:
    """Every step in its turn."""
    pipeline = pipeline_of(config)
    names = tuple(step.name for step in pipeline.steps)
    board = StepBoard(console=console, steps=names, note=lambda step: describe_step(folder, step))
    with board:
        for task in pipeline.wired(pipeline.steps):
            step = task.spec.step
            board.started(step)
            try:
                run_task(arguments_of(task, config, folder), step, folder / "logs", board.printed)
            except BaseException as error:
                board.printed(step, str(error) or "stopped")
                board.ended(step, well=False)
                raise
            board.ended(step, well=True)


def arguments_of(task: WiredStep, config: RunConfig, folder: Path) -> list[str]:
    """What the program of a step is started with."""
    spec = task.spec
    given = [spec.name, "--work", str(folder), "--workers", str(config.data.workers)]
    for name, feed in task.feeds.items():
        address = getattr(config.data, feed.source) if feed.source else _made(feed, folder)
        if address:
            given += ["--input", f"{name}={address}"]
    return [*given, "--settings", json.dumps({knob.dotted: config.value(knob) for knob in spec.knobs})]


def _made(feed: Feed, folder: Path) -> Path:
    """The folder that another step has made."""
    (spec,) = (step for step in FROM_SOUND.steps if step.name == feed.task)
    (output,) = (each for each in spec.outputs if each.name == feed.output)
    return folder / output.folder


def _point_latest(runs: Path, folder: Path) -> None:
    """Makes `runs/latest` name the folder, in one step."""
    partial = runs / f".latest.{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    partial.replace(runs / "latest")
