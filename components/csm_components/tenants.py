"""What a tenant needs before its first run: its place in the storage, its user of MLflow and its experiment.

The chart csm-training runs this as a job whenever the tenants change; what is there already is left as it is. A tenant
owns what it makes, so the experiment is made by its own user and not by the administrator.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from csm_components.buckets import expire, make_bucket
from csm_components.settings import Settings, load_settings
from csm_components.sharding import SHARDS
from csm_model.errors import InputError, MissingDependencyError

CHECKPOINTS = "checkpoints"
"""Folder of a tenant's storage whose objects are removed after a while."""
_TIMEOUT_S = 60


class Tenant(BaseModel):
    """What of a tenant is made here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Its name; its secrets are found by it."""
    storage: str = Field(pattern=r"^s3://[^/]+/.+$")
    """`s3://bucket/prefix`: all that it stores lies under it."""
    checkpoint_days: int = Field(default=0, ge=0, alias="checkpointDays")
    """Days after which a checkpoint is removed; 0 keeps them."""
    shard_days: int = Field(default=0, ge=0, alias="shardDays")
    """Days after which what ingest and tokenise have made of a shard is removed; 0 keeps it."""
    experiment: str = ""
    """Its experiment in MLflow; empty makes none."""


@dataclass(frozen=True)
class Login:
    """A user of MLflow."""

    user: str
    password: str

    @classmethod
    def read(cls, folder: Path, user: str, password: str) -> Login:
        """From a mounted secret: the names of its two keys. Raises `InputError` where one is missing."""
        values = []
        for name in (user, password):
            path = folder / name
            value = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
            if not value:
                raise InputError(f"{path}: the secret has no {name}; put it there")
            values.append(value)
        return cls(*values)


class Accounts:
    """The users of an MLflow that asks for passwords, over its REST API."""

    def __init__(self, uri: str, admin: Login) -> None:
        self.uri = uri.rstrip("/")
        self._admin = admin

    def ensure_user(self, login: Login) -> str:
        """Makes a user, or gives it this password if it has another; says what was done, or nothing."""
        status, answer = self._call(self._admin, "GET", f"users/get?username={login.user}")
        if status == 200:
            if self._call(login, "GET", "users/current")[0] == 200:
                return ""
            self._must("PATCH", "users/update-password", {"username": login.user, "password": login.password})
            return f"user {login.user}: has the password of its secret again"
        if answer.get("error_code") != "RESOURCE_DOES_NOT_EXIST":
            raise self._refusal("users/get", status, answer)
        self._must("POST", "users/create", {"username": login.user, "password": login.password})
        return f"user {login.user}: made"

    def ensure_experiment(self, login: Login, name: str) -> str:
        """Makes a user's experiment; says so, or nothing. Raises `InputError` where it is somebody else's."""
        status, answer = self._call(login, "POST", "experiments/create", {"name": name})
        if status == 200:
            return f"experiment {name}: made, of user {login.user}"
        if answer.get("error_code") != "RESOURCE_ALREADY_EXISTS":
            raise self._refusal("experiments/create", status, answer)
        query = urllib.parse.urlencode({"experiment_name": name})
        if self._call(login, "GET", f"experiments/get-by-name?{query}")[0] != 200:
            raise InputError(
                f"experiment {name}: user {login.user} may not read it; it is somebody else's: choose another name"
            )
        return ""

    def _must(self, method: str, path: str, body: dict[str, Any]) -> None:
        status, answer = self._call(self._admin, method, path, body)
        if status != 200:
            raise self._refusal(path, status, answer)

    def _refusal(self, path: str, status: int, answer: dict[str, Any]) -> InputError:
        return InputError(f"MLflow at {self.uri} refuses {path} ({status}): {answer.get('message', 'no reason given')}")

    def _call(
        self, login: Login, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request; raises `MissingDependencyError` where nothing answers."""
        token = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310
            f"{self.uri}/api/2.0/mlflow/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                return answer.status, _json(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read())
        except OSError as error:
            raise MissingDependencyError(
                f"MLflow at {self.uri} does not answer ({error}); check MLFLOW_TRACKING_URI"
            ) from None


def _json(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data or b"{}")
    except ValueError:
        answer = {"message": data.decode(errors="replace").strip()[:200]}
    return answer if isinstance(answer, dict) else {"message": str(answer)}


def read_tenants(path: Path) -> list[Tenant]:
    """A JSON list of tenants. Raises `InputError`."""
    try:
        return TypeAdapter(list[Tenant]).validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name the file with the list of tenants") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the list"
        raise InputError(f"{path}: {where}: {first['msg']}; correct the entry") from None


def prepare(
    tenants: Sequence[Tenant], *, users: Path | None = None, admin: Path | None = None, settings: Settings | None = None
) -> Iterator[str]:
    """Gives every tenant what it lacks, and yields a line for each thing that it made.

    Args:
        tenants: who they are.
        users: folder with one folder a tenant, its secret: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
        admin: folder with the administrator's `username` and `password`; None makes no users and no experiments.
        settings: keys that may make buckets, and the address of MLflow; the environment's without them.
    """
    settings = settings or load_settings()
    accounts = None
    if admin is not None:
        if not settings.mlflow_tracking_uri:
            raise InputError("MLFLOW_TRACKING_URI is not set; set it to the address of MLflow")
        accounts = Accounts(settings.mlflow_tracking_uri, Login.read(admin, "username", "password"))
    for tenant in tenants:
        if make_bucket(tenant.storage, settings):
            yield f"{tenant.name}: the bucket of {tenant.storage} is made"
        for folder, days in ((CHECKPOINTS, tenant.checkpoint_days), (SHARDS, tenant.shard_days)):
            expire(f"{tenant.storage}/{folder}", days, settings)
        if accounts is None or not tenant.experiment:
            continue
        if users is None:
            raise InputError(f"{tenant.name}: its user's secret is not mounted; name the folder with --users")
        login = Login.read(users / tenant.name, "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        for line in (accounts.ensure_user(login), accounts.ensure_experiment(login, tenant.experiment)):
            if line:
                yield f"{tenant.name}: {line}"
