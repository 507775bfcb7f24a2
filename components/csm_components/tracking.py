"""The record of every run in MLflow.

A pipeline run is one MLflow run; each of its steps is a run nested in it (`csm_components.mlflow_store`). Where they
are:

| `MLFLOW_TRACKING_URI` | `MLFLOW_RUN_ID` | the record |
| --- | --- | --- |
| not set | not set | sqlite `mlflow.db` beside the run's folder, one for all runs there; files in `mlruns/` |
| set | not set | that server |
| set | set (by Kubeflow Pipelines) | that run of that server, which the one that made it will also end |

Whatever a run has to say is put into an outbox (`csm_components.outbox`), `unrecorded.jsonl` in the run's folder, and
goes to MLflow from there: beside the work, in order, and again where MLflow did not take it. So MLflow may be away,
slow or restarted at any time. No step fails by it or waits longer for it than `PATIENCE_S`; what is left is sent by
the next step, or by the next call of the same command. What is sent twice is recorded once: points carry the time at
which they were put, and all else is set, not added.

The registry of models is no record but what the step register is for: it is waited for, and a step that cannot have it
fails.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from csm_components.mlflow_store import PIPELINE, REFUSALS, SQLITE, MlflowStore, quiet_mlflow
from csm_components.outbox import Courier, Entry, Outbox, first_line
from csm_components.settings import load_settings
from csm_model.errors import CsmError, MissingDependencyError
from csm_model.files import digest_of
from csm_model.rules import finite

if TYPE_CHECKING:
    from mlflow import MlflowClient

R = TypeVar("R")

UNRECORDED = "unrecorded.jsonl"
"""In a run's folder: what MLflow does not have yet."""
REFUSED = "refused.jsonl"
"""Beside it: what MLflow will not take."""
PATIENCE_S = 10.0
"""What a step waits for MLflow at its end: for a server, where what is left is sent later."""
_LAST_PATIENCE_S = 30.0
"""The same in a pod, whose outbox goes with it."""
_FILE_PATIENCE_S = 120.0
"""The same for a file of this machine, which is only busy when it does not answer."""
REGISTRY_PATIENCE_S = 30.0
"""How long the registry of models is asked again while it does not answer."""
_ASK_REGISTRY_EVERY_S = 2.0
_SAMPLE_EVERY_S = 5
_MAX_REASON = 200
"""Characters of what MLflow's client says of a failure that a line repeats."""

_log = logging.getLogger(__name__)


class RunLog:
    """Has what is said of one MLflow run recorded; safe to repeat. It neither waits nor fails.

    Names are brought into MLflow's alphabet, and long values cut, when they are sent.
    """

    def __init__(
        self, tracker: Tracker, step: str, run_id: str = "", *, put: Callable[..., None] | None = None
    ) -> None:
        self._tracker, self._put_entries = tracker, put or tracker.put
        self._target = {"step": step, "run_id": run_id}

    @property
    def run_id(self) -> str:
        """The MLflow run, once all that was said is sent; empty where MLflow does not take it now."""
        return self._tracker.run_id_of(self._target) if self._tracker.flush() else ""

    def begin(self) -> None:
        """The run is at work."""
        self._put("begin")

    def end(self, status: str, tags: Mapping[str, Any] | None = None, *, existing: bool = False) -> None:
        """The run has ended; where it is `existing`, nothing is recorded of a run that MLflow does not have."""
        self._put("end", status=status, values=_texts(tags or {}), existing=existing)

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs parameters; nested mappings become `outer.inner`."""
        self._put("params", values={key: str(value) for key, value in flat(values).items()})

    def metrics(self, values: Mapping[str, float | int | None], *, step: int = 0) -> None:
        """Logs the values that are finite numbers."""
        self._put("metrics", values=_finite(values), metric_step=step)

    def rows(self, rows: Sequence[tuple[int, float, Mapping[str, float | int | None]]]) -> None:
        """Logs figures over steps: step, time since 1970 (s), values. Of each, only steps after the last that MLflow
        has are recorded.
        """
        self._put_entries(
            *(
                self._entry("metrics", at=round(at * 1000), values=_finite(values), metric_step=step, newer=True)
                for step, at, values in rows
            )
        )

    def sample(self, values: Mapping[str, float]) -> None:
        """Logs figures over the time since the run began."""
        self._put("metrics", values=_finite(values), every_ms=_SAMPLE_EVERY_S * 1000)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Sets tags; an empty value is left out."""
        self._put("tags", values=_texts(values))

    def dataset(self, name: str, *, digest: str, source: str, profile: Mapping[str, Any], context: str) -> None:
        """Names the data that the run, and the whole that it is part of, are made from: as an MLflow dataset, and its
        full digest as a tag.

        MLflow keeps 36 characters of a digest; the tag `CONTEXT_digest` has all of them.
        """
        whole = self._target["step"] == PIPELINE or self._target["run_id"]
        for log in (self,) if whole else (self, RunLog(self._tracker, PIPELINE)):
            log._put("dataset", name=name, digest=digest, source=source, profile=dict(profile), context=context)
            log.tags({f"{context}_digest": digest})

    def describe(self, text: str) -> None:
        """Says in Markdown what the run is; MLflow shows it first."""
        self.tags({"mlflow.note.content": text})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keeps a file, or a folder with all it holds, beside the run, as it is when it is sent."""
        here, path = (self._tracker.folder or Path()).absolute(), path.absolute()
        self._put("artifact", path=str(path.relative_to(here) if path.is_relative_to(here) else path), folder=folder)

    def _put(self, do: str, **more: Any) -> None:
        self._put_entries(self._entry(do, at=round(time.time() * 1000), **more))

    def _entry(self, do: str, *, at: int, **more: Any) -> Entry:
        return {"do": do, "at": at, **self._target, **more}


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version of a registered model."""

    name: str
    version: int
    source: str
    tags: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class HeardVersion:
    """A version of a registered model that has heard what is to be forgotten."""

    model: str
    version: int
    aliases: list[str]


