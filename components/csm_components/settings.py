"""Every environment variable that the steps read, in one typed place; docs/settings.md is made of it."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from csm_components.targets import DeployTarget, TrainTarget
from csm_model.errors import InputError


class Settings(BaseSettings):
    """What the environment says; `load_settings` reads it and names a bad value in one line."""

    model_config = SettingsConfigDict(env_prefix="CSM_", frozen=True, allow_inf_nan=False)

    workers: int = Field(default=0, ge=0)
    """Worker processes of a step; 0 is one for each core that this process may use."""

    storage: str = ""
    """Where objects go, as `open_storage` reads it; empty keeps them in the run's folder."""

    s3_endpoint: str | None = None
    """`https://host:port`, `http://host:port`, or `host:port` for plain HTTP."""

    s3_credentials: Literal["keys", "identity"] = "keys"
    """`keys`: those below. `identity`: what this process may do as itself, as the tools of AWS find it: by keys in
    `AWS_ACCESS_KEY_ID` or in a profile of `~/.aws/credentials`, by a web identity token, the cluster's agent, or the
    role of its instance."""

    s3_access_key: str | None = None
    """Access key of the S3 service."""

    s3_secret_key: SecretStr | None = None
    """Secret key of the S3 service; never printed."""

    s3_session_token: SecretStr | None = None
    """Token of keys that are lent for a time; never printed."""

    s3_ca: str | None = None
    """File with the certificates that the S3 service is known by; without it, the system's."""

    s3_region: str = "us-east-1"
    """Region of the S3 service; most services of one's own take any."""

    s3_patience_s: float = Field(default=120, ge=0, allow_inf_nan=False)
    """How long a request is made again while the S3 service is busy, restarts or loses connections, seconds; one that
    never answered is waited for 8 s at most."""

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

    kubeconfig: str | None = Field(default=None, validation_alias="KUBECONFIG")
    """File that names the cluster, for a step outside of one."""

    rank: int = Field(default=0, ge=0, validation_alias="RANK")
    """Number of a training process among all."""

    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    """Where runs are recorded; without it, `mlflow.db` (sqlite) beside the folders of the runs, one for all."""

    mlflow_run_id: str | None = Field(default=None, validation_alias="MLFLOW_RUN_ID")
    """The run to write to, given by whoever made it, as Kubeflow Pipelines does."""


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
