"""What every step does around its own work: one at a time in a run's folder, timed, noted down, recorded in MLflow.

A run's folder has one JSON file a step, `steps/NAME.json`: the step's result, what it took, and whether it was reused.
The summary of a run is made from these files alone. A reused step keeps the seconds that its work once took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from csm_components.lifeline import follow, sole_user
from csm_components.settings import load_settings
from csm_model.files import read_json, write_json

Result = TypeVar("Result")
_ORPHAN_SECONDS = 60.0


def note_path(work: Path, step: str) -> Path:
    """The file in which a step of the run in `work` is noted down."""
    return work / "steps" / f"{step}.json"


def place(artifact: Any, work: str, folder: str) -> Path:
    """Where a component puts its result: `folder` of the run's folder, or the place Kubeflow chose where there is none.

    The artifact then names that place, so that the steps that follow look there. A run's folder outlives one submission
    of the pipeline: what was committed in it is found again.
    """
    if work:
        artifact.uri = str(Path(work) / folder)
    return Path(artifact.path)


def run_step(
    work: str,
    step: str,
    function: Callable[..., Result],
    *,
    dataset: str = "",
    params: Mapping[str, Any] | None = None,
    record: bool = True,
    **arguments: Any,
) -> Result:
    """Runs `function(**arguments)`, a step that returns a frozen dataclass with a field `reused`.

    Args:
        work: the run's folder; empty only runs the function.
        step: name of the step.
        dataset: field of the result with the digest of the data, to be recorded as the dataset of the run.
        params: what MLflow gets as parameters.
        record: False for a step that writes to its MLflow run itself.
    """
    settings = load_settings()
    if settings.parent_pid:
        follow(settings.parent_pid)
    if not work:
        return function(**arguments)
    folder = Path(work)
    with sole_user(folder, name=".step.lock", wait_seconds=_ORPHAN_SECONDS):
        began = time.time()
        result = function(**arguments)
        seconds = time.time() - began
        values = asdict(result)  # type: ignore[call-overload]
        path = note_path(folder, step)
        known = path.exists() and values["reused"]
        if known:
            seconds = read_json(path)["seconds"]
        elif record:
            _record(folder, step, values, dataset=dataset, params=params or {}, seconds=seconds)
        write_json(path, {"step": step, "seconds": seconds, "finished": time.time(), "result": values})
    return result


def _record(
    work: Path, step: str, values: Mapping[str, Any], *, dataset: str, params: Mapping[str, Any], seconds: float
) -> None:
    from csm_components.tracking import Tracker

    with Tracker(folder=work).step(step) as log:
        log.params({**params, **{key: value for key, value in values.items() if isinstance(value, str)}})
        log.metrics({**values, "step_seconds": seconds})
        log.tags({key: value for key, value in values.items() if key.endswith("digest")})
        if dataset:
            log.dataset(
                work.name,
                digest=str(values[dataset]),
                source=str(values["out"]),
                profile=_numbers(values),
                context="dataset",
            )


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, int | float)}
