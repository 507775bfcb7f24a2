"""A cluster, as a pipeline needs to know it: images, addresses, secrets, and what each step may use.

A profile is a YAML file; those in `deploy/profiles/` are named by their name alone. It is applied when a pipeline is
compiled (`csm_pipelines.dressing`), so that no pipeline names a cluster. Every key is checked, and an unknown one is
refused with its path. Secrets are named here and never held: their values stay in the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from csm_components.spec import Image as Role
from csm_components.spec import StepSpec
from csm_components.targets import DeployTarget, TrainTarget
from csm_model.errors import InputError
from csm_pipelines.pipelines import CLUSTER_STEPS
from csm_pipelines.places import Image, Name, Place
from csm_pipelines.presets import ROOT

PROFILES = ROOT / "deploy" / "profiles"
_DIGEST = "@sha256:"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Images(_Part):
    """The images of steps."""

    data: Image
    """Image of every step but train, by digest: `name@sha256:...`."""
    train: Image
    """Image of the step train and of the agents that it starts, by digest."""
    allow_tags: bool = False
    """Whether a tag will do; for images that were only loaded into a cluster on this machine."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When a node fetches an image."""
    pull_secrets: list[Name] = []
    """Secrets for the images' registry."""

    @model_validator(mode="after")
    def _by_digest(self) -> Self:
        for role in get_args(Role):
            image = getattr(self, role)
            if not self.allow_tags and _DIGEST not in image:
                raise ValueError(
                    f"{role} {image!r} is not named by its digest: give name@sha256:..., here or as "
                    f"--image {role}=name@sha256:...; for images of a cluster on this machine set allow_tags: true"
                )
        return self


class Storage(_Part):
    """Where objects go."""

    url: str = Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[^\s]+)?$")
    """`s3://bucket/prefix`."""
    endpoint: str = Field(pattern=r"^https?://[^\s/]+$")
    """Address of the S3 service as pods see it."""
    region: str = "us-east-1"
    """Its region."""
    secret: Name = "csm-storage"  # noqa: S105  (a Secret's name)
    """Secret with the keys of the service."""
    keys: dict[str, str] = {"CSM_S3_ACCESS_KEY": "CSM_S3_ACCESS_KEY", "CSM_S3_SECRET_KEY": "CSM_S3_SECRET_KEY"}
    """Environment variables, and the key of the Secret that each is read from."""


class Tracking(_Part):
    """The MLflow server."""

    url: str = Field(pattern=r"^https?://[^\s]+$")
    """Its address as pods see it."""
    experiment: str = Field(default="csm-foundry", min_length=1)
    """Experiment that runs belong to."""
    secret: Name | Literal[""] = "csm-tracking"  # noqa: S105  (a Secret's name)
    """Secret with user and password; empty for a server that asks for none."""
    keys: dict[str, str] = {
        "MLFLOW_TRACKING_USERNAME": "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD": "MLFLOW_TRACKING_PASSWORD",
    }
    """Environment variables, and the key of the Secret that each is read from."""


class Kfp(_Part):
    """The Kubeflow Pipelines that runs are submitted to; `CSM_KFP_*` go before what stands here."""

    host: str = Field(default="", pattern=r"^(https?://[^\s]+)?$")
    """Address of its API."""
    ui: str = Field(default="", pattern=r"^(https?://[^\s]+)?$")
    """Address of its pages, for links; empty is `host`."""
    namespace: Name | Literal[""] = ""
    """Namespace of runs in an installation of many users; empty for one of a single user."""
    experiment: str = Field(default="csm-foundry", min_length=1)
    """Experiment that runs belong to."""
    token_file: str = ""
    """File with the bearer token of whoever submits; the token itself is never in a profile."""
    ca: str = ""
    """File with the certificate authority of `host`."""


class RunLimits(_Part):
    """What holds for a whole run."""

    service_account: Name | Literal[""] = ""
    """ServiceAccount of its pods; empty takes that of the installation."""
    parallelism: int = Field(default=8, ge=1)
    """Shards that are worked on at once."""
    shards: int = Field(default=16, ge=1, le=10_000)
    """Shards that ingest and tokenise are cut into."""
    timeout_s: int = Field(default=14 * 86_400, ge=60)
    """Longest time of a run, seconds."""
    keep_s: int = Field(default=7 * 86_400, ge=0)
    """Seconds that an ended run keeps its pods and their logs."""


