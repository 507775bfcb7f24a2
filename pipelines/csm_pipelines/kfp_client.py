"""Kubeflow Pipelines over its API: versions by content, runs, recurring runs.

What the client raises becomes a `CsmError`. The client of kfp prints links, warns of its own version, and waits 25
seconds for a host that is not there; here it is kept quiet, and the host is asked once before anything else.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from csm_model.errors import ArtifactError, InputError, MissingDependencyError
from csm_pipelines.compiling import pipeline_name, version_name
from csm_pipelines.settings import KfpSettings


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a pipeline on a cluster."""

    pipeline_id: str
    version_id: str
    name: str
    reused: bool
    """Whether it was there already."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """When a recurring run starts: one of the two."""

    cron: str = ""
    """Six fields, seconds first: `0 0 3 * * *` is each night at three, UTC."""
    every_s: int = 0
    """Seconds from one start to the next."""


class KfpClient:
    """Kubeflow Pipelines as this project uses it.

    Raises:
        InputError: the API refuses the token, or does not know what was named.
        MissingDependencyError: nobody answers at the host.
        ArtifactError: the API says anything else that is no success.
    """

    def __init__(self, settings: KfpSettings) -> None:
        self._settings = settings

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at a run that is followed."""
        return self._settings.poll_s

    @cached_property
    def _client(self) -> Any:
        import kfp

        self._ask_whether_it_is_there()
        with self._plainly("Kubeflow Pipelines"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it says that it is of version 2
            return kfp.Client(
                host=self._settings.host,
                namespace=self._settings.namespace,
                existing_token=self._settings.bearer(),
                ssl_ca_cert=self._settings.ca or None,
                ui_host=self._settings.ui or None,
            )

    def _ask_whether_it_is_there(self) -> None:
        import kfp_server_api

        config = kfp_server_api.Configuration(host=self._settings.host)
        config.ssl_ca_cert = self._settings.ca or None
        if token := self._settings.bearer():
            config.api_key["authorization"] = token
            config.api_key_prefix["authorization"] = "Bearer"
        with self._plainly("Kubeflow Pipelines"):
            kfp_server_api.HealthzServiceApi(kfp_server_api.ApiClient(config)).healthz_service_get_healthz(
                _request_timeout=10
            )

    def url(self, run_id: str) -> str:
        """The page of a run."""
        return f"{(self._settings.ui or self._settings.host).rstrip('/')}/#/runs/details/{run_id}"

    def upload(self, ir: str) -> Version:
        """The version of a pipeline that says just this, made where there is none."""
        pipeline = pipeline_name(ir)
        name = version_name(pipeline, ir)
        with self._plainly(f"pipeline {pipeline}"), tempfile.TemporaryDirectory(prefix="csm-") as folder:
            path = Path(folder) / "pipeline.yaml"
            path.write_text(ir, encoding="utf-8")
            pipeline_id = self._client.get_pipeline_id(pipeline)
            if pipeline_id is None:
                pipeline_id = self._client.upload_pipeline(
                    str(path), pipeline_name=pipeline, namespace=self._settings.namespace or None
                ).pipeline_id
            found = self._client.list_pipeline_versions(pipeline_id, filter=_equals(name)).pipeline_versions
            if found:
                return Version(pipeline_id=pipeline_id, version_id=found[0].pipeline_version_id, name=name, reused=True)
            made = self._client.upload_pipeline_version(str(path), name, pipeline_id=pipeline_id)
            return Version(pipeline_id=pipeline_id, version_id=made.pipeline_version_id, name=name, reused=False)

    def _experiment_id(self) -> str:
        made = self._client.create_experiment(
            self._settings.experiment or "csm-foundry", namespace=self._settings.namespace or None
        )
        return str(made.experiment_id)

    def start(self, version: Version, name: str, arguments: Mapping[str, Any], service_account: str = "") -> str:
        """Starts a run; its id."""
        with self._plainly(f"run {name}"):
            run = self._client.run_pipeline(
                self._experiment_id(),
                name,
                params=dict(arguments),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                service_account=service_account or None,
            )
            return str(run.run_id)

    def run(self, run_id: str) -> Any:
        """A run as it stands."""
        with self._plainly(f"run {run_id}"):
            return self._client.get_run(run_id)

    def runs(self, most: int) -> list[Any]:
        """The latest runs, the newest first."""
        with self._plainly("runs"):
            listed = self._client.list_runs(
                page_size=most, sort_by="created_at desc", namespace=self._settings.namespace or None
            )
            return list(listed.runs or [])

    def terminate(self, run_id: str) -> None:
        """Ends a run; steps that work get SIGTERM."""
        with self._plainly(f"run {run_id}"):
            self._client.terminate_run(run_id)

    def retry(self, run_id: str) -> None:
        """Starts the failed steps of a run again."""
        with self._plainly(f"run {run_id}"):
            self._client._run_api.run_service_retry_run(run_id=run_id)

    def schedule(
        self,
        version: Version,
        name: str,
        arguments: Mapping[str, Any],
        trigger: Trigger,
        service_account: str = "",
    ) -> str:
        """Makes a recurring run, one at a time and without catching up; its id.

        Raises:
            InputError: there is one of this name.
        """
        with self._plainly(f"schedule {name}"):
            if any(known.display_name == name for known in self.schedules()):
                raise InputError(f"schedule {name}: there is one of this name; delete it first, or name another")
            made = self._client.create_recurring_run(
                self._experiment_id(),
                name,
                cron_expression=trigger.cron or None,
                interval_second=trigger.every_s or None,
                max_concurrency=1,
                no_catchup=True,
                params=dict(arguments),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                service_account=service_account or None,
            )
            return str(made.recurring_run_id)

    def schedules(self) -> list[Any]:
        """All recurring runs."""
        with self._plainly("schedules"):
            found: list[Any] = []
            token = ""
            while True:
                page = self._client.list_recurring_runs(
                    page_size=50, page_token=token, namespace=self._settings.namespace or None
                )
                found += page.recurring_runs or []
                token = page.next_page_token or ""
                if not token:
                    return found

    def schedule_named(self, name: str) -> Any:
        """A recurring run by its name or id; raises `InputError` that lists those there are."""
        known = self.schedules()
        for each in known:
            if name in (each.display_name, each.recurring_run_id):
                return each
        there = ", ".join(each.display_name for each in known) or "none"
        raise InputError(f"schedule {name!r}: there is no such; there are {there}")

    def pause(self, schedule_id: str) -> None:
        """Starts no more runs until it is resumed."""
        with self._plainly(f"schedule {schedule_id}"):
            self._client.disable_recurring_run(schedule_id)

    def resume(self, schedule_id: str) -> None:
        """Starts runs again."""
        with self._plainly(f"schedule {schedule_id}"):
            self._client.enable_recurring_run(schedule_id)

    def delete_schedule(self, schedule_id: str) -> None:
        """Removes a recurring run; runs that it started stay."""
        with self._plainly(f"schedule {schedule_id}"):
            self._client.delete_recurring_run(schedule_id)

    @contextlib.contextmanager
    def _plainly(self, what: str) -> Iterator[None]:
        """Keeps the client quiet, and turns what it raises into errors that name the cure."""
        import kfp_server_api
        from urllib3.exceptions import HTTPError

        host = self._settings.host
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            if error.status in (401, 403):
                raise InputError(
                    f"{host}: refused ({error.status}); give a token with CSM_KFP_TOKEN or CSM_KFP_TOKEN_FILE"
                ) from None
            if error.status == 404:
                raise InputError(f"{what}: {host} knows of none") from None
            raise ArtifactError(f"{what}: {host} says {error.status} ({_reason(error)})") from None
        except HTTPError as error:
            why = str(getattr(error, "reason", None) or error).rpartition(": ")[2].rstrip(")")
            raise MissingDependencyError(
                f"{host}: Kubeflow Pipelines does not answer ({why}); check CSM_KFP_HOST and that it can be reached"
            ) from None


def _equals(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _reason(error: Any) -> str:
    """What the API says of an error: its own words where it gives any."""
    try:
        body = json.loads(error.body or "")
    except ValueError:
        return str(error.reason or "no reason given")
    words = body.get("error_message") or body.get("message") or body.get("error") or error.reason
    return " ".join(str(words).split())[:300]
