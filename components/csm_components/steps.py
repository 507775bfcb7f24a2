"""What every step does around its own work: timed, noted down, recorded in MLflow, its figures pushed to Prometheus.

A run on this machine has a folder, with one JSON file a step, `steps/NAME.json`: the step's result, what it took, and
whether it was reused. The summary of a run is made from these files alone. A reused step keeps the seconds that its
work once took.

On a cluster there is no such folder. A step that ends well under a cache key (`CSM_CACHE_KEY`) leaves the same note in
the storage's ledger, `ledger/NAME/KEY.json`: whoever plans a run reads there what will be reused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from csm_components.lifeline import follow, sole_user
from csm_components.metrics import push_failure, push_success
from csm_components.settings import load_settings
from csm_components.storage import open_storage
from csm_model.files import read_json, write_json

if TYPE_CHECKING:
    from csm_components.tracking import RunLog, Tracker

Result = TypeVar("Result")
_ORPHAN_SECONDS = 60.0


def note_path(work: Path, step: str) -> Path:
    """The file in which a step of the run in `work` is noted down."""
    return work / "steps" / f"{step}.json"


def ledger_key(step: str, key: str) -> str:
    """The object in which a step that ran under the cache key `key` is noted down."""
    return f"ledger/{step}/{key}.json"


def place(artifact: Any, work: str, folder: str) -> Path:
    """Where a component puts its result: `folder` of the run's folder, or the place Kubeflow chose where there is none.

    The artifact then names that place, so that the steps that follow look there. A run's folder outlives one submission
    of the pipeline: what was committed in it is found again.
    """
    if work:
        artifact.uri = str(Path(work) / folder)
    return Path(artifact.path)


def tracker_of(work: str, run: str = "") -> Tracker | None:
    """Where a step records: with the run's folder, or at the server of a cluster; None where there is neither.

    Args:
        work: the run's folder; may be empty.
        run: name of the pipeline run on a cluster.
    """
    from csm_components.tracking import Tracker

    settings = load_settings()
    if work:
        return Tracker(folder=Path(work))
    if settings.mlflow_tracking_uri and (run or settings.mlflow_run_id):
        return Tracker(run=run)
    return None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A step that is about to run."""

    step: str
    name: str
    """Of its MLflow run: a shard has one of its own."""
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    dataset: str
    address: str
    params: Mapping[str, Any]
    keep: Sequence[str]
    record: bool


@dataclass(frozen=True, kw_only=True)
class _Note:
    """A step that ended well; what is written down of it."""

    step: str
    seconds: float
    result: Mapping[str, Any]
    run: str = ""
    """Name of the pipeline run on a cluster."""
    finished: float = field(default_factory=time.time)


def run_step(
    work: str,
    step: str,
    function: Callable[..., Result],
    *,
    run: str = "",
    part: str = "",
    dataset: str = "",
    address: str = "",
    params: Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
    record: bool = True,
    **arguments: Any,
) -> Result:
    """Runs `function(**arguments)`, a step that returns a frozen dataclass with a field `reused`.

    Args:
        work: the run's folder; empty on a cluster.
        step: name of the step.
        function: its work.
        run: name of the pipeline run on a cluster.
        part: which of several tasks of this step it is; each is an MLflow run of its own.
        dataset: field of the result with the digest of the data, to be recorded as the dataset of the run.
        address: where that data is.
        params: what MLflow gets as parameters.
        keep: files of the result's folder that MLflow gets on a cluster.
        record: False for a step that writes to its MLflow run itself.
        arguments: of the function.
    """
    settings = load_settings()
    if settings.parent_pid:
        follow(settings.parent_pid)
    job = _Job(
        step=step,
        name=f"{step}-{part}" if part else step,
        function=function,
        arguments=arguments,
        dataset=dataset,
        address=address,
        params=params or {},
        keep=keep,
        record=record,
    )
    try:
        result, note = _in_folder(job, Path(work)) if work else _on_cluster(job, run)
        if settings.cache_key and settings.storage:
            open_storage().put_json(asdict(note), ledger_key(step, settings.cache_key))
    except Exception:
        push_failure(step)
        raise
    push_success(step, note.seconds, note.result)
    return result  # type: ignore[no-any-return]


def _in_folder(job: _Job, folder: Path) -> tuple[Any, _Note]:
    """Runs a step of the run in `folder`, which has the folder for itself."""
    with sole_user(folder, name=".step.lock", wait_seconds=_ORPHAN_SECONDS):
        began = time.time()
        result = job.function(**job.arguments)
        seconds = time.time() - began
        values = asdict(result)
        path = note_path(folder, job.step)
        if path.exists() and values["reused"]:
            seconds = read_json(path)["seconds"]
        elif job.record:
            tracker = tracker_of(str(folder))
            assert tracker is not None
            with tracker.step(job.name) as log:
                _record(log, job, values, seconds, name=folder.name)
        note = _Note(step=job.step, seconds=seconds, result=values)
        write_json(path, asdict(note))
    return result, note


def _on_cluster(job: _Job, run: str) -> tuple[Any, _Note]:
    """Runs a step in a pod of its own; its MLflow run is open while it works."""
    tracker = tracker_of("", run) if job.record else None
    began = time.time()
    if tracker is None:
        result = job.function(**job.arguments)
        return result, _Note(step=job.step, seconds=time.time() - began, result=asdict(result), run=run)
    with tracker.step(job.name) as log:
        result = job.function(**job.arguments)
        note = _Note(step=job.step, seconds=time.time() - began, result=asdict(result), run=run)
        settings = load_settings()
        _record(log, job, note.result, note.seconds, name=settings.model or settings.experiment)
        for file in job.keep:
            log.artifact(Path(str(note.result["out"])) / file)
    return result, note


def _record(log: RunLog, job: _Job, values: Mapping[str, Any], seconds: float, *, name: str) -> None:
    log.params({**job.params, **{key: value for key, value in values.items() if isinstance(value, str)}})
    log.metrics({**values, "step_seconds": seconds})
    log.tags({key: value for key, value in values.items() if key.endswith("digest")})
    if job.dataset:
        log.dataset(
            name,
            digest=str(values[job.dataset]),
            source=job.address or str(values["out"]),
            profile={key: value for key, value in values.items() if isinstance(value, int | float)},
            context="dataset",
        )
