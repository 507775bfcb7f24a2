"""Every environment variable that the steps read, in one typed place.

| variable | meaning | default |
| --- | --- | --- |
| `CSM_WORKERS` | worker processes of a step; 0 is one a core | 0 |
| `CSM_STORAGE` | where objects go: a folder or `s3://bucket/prefix`; empty keeps them in the run's folder | empty |
| `CSM_S3_ENDPOINT` | address of the S3 service: `https://host:port`, or `host:port` for plain HTTP | none |
| `CSM_S3_ACCESS_KEY`, `CSM_S3_SECRET_KEY` | its keys | none |
| `CSM_S3_REGION` | its region | `us-east-1` |
| `CSM_METRICS_PORT` | port for the training's Prometheus metrics; 0 serves none | 0 |
| `CSM_PUSHGATEWAY` | Prometheus pushgateway that a step's figures are pushed to; empty pushes nowhere | empty |
| `CSM_CACHE_KEY` | digest of all that a step is made from; its result is then noted in the storage's ledger | empty |
| `CSM_PIPELINE`, `CSM_MODEL` | pipeline and registered model: labels of the figures that are pushed | empty |
| `CSM_EXPERIMENT` | MLflow experiment that runs belong to | `csm-foundry` |
| `CSM_TRAIN_TARGET` | where training processes run, as JSON (`csm_components.targets.TrainTarget`) | this machine |
| `CSM_DEPLOY_TARGET` | what a release is rolled out by, as JSON (`csm_components.targets.DeployTarget`) | nothing |
| `CSM_PARENT_PID` | process that a step must not outlive; `csm run` sets it | 0: none |
| `KUBECONFIG` | file that names the cluster, for a step outside of one | `~/.kube/config` |
| `RANK` | number of a training process among all; torchrun sets it | 0 |
| `MLFLOW_TRACKING_URI` | where runs are recorded; empty is sqlite in the run's folder | empty |
| `MLFLOW_RUN_ID` | the run to write to; Kubeflow Pipelines sets it | none |
"""

from __future__ import annotations

import os

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from csm_components.targets import DeployTarget, TrainTarget
from csm_model.errors import InputError


class Settings(BaseSettings):
    """What the environment says; `load_settings` reads it and names a bad value in one line."""

    model_config = SettingsConfigDict(env_prefix="CSM_", frozen=True)

    workers: int = Field(default=0, ge=0)
    """Worker processes of a step; 0 is one for each core that this process may use."""

    storage: str = ""
    """Where objects go, as `open_storage` reads it; empty keeps them in the run's folder."""

    s3_endpoint: str | None = None
    """`https://host:port`, `http://host:port`, or `host:port` for plain HTTP."""

    s3_access_key: str | None = None
    """Access key of the S3 service."""

    s3_secret_key: SecretStr | None = None
    """Secret key of the S3 service; never printed."""

    s3_region: str = "us-east-1"
    """Region of the S3 service; most services of one's own take any."""

    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port for the training's Prometheus metrics; 0 serves none."""

    pushgateway: str = ""
    """Address of a Prometheus pushgateway that a step's figures are pushed to; empty pushes nowhere."""

    cache_key: str = ""
    """Digest of all that a step is made from; its result is then noted in the storage's ledger."""

    pipeline: str = ""
    """Name of the pipeline, a label of figures that are pushed."""

    model: str = ""
    """Name of the registered model, another."""

    experiment: str = "csm-foundry"
    """MLflow experiment that runs belong to."""

    train_target: TrainTarget = TrainTarget()
    """Where training processes run."""

    deploy_target: DeployTarget = DeployTarget()
    """What a release is rolled out by."""

    parent_pid: int = Field(default=0, ge=0)
    """Process that a step must not outlive; 0 is none."""

    kubeconfig: str | None = Field(default=None, validation_alias="KUBECONFIG")
    """File that names the cluster, for a step outside of one."""

    rank: int = Field(default=0, ge=0, validation_alias="RANK")
    """Number of a training process among all."""

    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    """Where runs are recorded; without it, sqlite in the run's folder."""

    mlflow_run_id: str | None = Field(default=None, validation_alias="MLFLOW_RUN_ID")
    """The run to write to, given by whoever made it."""


def load_settings() -> Settings:
    """Reads the environment; raises `InputError` that names the variable and the rule it breaks."""
    try:
        return Settings()
    except ValidationError as error:
        problems = ", ".join(
            f"CSM_{str(problem['loc'][0]).upper()}={problem['input']!r}: {problem['msg']}" for problem in error.errors()
        )
        raise InputError(f"{problems}; correct the environment variable or unset it") from None


def worker_count(asked: int | None = None) -> int:
    """Worker processes to start: `asked`, else `CSM_WORKERS`, else one for each core that this process may use."""
    count = load_settings().workers if asked is None else asked
    if count < 0:
        raise InputError(f"{count} workers: must be 0 (one a core) or more")
    return count or len(os.sched_getaffinity(0))
