"""MLflow itself: where runs are found and made, and what is said of them is written; `csm_components.tracking` uses it.

A pipeline run is one MLflow run; each of its steps is a run nested in it. Both are found again by their tags, so a step
that was killed and started again goes on in the same record.

A run that is deleted in MLflow while it is written to is restored. One that was deleted before makes place for a new
one. Where the experiment was deleted all waits until it is restored, or another is named. What MLflow will never take
is put aside.

On a cluster the steps of a run are pods that share nothing but its name. Whichever comes first makes the run of the
whole. MLflow has nothing that only one of two can make, so two that come at once each make one: both then wait until
neither can still be hidden from the other, choose the same one, mark it as settled, and the other is deleted.

Parameters can be written once (an MLflow rule). A retry that brings another value keeps the first as the parameter and
writes the new one as a tag, `retry.NAME`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from csm_components.lifeline import sole_user
from csm_components.outbox import Delivered, Entry, Outbox, first_line
from csm_components.recorded_names import LONGEST, recorded_file, recorded_name, recorded_text
from csm_components.settings import load_settings
from csm_model.errors import InputError, MissingDependencyError
from csm_model.files import atomic_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, RunTag

P = TypeVar("P", "Param", "RunTag")

SQLITE = "sqlite:///"
PIPELINE = "pipeline"
"""What the run of a whole pipeline run has in the place of a step."""
REFUSALS = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "INVALID_STATE"}
)
"""What MLflow answers to a request that will not be taken when it is made again."""
_FAULTS = (LookupError, TypeError, AttributeError)
_MAX_PARAM = 6000
_MAX_BATCH = 100
"""Parameters or tags that MLflow takes in one request."""
_MAX_CHARACTERS = 80_000
"""Of their values, each of which may take 12 bytes of the million that a request may have."""
_MAX_METRICS = 1000
"""Points that MLflow takes in one request."""
_MAX_TAG = 5000
_MAX_DATASET_NAME = 500
_MAX_DATASET_DIGEST = 36
_PARENT_TAG = "mlflow.parentRunId"
_RUN_TAG = "csm.run"
_STEP_TAG = "csm.step"
_SETTLED_TAG = "csm.settled"
_SETTLE_SECONDS = 1.0
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's page of the experiment then shows trainings; without it, it guesses, and shows prompts and judges."""
STORE_LOCK = ".mlflow.lock"
"""Beside an sqlite store: held by who makes it, or puts a damaged one aside."""
_MAKING_S = 300.0
"""How long who needs a store waits for another who makes it."""
_OPENING = threading.Lock()
_BUSY_S = 60
"""How long sqlite waits for another process that writes."""


@dataclass(kw_only=True)
class OpenRun:
    """An MLflow run as far as it must be known to write to it."""

    run_id: str
    start_ms: int
    params: dict[str, str]
    last: dict[str, int]
    """The latest step of each metric."""