def _warn(line: str) -> None:
    _log.warning("%s", line)


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """The record of one pipeline run: of the one whose folder is `folder`, or on a cluster of the one called `run`."""

    folder: Path | None = None
    run: str = ""
    say: Callable[[str], None] = _warn
    """Called once, with a line, when something is not recorded now."""

    @cached_property
    def name(self) -> str:
        """Name of the pipeline run."""
        return self.run or self._here.resolve().name

    @property
    def _here(self) -> Path:
        return (self.folder or Path()).absolute()

    @property
    def _home(self) -> Path:
        """Where all runs of this machine are recorded that are beside this one."""
        return self._here if self.folder is None else self._here.parent

    @cached_property
    def uri(self) -> str:
        """Address of the MLflow store."""
        return load_settings().mlflow_tracking_uri or f"{SQLITE}{self._home / 'mlflow.db'}"

    @cached_property
    def outbox(self) -> Outbox:
        """What waits for MLflow: in the run's folder, or in a folder of this machine for a run that has none."""
        if self.folder is not None:
            return Outbox(self._here / UNRECORDED)
        mark = digest_of([self.uri, self.run, load_settings().mlflow_run_id, os.getuid()])[:16]
        return Outbox(Path(tempfile.gettempdir()) / f"csm-run-{mark}" / UNRECORDED)

    @cached_property
    def _store(self) -> MlflowStore:
        return MlflowStore(
            uri=self.uri,
            name=self.name,
            shared=bool(self.run),
            folder=self._here,
            refused=Outbox(self.outbox.path.with_name(REFUSED)),
            say=self.say,
        )

    @cached_property
    def _courier(self) -> Courier:
        quiet_mlflow()  # here: what the work imports meanwhile must not meet half of it
        if self.uri.startswith(SQLITE):
            with suppress(MissingDependencyError):  # the courier meets it again, and says so
                _ = self.client
        return Courier(self.outbox, self._store.deliver, warn=self._unrecorded, stubborn=self.folder is None)

    def put(self, *entries: Entry) -> None:
        """Has entries recorded, soon or later."""
        if entries:
            self._courier.put(*entries)

    def flush(self) -> bool:
        """Waits, for a while at most, until all that waits is recorded; whether it is."""
        if "_courier" not in self.__dict__ and not self.outbox.path.exists():
            return True
        if self.uri.startswith(SQLITE):
            return self._courier.flush(_FILE_PATIENCE_S)
        return self._courier.flush(_LAST_PATIENCE_S if self.folder is None else PATIENCE_S)

    def _unrecorded(self, reason: str) -> None:
        later = "it is sent until this step ends" if self.folder is None else f"{self.outbox.path} is sent later"
        self.say(
            f"warning: MLflow at {self.uri} takes no record now ({reason[:_MAX_REASON]}); the work goes on, and {later}"
        )

    @cached_property
    def client(self) -> MlflowClient:
        """The MLflow client; raises `MissingDependencyError` where MLflow does not answer."""
        try:
            client = self._store.client
            client.search_experiments(max_results=1)  # whether it answers
        except Exception as error:  # mlflow raises whatever its transport does
            raise self._away(error) from None
        return client

    @property
    def experiment_id(self) -> str:
        """The experiment, made when it is not there; raises `InputError` where it was deleted."""
        return self._store.experiment_id

    def pipeline_run_id(self) -> str:
        """The MLflow run of the whole pipeline run, made when it is not there."""
        return self._store.pipeline_run_id()

    def announcement(self) -> RunLog:
        """Writes to the run of the whole pipeline run; it goes to MLflow with what is recorded next."""
        return RunLog(self, PIPELINE, put=self.outbox.put)

    @contextmanager
    def pipeline(self) -> Iterator[RunLog]:
        """Writes to the run of the whole pipeline run; it stays open for the steps that follow."""
        yield RunLog(self, PIPELINE)
        self.flush()

    def end_pipeline(self, *, failed: bool, tags: Mapping[str, str] | None = None) -> bool:
        """Marks the whole run as finished, well or not; nothing happens where no step has recorded anything.

        Returns:
            Whether MLflow has been told.
        """
        RunLog(self, PIPELINE).end("FAILED" if failed else "FINISHED", tags, existing=True)
        return self.flush()

    @contextmanager
    def step(self, step: str, *, system_metrics: bool = False) -> Iterator[RunLog]:
        """Writes to the run of a step, nested in the pipeline's; an exception marks it as failed.

        Args:
            step: name of the step.
            system_metrics: also sample processor, memory, disk and network every few seconds.
        """
        injected = load_settings().mlflow_run_id or ""
        log = RunLog(self, step, injected)
        if not injected:
            log.begin()
        status = "FAILED"
        try:
            with _sampled(log) if system_metrics else nullcontext():
                yield log
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            if not injected:
                log.end(status)
            self.flush()

    def run_id_of(self, target: Entry) -> str:
        """The MLflow run that entries of a target go to; empty where MLflow does not say."""
        try:
            return self._store.run_of(target).run_id
        except Exception as error:  # mlflow raises whatever its transport does
            self._unrecorded(first_line(error))
            return ""

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
        return self._registry(lambda: self._register(name, source, run_id, _texts(tags), description))

    def _register(
        self, name: str, source: str, run_id: str | None, texts: Mapping[str, str], description: str
    ) -> ModelVersion:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in self.client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("bundle_digest") == texts.get("bundle_digest"):
                for key, text in texts.items():
                    self.client.set_model_version_tag(name, version.version, key, text)
                return _version(self.client.get_model_version(name, version.version))
        made = self.client.create_model_version(
            name, source=source, run_id=run_id, tags=dict(texts), description=description
        )
        return _version(made)

    def tag_version(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Sets tags of a version of the model `name`."""
        for key, text in tags.items():
            self._registry(functools.partial(self.client.set_model_version_tag, name, str(version), key, text))

    def heard(
        self, datasets: Collection[str], tokens: Collection[str], bundles: Collection[str], mark: str
    ) -> list[HeardVersion]:
        """Versions of any model that were made of these, or of a model that was; or that carry the mark already.

        Args:
            datasets: digests of conversations.
            tokens: digests of token shards, which may have been replayed.
            bundles: digests of bundles that were trained on them.
            mark: tag of versions that were found before.
        """
        every = self._registry(lambda: list(self.client.search_model_versions()))
        taught, found = set(bundles), dict[tuple[str, int], HeardVersion]()
        while True:
            before = len(found)
            for version in every:
                tags = version.tags
                own = {tags.get("dataset_digest")} & set(datasets) or {tags.get("replay_digest")} & set(tokens)
                parents = {tags.get(name) for name in ("bundle_digest", "parent_digest", "base_digest")}
                if own or parents & taught or mark in tags:
                    taught |= {tags[name] for name in ("bundle_digest", "parent_digest") if tags.get(name)}
                    key = (version.name, int(version.version))
                    found[key] = HeardVersion(model=key[0], version=key[1], aliases=sorted(version.aliases or ()))
            if len(found) == before:
                return [found[key] for key in sorted(found)]

    def mark_heard(self, versions: Iterable[HeardVersion], mark: str, day: str) -> None:
        """Marks versions that have heard what was forgotten on a day; the mark names nobody."""
        for row in versions:
            self.tag_version(row.model, row.version, {mark: day})

    def remove_artifacts(self, datasets: Collection[str], holds: Callable[[Path], bool]) -> list[str]:
        """Removes files that runs of these data keep in MLflow and that hold something; the names of those.

        Args:
            datasets: digests of conversations.
            holds: whether a file does.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        gone = []
        for dataset in sorted(datasets):
            search = functools.partial(
                self.client.search_runs, [self.experiment_id], f"tags.dataset_digest = '{dataset}'"
            )
            for run in self._registry(search):
                for path in list(self._artifacts(run.info.run_id)):
                    with tempfile.TemporaryDirectory(prefix="csm-artifact-") as scratch:
                        held = holds(Path(self.client.download_artifacts(run.info.run_id, path, scratch)))
                    if held:
                        get_artifact_repository(run.info.artifact_uri).delete_artifacts(path)
                        gone.append(f"{run.info.run_id}/{path}")
        return gone

    def _artifacts(self, run_id: str, folder: str | None = None) -> Iterator[str]:
        """Files that a run keeps."""
        for each in self.client.list_artifacts(run_id, folder):
            if each.is_dir:
                yield from self._artifacts(run_id, each.path)
            else:
                yield each.path

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Moves an alias to a version."""
        self._registry(lambda: self.client.set_registered_model_alias(name, alias, str(version)))

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that an alias names; None where there is no such model, or no such alias of it.

        Raises:
            MissingDependencyError: MLflow did not answer, or not as it should.
        """
        return self._registry(lambda: self._by_alias(name, alias))

    def _by_alias(self, name: str, alias: str) -> ModelVersion | None:
        from mlflow.exceptions import MlflowException

        try:
            # The model is asked for its aliases: for one that is not there MLflow says INVALID_PARAMETER_VALUE,
            # as it does of a wrong request.
            version = self.client.get_registered_model(name).aliases.get(alias)
            return None if version is None else _version(self.client.get_model_version(name, str(version)))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _registry(self, ask: Callable[[], R]) -> R:
        """Asks the registry, again for a while where it does not answer: without it there is no version.

        Raises:
            MissingDependencyError: it did not answer, or refused.
        """
        deadline = time.monotonic() + REGISTRY_PATIENCE_S
        while True:
            try:
                return ask()
            except Exception as error:  # mlflow raises whatever its transport does
                if getattr(error, "error_code", "") in REFUSALS or time.monotonic() >= deadline:
                    raise (error if isinstance(error, CsmError) else self._away(error)) from None
            time.sleep(_ASK_REGISTRY_EVERY_S)

    def _away(self, error: Exception) -> MissingDependencyError:
        """What MLflow's own error means for whoever called."""
        return MissingDependencyError(f"MLflow at {self.uri}: {first_line(error)}; check MLFLOW_TRACKING_URI")


def tracker_of(work: str, run: str = "", say: Callable[[str], None] = _warn) -> Tracker | None:
    """Where a step records: with the run's folder, or at the server of a cluster; None where there is neither.

    Args:
        work: the run's folder; may be empty.
        run: name of the pipeline run on a cluster.
        say: called once, with a line, when something is not recorded now.
    """
    settings = load_settings()
    if work:
        return Tracker(folder=Path(work), say=say)
    if settings.mlflow_tracking_uri and (run or settings.mlflow_run_id):
        return Tracker(run=run, say=say)
    return None


@contextmanager
def machine_metrics() -> Iterator[None]:
    """Records the use of this machine in the run that the environment names; does nothing where it names none.

    Whoever has the run writes all else to it.
    """
    tracker = tracker_of("") if load_settings().mlflow_run_id else None
    with tracker.step("machine", system_metrics=True) if tracker else nullcontext():
        yield


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in flat(values).items() if finite(value)}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts; those that are empty are left out."""
    return {key: str(value) for key, value in values.items() if value not in (None, "")}


@contextmanager
def _sampled(log: RunLog) -> Iterator[None]:
    """Records the use of this machine every few seconds, and once more at the end."""
    monitors, ended = _monitors(), threading.Event()

    def publish() -> None:
        values: dict[str, float] = {}
        for monitor in monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        log.sample(values)

    def work() -> None:
        try:
            over = False
            while not over:
                over = ended.wait(_SAMPLE_EVERY_S)
                publish()
        except Exception:  # of a counter that this machine does not have
            _log.debug("the use of this machine is not recorded", exc_info=True)

    thread = threading.Thread(target=work, name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_SAMPLE_EVERY_S)


def _monitors() -> list[Any]:
    """What measures this machine; what it does not have is left out."""
    quiet_mlflow()
    from mlflow.system_metrics.metrics import cpu_monitor, disk_monitor, gpu_monitor, network_monitor

    kinds: Any = (
        cpu_monitor.CPUMonitor, disk_monitor.DiskMonitor, network_monitor.NetworkMonitor, gpu_monitor.GPUMonitor
    )  # fmt: skip
    found = []
    for kind in kinds:
        try:
            found.append(kind())
        except Exception:  # no driver of a GPU, or no library for it
            _log.debug("%s is not recorded", kind.__name__, exc_info=True)
    return found


def _version(entity: Any) -> ModelVersion:
    return ModelVersion(
        name=entity.name, version=int(entity.version), source=str(entity.source), tags=dict(entity.tags or {})
    )
