"""The record of every run in MLflow: the only module that imports it.

A pipeline run is one MLflow run; each of its steps is a run nested in it. Both are found again by their tags, so a step
that was killed and started again goes on in the same record. Where the record is:

| `MLFLOW_TRACKING_URI` | `MLFLOW_RUN_ID` | the record |
| --- | --- | --- |
| not set | not set | sqlite `mlflow.db` in the run's folder, artefacts in `mlruns/` beside it |
| set | not set | that server |
| set | set (by Kubeflow Pipelines) | that run of that server, which the one that made it will also end |

On a cluster the steps of a run are pods that share nothing but its name. Whichever comes first makes the run of the
whole. MLflow has nothing that only one of two can make, so two that come at once each make one: both then wait until
neither can still be hidden from the other, choose the same one, mark it as settled, and the other is deleted.

Parameters can be written once (an MLflow rule). A retry that brings another value keeps the first as the parameter and
writes the new one as a tag, `retry.NAME`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_components.recorded_names import recorded_name
from csm_components.settings import load_settings
from csm_model.errors import InputError, MissingDependencyError
from csm_model.rules import finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

_MAX_PARAM = 6000
_MAX_BATCH = 100
"""Parameters that MLflow takes in one request."""
_MAX_TAG = 5000
_MAX_DATASET_DIGEST = 36
_PARENT_TAG = "mlflow.parentRunId"
_RUN_TAG = "csm.run"
_STEP_TAG = "csm.step"
_SETTLED_TAG = "csm.settled"
_SETTLE_SECONDS = 1.0
_SQLITE = "sqlite:///"
_PIPELINE = "pipeline"

_log = logging.getLogger(__name__)


class RunLog:
    """Writes to one MLflow run; safe to repeat. Names are brought into MLflow's alphabet."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs parameters, many in one request; nested mappings become `outer.inner`."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        texts = {recorded_name(key): str(value)[:_MAX_PARAM] for key, value in flat(values).items()}
        new = [Param(key, text) for key, text in texts.items() if key not in known]
        for start in range(0, len(new), _MAX_BATCH):
            self._client.log_batch(self.run_id, params=new[start : start + _MAX_BATCH], synchronous=True)
        self.tags({f"retry.{key}": text for key, text in texts.items() if known.get(key, text) != text})

    def metrics(self, values: Mapping[str, float | int | None], *, step: int = 0) -> None:
        """Logs the values that are finite numbers, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = {key: float(value) for key, value in flat(values).items() if finite(value)}
        self._client.log_batch(
            self.run_id,
            metrics=[Metric(recorded_name(key), value, now, step) for key, value in numbers.items()],
            synchronous=True,
        )

    def last_step(self, metric: str) -> int:
        """The latest step at which a metric was logged; -1 where it never was."""
        return max(
            (point.step for point in self._client.get_metric_history(self.run_id, recorded_name(metric))), default=-1
        )

    def tags(self, values: Mapping[str, Any]) -> None:
        """Sets tags; an empty value is left out."""
        for key, value in values.items():
            if value not in (None, ""):
                self._client.set_tag(self.run_id, recorded_name(key), str(value)[:_MAX_TAG])

    def dataset(self, name: str, *, digest: str, source: str, profile: Mapping[str, Any], context: str) -> None:
        """Names the data that the run is made from: as an MLflow dataset, and its full digest as a tag.

        MLflow keeps 36 characters of a digest; the tag `CONTEXT_digest` has all of them.
        """
        import json

        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=name,
            digest=digest[:_MAX_DATASET_DIGEST],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(dict(profile)),
        )
        self._client.log_inputs(
            self.run_id, datasets=[DatasetInput(dataset=entity, tags=[InputTag("mlflow.data.context", context)])]
        )
        self.tags({f"{context}_digest": digest})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keeps a file, or a folder with all it holds, beside the run."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def figure(self, figure: Figure, name: str) -> None:
        """Keeps a picture beside the run."""
        self._client.log_figure(self.run_id, figure, name)


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version of a registered model."""

    name: str
    version: int
    source: str
    tags: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """The record of one pipeline run: of the one whose folder is `folder`, or on a cluster of the one called `run`."""

    folder: Path = Path()
    run: str = ""

    @cached_property
    def name(self) -> str:
        """Name of the pipeline run."""
        return self.run or self.folder.resolve().name

    @cached_property
    def uri(self) -> str:
        """Address of the MLflow store."""
        return load_settings().mlflow_tracking_uri or f"{_SQLITE}{self.folder.absolute() / 'mlflow.db'}"

    @cached_property
    def client(self) -> MlflowClient:
        """The MLflow client, quiet."""
        if self.uri.startswith(_SQLITE):
            self.folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of SQLAlchemy, for the way mlflow 3.17 uses it
            mlflow = _quiet_mlflow()
            client: MlflowClient = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            try:
                client.search_experiments(max_results=1)  # opens the store, and makes its tables when it is new
            except mlflow.exceptions.MlflowException as error:
                raise self._away(error) from None
        return client

    @cached_property
    def experiment_id(self) -> str:
        """The experiment, made when it is not there."""
        from mlflow.exceptions import MlflowException

        name = load_settings().experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            path = self.uri.removeprefix(_SQLITE)  # a server keeps artefacts itself, a file keeps them beside it
            location = (Path(path).absolute().parent / "mlruns").as_uri() if path != self.uri else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                found = self.client.get_experiment_by_name(name)  # another step was faster
                if found is None:
                    raise MissingDependencyError(f"MLflow at {self.uri}: experiment {name}: {error}") from None
        if found.lifecycle_stage == "deleted":
            raise InputError(f"MLflow experiment {name!r} was deleted: restore it, or set another CSM_EXPERIMENT")
        return str(found.experiment_id)

    def pipeline_run_id(self) -> str:
        """The MLflow run of the whole pipeline run, made when it is not there."""
        tags = {_RUN_TAG: self.name, _STEP_TAG: _PIPELINE}
        return self._settled(tags) if self.run else self._find_or_create(self.name, tags)

    @contextmanager
    def pipeline(self) -> Iterator[RunLog]:
        """Writes to the run of the whole pipeline run; it stays open for the steps that follow."""
        yield RunLog(self.client, self.pipeline_run_id())

    def end_pipeline(self, *, failed: bool, tags: Mapping[str, str] | None = None) -> None:
        """Marks the whole run as finished, well or not; nothing happens where no step has recorded anything."""
        found = self._find({_RUN_TAG: self.name, _STEP_TAG: _PIPELINE})
        if found:
            RunLog(self.client, found[0]).tags(tags or {})
            self.client.set_terminated(found[0], "FAILED" if failed else "FINISHED")

    @contextmanager
    def step(self, step: str, *, system_metrics: bool = False) -> Iterator[RunLog]:
        """Writes to the run of a step, nested in the pipeline's; an exception marks it as failed.

        Args:
            step: name of the step.
            system_metrics: also sample processor, memory, disk and network every few seconds.
        """
        injected = load_settings().mlflow_run_id
        run_id = injected or self._step_run_id(step)
        if not injected:
            self.client.update_run(run_id, status="RUNNING")
        monitor = _monitor(run_id, self.uri) if system_metrics else None
        status = "FAILED"
        try:
            yield RunLog(self.client, run_id)
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            with forgiving("how the step ended"):
                if monitor is not None:
                    monitor.finish()
                if not injected:
                    self.client.set_terminated(run_id, status)

    def _step_run_id(self, step: str) -> str:
        parent = self.pipeline_run_id()
        return self._find_or_create(step, {_RUN_TAG: self.name, _STEP_TAG: step, _PARENT_TAG: parent})

    def _find(self, tags: Mapping[str, str]) -> list[str]:
        """Runs with all these tags, in one order for everyone who sees the same runs."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment_id], filter_string=query)
        return [str(run.info.run_id) for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))]

    def _find_or_create(self, name: str, tags: Mapping[str, str]) -> str:
        found = self._find(tags)
        if found:
            return found[0]
        return str(self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name).info.run_id)

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

    def register(
        self, name: str, *, source: str, run_id: str | None, tags: Mapping[str, Any], description: str
    ) -> ModelVersion:
        """A version of the model `name` for the bundle at `source`; the same bundle digest gives the version it has.

        Args:
            name: of the registered model.
            source: folder or address of the bundle.
            run_id: the MLflow run that registers it.
            tags: of the version.
            description: of the version.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        texts = {key: str(value) for key, value in tags.items() if value not in (None, "")}
        for version in self.client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("bundle_digest") == texts.get("bundle_digest"):
                for key, text in texts.items():
                    self.client.set_model_version_tag(name, version.version, key, text)
                return _version(self.client.get_model_version(name, version.version))
        made = self.client.create_model_version(name, source=source, run_id=run_id, tags=texts, description=description)
        return _version(made)

    def tag_version(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Sets tags of a version of the model `name`."""
        for key, text in tags.items():
            self.client.set_model_version_tag(name, str(version), key, text)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Moves an alias to a version."""
        self.client.set_registered_model_alias(name, alias, str(version))

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that an alias names; None where there is no such model, or no such alias of it.

        Raises:
            MissingDependencyError: MLflow did not answer, or not as it should.
        """
        from mlflow.exceptions import MlflowException

        try:
            # The model is asked for its aliases: for one that is not there MLflow says INVALID_PARAMETER_VALUE,
            # as it does of a wrong request.
            version = self.client.get_registered_model(name).aliases.get(alias)
            return None if version is None else _version(self.client.get_model_version(name, str(version)))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise self._away(error) from None

    def _away(self, error: Exception) -> MissingDependencyError:
        """What MLflow's own error means for whoever called."""
        return MissingDependencyError(f"MLflow at {self.uri}: {first_line(error)}; check MLFLOW_TRACKING_URI")


def tracker_of(work: str, run: str = "") -> Tracker | None:
    """Where a step records: with the run's folder, or at the server of a cluster; None where there is neither.

    Args:
        work: the run's folder; may be empty.
        run: name of the pipeline run on a cluster.
    """
    settings = load_settings()
    if work:
        return Tracker(folder=Path(work))
    if settings.mlflow_tracking_uri and (run or settings.mlflow_run_id):
        return Tracker(run=run)
    return None


@contextmanager
def forgiving(what: str) -> Iterator[None]:
    """Whatever MLflow raises in the block costs a warning: the work is done, and must not be lost with its record."""
    try:
        yield
    except Exception as error:  # mlflow raises whatever its transport does
        _log.warning("MLflow: %s is not recorded (%s)", what, first_line(error))


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def machine_metrics() -> Iterator[None]:
    """Records the use of this machine in the run that the environment names; does nothing where it names none.

    Whoever has the run writes all else to it. An MLflow that cannot be reached costs a line on standard error.
    """
    settings = load_settings()
    monitor = None
    if settings.mlflow_run_id and settings.mlflow_tracking_uri:
        try:
            _quiet_mlflow()
            monitor = _monitor(settings.mlflow_run_id, settings.mlflow_tracking_uri)
        except Exception as error:  # mlflow raises whatever its transport does
            sys.stderr.write(f"warning: the use of this machine is not recorded ({error})\n")
    try:
        yield
    finally:
        if monitor is not None:
            monitor.finish()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _quiet_mlflow() -> Any:
    """Imports mlflow with its telemetry, progress bars, banners and migration log turned off."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # of 7, which are four minutes of silence
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    }.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def _monitor(run_id: str, uri: str) -> Any:
    from mlflow.system_metrics import system_metrics_monitor

    make: Any = system_metrics_monitor.SystemMetricsMonitor
    monitor = make(run_id, sampling_interval=5, resume_logging=True, tracking_uri=uri)
    monitor.start()
    return monitor


def _version(entity: Any) -> ModelVersion:
    return ModelVersion(
        name=entity.name, version=int(entity.version), source=str(entity.source), tags=dict(entity.tags or {})
    )