class ClusterProfile(_Part):
    """A cluster, as a pipeline needs to know it."""

    name: Name
    """Name of the profile; a label of every pod."""
    namespace: Name
    """Namespace that pods run in."""
    images: Images
    storage: Storage
    tracking: Tracking
    kfp: Kfp = Kfp()
    run: RunLimits = RunLimits()
    pushgateway: str = Field(default="", pattern=r"^(https?://[^\s]+)?$")
    """Prometheus pushgateway for the figures of steps; empty pushes nowhere."""
    user: int = Field(default=10_001, ge=1)
    """User and group that steps run as."""
    labels: dict[str, str] = {}
    """More labels of every pod."""
    steps: dict[str, Place] = {}
    """What a step may use, by its name; `default` holds for what a step does not say."""
    train: TrainTarget = TrainTarget()
    """Where training processes run."""
    deploy: DeployTarget = DeployTarget()
    """What a release is rolled out by."""

    @field_validator("steps", mode="before")
    @classmethod
    def _with_default(cls, value: Any) -> Any:
        """A step's fields over those of `default`."""
        if not isinstance(value, Mapping):
            return value
        unknown = sorted(set(value) - {"default", *CLUSTER_STEPS})
        if unknown:
            raise ValueError(f"there is no step {unknown[0]!r}; there are default, {', '.join(CLUSTER_STEPS)}")
        default = value.get("default") or {}
        if not isinstance(default, Mapping):
            return value
        return {
            step: {**default, **(fields or {})} if isinstance(fields or {}, Mapping) else fields
            for step, fields in value.items()
        }

    @model_validator(mode="after")
    def _agents(self) -> Self:
        image = self.train.image
        if image and not self.images.allow_tags and _DIGEST not in image:
            raise ValueError(f"train.image {image!r} is not named by its digest: leave it out for that of images.train")
        if self.deploy.kind == "argocd" and not self.deploy.application:
            raise ValueError("deploy.application is missing: name the Argo CD Application of csm-serving")
        return self

    def place(self, step: str) -> Place:
        """What a step may use."""
        return self.steps.get(step) or self.steps.get("default") or Place()

    def image(self, spec: StepSpec) -> str:
        """The image of a step."""
        return str(getattr(self.images, spec.image))

    def train_target(self) -> TrainTarget:
        """Where training processes run, with what the profile says elsewhere where `train` leaves it out."""
        known: dict[str, Any] = {
            "namespace": self.namespace,
            "image": self.images.train,
            "image_pull_secrets": self.images.pull_secrets,
            "env_from_secrets": [name for name in (self.storage.secret, self.tracking.secret) if name],
            "user": self.user,
        }
        left_out = {key: value for key, value in known.items() if key not in self.train.model_fields_set}
        return self.train.model_copy(update=left_out)


def load_profile(name: str, images: Mapping[str, str] | None = None) -> ClusterProfile:
    """Reads a profile.

    Args:
        name: a file, or the name of one in `deploy/profiles`.
        images: images by role (`data`, `train`) that go before those of the file.

    Raises:
        InputError: no such profile, no YAML, an unknown key, or a value that breaks its rule.
    """
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise InputError(f"profile {name!r}: no such file; there are {there}, or give the path of a .yaml file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a mapping of keys to values")
    own = values.get("images")
    if isinstance(own, dict):
        values["images"] = {**own, **(images or {})}
    try:
        return ClusterProfile(**{"name": path.stem, **values})
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(_problem(row) for row in error.errors())) from None


def _problem(row: Any) -> str:
    where = ".".join(str(part) for part in row["loc"] if part != "__root__") or "profile"
    if row["type"] == "extra_forbidden":
        return f"{where}: there is no such key"
    if row["type"] == "missing":
        return f"{where}: is missing"
    message = row["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if row["type"] == "value_error" else f"{where} {row['input']!r}: {message}"
