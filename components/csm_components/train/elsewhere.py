"""Trains on a cluster: things go to the storage, a job is begun or found again, and what it learnt is fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from csm_components.settings import load_settings
from csm_components.storage import open_storage
from csm_components.targets import TrainTarget
from csm_components.train.app import LaunchSpec
from csm_components.train.guard import ERRORS_VARIABLE
from csm_components.train.job import ClusterJob
from csm_components.train.pod import check_target
from csm_components.train.progress import METRICS
from csm_components.train.remote import Remote
from csm_model.errors import MissingDependencyError

_LOOK_EVERY_SECONDS = 3.0


class Elsewhere:
    """One training on a cluster.

    Args:
        target: where.
        job: the job's name.
        out: the step's folder.

    Raises:
        InputError: what no job could be made of.
    """

    def __init__(self, target: TrainTarget, job: str, out: Path) -> None:
        settings = load_settings()
        check_target(target, settings)
        self.target, self.out = target, out
        self.remote = Remote(storage=open_storage(), url=settings.storage, job=job)
        self.trained = ""
        """Address of what was learnt, once it is there."""
        self._digest: str | None = None
        self._newest = ""
        self._saved = self._looked = 0.0

    def run(
        self,
        spec: LaunchSpec,
        *,
        recipe: Mapping[str, Any],
        tokens: Path | str,
        base: Path | str | None,
        replay: Path | str | None,
        run_id: str,
        say: Callable[[str], None],
        on_tick: Callable[[], None],
    ) -> None:
        """Trains, and puts the metrics into `out`; the bundle stays where the job has put it, at `trained`.

        Args:
            spec: module, agents and workers.
            recipe: the trainer's settings.
            tokens: where they are.
            base: bundle to begin from, or its address.
            replay: where the tokens are that are replayed.
            run_id: MLflow run of the step; empty for none.
            say: called with lines of rank 0 and of progress.
            on_tick: called when metrics may have come.

        Raises:
            CsmError: of the trainer, with its own type; `LaunchError` for anything else.
        """
        if self._take():
            say(f"{self.remote.job} has trained already")
            return
        self.remote.put_inputs(recipe, tokens=tokens, base=base, replay=replay)

        def tick() -> None:
            self._look()
            on_tick()

        spec = replace(spec, name=self.remote.job, args=("--job", self.remote.job), env=self._environment(run_id))
        job = ClusterJob(
            spec=spec,
            target=self.target,
            has_result=lambda: self.remote.result() is not None,
            errors=self.remote.errors,
            say=say,
        )
        job.run(on_line=say, on_tick=tick)
        self._take()

    def _take(self) -> bool:
        """Notes where the job has put what it learnt, and fetches its metrics; False where there is nothing yet."""
        digest = self.remote.result()
        if digest is None:
            return False
        self.trained = self.remote.address(self.remote.trained(digest))
        self.remote.fetch_metrics(self.out / METRICS)
        return True

    def saved(self) -> float:
        """When the newest checkpoint came into the storage, as seen from here; 0 before the first."""
        return self._saved

    def _environment(self, run_id: str) -> dict[str, str]:
        """What agents are told; keys come from secrets."""
        settings = load_settings()
        told = {
            "CSM_STORAGE": settings.storage,
            "CSM_S3_ENDPOINT": settings.s3_endpoint,
            "CSM_S3_REGION": settings.s3_region,
            "CSM_S3_CREDENTIALS": settings.s3_credentials if settings.s3_credentials != "keys" else None,
            "CSM_S3_CA": settings.s3_ca,
            "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri if run_id else None,
            "MLFLOW_RUN_ID": run_id,
            ERRORS_VARIABLE: self.remote.errors,
        }
        return {name: value for name, value in told.items() if value}

    def _look(self) -> None:
        """Fetches the metrics so far, every few seconds, where there are new ones."""
        if time.monotonic() - self._looked < _LOOK_EVERY_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            digest = self.remote.storage.digest(self.remote.metrics)
            if digest is None or digest == self._digest:
                return
            self.remote.fetch_metrics(self.out / METRICS)
            self._digest = digest
            newest = max(self.remote.checkpoints(), default="")
        except MissingDependencyError:  # the storage is away; the training goes on, and so does the look
            return
        if newest != self._newest:
            self._newest, self._saved = newest, time.time()