@dataclass(frozen=True, kw_only=True)
class MlflowStore:
    """The runs of one pipeline run in an MLflow store.

    Args:
        uri: address of the store.
        name: of the pipeline run.
        shared: whether its steps are pods, which may make its run at once.
        folder: what the paths of artefacts begin at.
        refused: takes what MLflow will not.
        say: called with a line when it has taken the first.
    """

    uri: str
    name: str
    shared: bool
    folder: Path
    refused: Outbox
    say: Callable[[str], None]
    _runs: dict[tuple[str, str], OpenRun] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def client(self) -> MlflowClient:
        """The MLflow client, quiet; a server is not asked yet."""
        return (
            _open_sqlite(self.uri) if self.uri.startswith(SQLITE) else quiet_mlflow().MlflowClient(self.uri, self.uri)
        )

    @cached_property
    def experiment_id(self) -> str:
        """The experiment, made when it is not there."""
        from mlflow.exceptions import MlflowException

        name = load_settings().experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            path = self.uri.removeprefix(SQLITE)  # a server keeps artefacts itself, a file keeps them beside it
            location = (Path(path).absolute().parent / "mlruns").as_uri() if path != self.uri else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location, tags=dict(_EXPERIMENT_TAGS)))
            except MlflowException as error:
                found = self.client.get_experiment_by_name(name)  # another step was faster
                if found is None:
                    raise MissingDependencyError(f"MLflow at {self.uri}: experiment {name}: {error}") from None
        if found.lifecycle_stage == "deleted":
            raise InputError(f"MLflow experiment {name!r} was deleted: restore it, or set another CSM_EXPERIMENT")
        with suppress(MlflowException):  # of an experiment that this user may not change
            for key, value in _EXPERIMENT_TAGS.items():
                if key not in found.tags:
                    self.client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    def pipeline_run_id(self) -> str:
        """The MLflow run of the whole pipeline run, made when it is not there."""
        return self._settled(self._whole) if self.shared else self._find_or_create(self.name, self._whole)

    @property
    def _whole(self) -> dict[str, str]:
        """The tags of the run of the whole."""
        return {_RUN_TAG: recorded_name(self.name), _STEP_TAG: PIPELINE}

    def deliver(self, entries: Sequence[Entry]) -> Delivered:
        """Sends entries; a file that does not go keeps nothing else back."""
        done = Delivered()
        for _, group in groupby(entries, key=lambda entry: [entry.get(name) for name in ("do", "step", "run_id")]):
            for each in _in_requests(list(group)):
                try:
                    self._send(each)
                except Exception as error:  # mlflow raises whatever its transport does
                    done.error = error
                    if each[0].get("do") != "artifact":
                        return done
                    done.later += each
                done.taken += len(each)
        return done

    def _send(self, entries: Sequence[Entry], *, mended: bool = False) -> None:
        """Sends entries of one kind for one run; what MLflow will not take of them is put aside."""
        from mlflow.exceptions import MlflowException

        try:
            if entries[0].get("existing") and not self._find(self._whole):
                return
            run = self.run_of(entries[0])
        except _FAULTS as error:  # a line that this program did not write
            self._put_aside(entries, error)
            return
        try:
            self._write(run, entries)
        except MlflowException as error:
            if error.error_code not in REFUSALS | ({"INTERNAL_ERROR"} if self.uri.startswith(SQLITE) else set()):
                raise
            if not mended:
                self._mend(run)
                self._send(entries, mended=True)
            elif len(entries) > 1:
                for entry in entries:
                    self._send([entry], mended=True)
            else:
                self._put_aside(entries, error)
        except (*_FAULTS, ValueError) as error:
            self._put_aside(entries, error)

    def run_of(self, target: Entry) -> OpenRun:
        """The run that an entry goes to, made when it is not there."""
        key = (target["step"], target["run_id"])
        if key not in self._runs:
            run_id = target["run_id"] or self._step_run_id(target["step"], target.get("at"))
            found = self.client.get_run(run_id)
            self._runs[key] = OpenRun(
                run_id=run_id,
                start_ms=int(found.info.start_time),
                params=dict(found.data.params),
                last={metric.key: int(metric.step) for metric in found.data.to_proto().metrics},
            )
        return self._runs[key]

    def _mend(self, run: OpenRun) -> None:
        """Sees to a run that is deleted or gone, and forgets what was known of it.

        Raises:
            InputError: its experiment was deleted.
        """
        from mlflow.exceptions import MlflowException

        self.__dict__.pop("experiment_id", None)
        _ = self.experiment_id
        try:
            if self.client.get_run(run.run_id).info.lifecycle_stage == "deleted":
                self.client.restore_run(run.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        for key in [key for key, known in self._runs.items() if known is run]:
            del self._runs[key]

    def _put_aside(self, entries: Sequence[Entry], error: Exception) -> None:
        if not self.refused.path.exists():
            self.say(f"warning: MLflow refuses a record ({first_line(error)}); it is in {self.refused.path}")
        self.refused.put(*({**entry, "why": str(error)} for entry in entries))

    def _write(self, run: OpenRun, entries: Sequence[Entry]) -> None:
        """Writes entries of one kind to a run."""
        entry = entries[0]
        if entry["do"] == "metrics":
            self._write_metrics(run, entries)
        elif entry["do"] == "params":
            self._write_params(run, entry["values"])
        elif entry["do"] == "tags":
            self._write_tags(run, entry["values"])
        elif entry["do"] == "dataset":
            self._write_dataset(run, entry)
        elif entry["do"] == "artifact":
            self._write_artifact(run, self.folder / entry["path"], entry["folder"])
        elif entry["do"] == "begin":
            self.client.update_run(run.run_id, status="RUNNING")
        elif entry["do"] == "end":
            self._write_tags(run, entry["values"])
            self.client.set_terminated(run.run_id, entry["status"], entry["at"])

    def _write_metrics(self, run: OpenRun, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        points, last = [], dict(run.last)
        for entry in entries:
            step = int(entry.get("metric_step") or 0)
            if every := entry.get("every_ms"):
                step = max(0, entry["at"] - run.start_ms) // every
            for name, value in entry["values"].items():
                key = recorded_name(name)
                if not entry.get("newer") or step > last.get(key, -1):
                    points.append(Metric(key, value, entry["at"], step))
                    last[key] = max(step, last.get(key, -1))
        for start in range(0, len(points), _MAX_METRICS):
            self.client.log_batch(run.run_id, metrics=points[start : start + _MAX_METRICS], synchronous=True)
        run.last = last

    def _write_params(self, run: OpenRun, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        texts = {name: recorded_text(value, _MAX_PARAM) for name, value in values.items()}
        new = {key: text for name, text in texts.items() if (key := recorded_name(name)) not in run.params}
        for batch in _batches([Param(key, text) for key, text in new.items()]):
            self.client.log_batch(run.run_id, params=batch, synchronous=True)
            run.params |= {param.key: param.value for param in batch}
        other = {name: text for name, text in texts.items() if run.params[recorded_name(name)] != text}
        self._write_tags(run, {f"retry.{name}": values[name] for name in other})

    def _write_tags(self, run: OpenRun, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = {recorded_name(name): recorded_text(value, _MAX_TAG) for name, value in values.items()}
        for batch in _batches([RunTag(key, text) for key, text in tags.items()]):
            self.client.log_batch(run.run_id, tags=batch, synchronous=True)

    def _write_dataset(self, run: OpenRun, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=recorded_text(entry["name"], _MAX_DATASET_NAME),
            digest=entry["digest"][:_MAX_DATASET_DIGEST],
            source_type="local",
            source=json.dumps({"uri": entry["source"]}),
            profile=json.dumps(entry["profile"]),
        )
        tags = [InputTag("mlflow.data.context", entry["context"])]
        self.client.log_inputs(run.run_id, datasets=[DatasetInput(dataset=entity, tags=tags)])

    def _write_artifact(self, run: OpenRun, path: Path, folder: str | None) -> None:
        """A file under a legal name; what has gone since is left out."""
        place = "/".join(map(recorded_file, filter(None, folder.split("/")))) if folder else None
        if path.is_dir():
            for each in sorted(path.rglob("*")):
                if each.is_file():
                    inner = each.parent.relative_to(path).as_posix()
                    self._write_artifact(run, each, "/".join(filter(None, (folder, inner if inner != "." else ""))))
        elif path.is_file() and recorded_file(path.name) == path.name:
            self.client.log_artifact(run.run_id, str(path), place)
        elif path.is_file():
            with tempfile.TemporaryDirectory(prefix="csm-artifact-") as scratch:
                named = Path(scratch) / recorded_file(path.name)
                named.symlink_to(path)
                self.client.log_artifact(run.run_id, str(named), place)

    def _step_run_id(self, step: str, at: int | None) -> str:
        if step == PIPELINE:
            return self.pipeline_run_id()
        parent = self.pipeline_run_id()
        tags = {_RUN_TAG: recorded_name(self.name), _STEP_TAG: recorded_name(step), _PARENT_TAG: parent}
        return self._find_or_create(step, tags, at)

    def _find(self, tags: Mapping[str, str]) -> list[str]:
        """Runs with all these tags, in one order for everyone who sees the same runs."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment_id], filter_string=query)
        return [str(run.info.run_id) for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))]

    def _find_or_create(self, name: str, tags: Mapping[str, str], at: int | None = None) -> str:
        found = self._find(tags)
        if found:
            return found[0]
        made = self.client.create_run(
            self.experiment_id, start_time=at, tags=dict(tags), run_name=recorded_text(name, LONGEST)
        )
        return str(made.info.run_id)

    def _settled(self, tags: Mapping[str, str]) -> str:
        """The run that all who ask for it at once agree on."""
        settled = {**tags, _SETTLED_TAG: "true"}
        if known := self._find(settled):
            return known[0]
        began = time.monotonic()
        self._find_or_create(self.name, tags)
        # Whoever looked before this one was stored has stored its own by the end of the wait.
        time.sleep(max(_SETTLE_SECONDS, 3 * (time.monotonic() - began)))
        chosen = (self._find(settled) or self._find(tags))[0]
        self._mark_settled(chosen)
        for other in self._find(tags):
            if other != chosen and not self._find({_PARENT_TAG: other}):
                self.client.delete_run(other)
        return chosen

    def _mark_settled(self, run_id: str) -> None:
        """Marks a run; MLflow's database may refuse one of two that do so at the same moment."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_tag(run_id, _SETTLED_TAG, "true")
        except MlflowException:
            if self.client.get_run(run_id).data.tags.get(_SETTLED_TAG) != "true":
                raise


def _in_requests(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries of one kind for one run, as many together as go in one request."""
    batch: list[Entry] = []
    for entry in entries:
        room = _MAX_METRICS - sum(len(each["values"]) for each in batch) if entry["do"] == "metrics" else 0
        if batch and (room <= 0 or room < len(entry["values"])):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


def _batches(pairs: Sequence[P]) -> Iterator[list[P]]:
    """Parameters or tags, as many together as MLflow takes: in number, and in characters."""
    batch: list[P] = []
    for pair in pairs:
        if len(batch) == _MAX_BATCH or sum(len(each.value) for each in batch) + len(pair.value) > _MAX_CHARACTERS:
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch


def _open_sqlite(uri: str) -> MlflowClient:
    """A client of a store in a file, which is made when it is not there.

    SQLAlchemy maps MLflow's tables once in a process, at the first query, and warns of the way mlflow 3.17 has them.
    That query is made here, by one thread alone, for the filters of warnings are those of all threads.
    """
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _make_sqlite(Path(uri.removeprefix(SQLITE)).absolute())
        uri += f"?timeout={_BUSY_S}"
        client: MlflowClient = quiet_mlflow().MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _make_sqlite(path: Path) -> None:
    """Makes a store that is not there: whole, by one of those who need it; half of one would never be mended."""

    def there() -> bool:
        return path.exists() and path.stat().st_size > 0

    if there():
        return
    with sole_user(path.parent, name=STORE_LOCK, wait_seconds=_MAKING_S):
        if not there():
            with atomic_path(path) as partial:
                quiet_mlflow().MlflowClient(tracking_uri=f"{SQLITE}{partial}")


def quiet_mlflow() -> Any:
    """Imports mlflow with its telemetry, progress bars, banners and migration log turned off."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # of 7, which are four minutes; who asks again, looks first
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow
