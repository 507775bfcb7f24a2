"""Settings of server and client; every one may stand in the environment as `CSM_SERVING_<NAME>`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from csm_model.errors import InputError


class ServingSettings(BaseSettings):
    """What serving reads from outside."""

    model_config = SettingsConfigDict(env_prefix="CSM_SERVING_", frozen=True, extra="ignore")

    bundle: Path | None = None
    """Folder of the bundle that the model loads."""
    codec: Path | None = None
    """Folder of the codec, for a bundle that carries none."""
    slots: int = Field(default=4, ge=1, le=256)
    """Streams that may be live at once; a request above them is refused."""
    max_frames: int | None = Field(default=None, ge=1)
    """Longest turn in frames of 80 ms, whatever a request asks for; None: the model's own."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of the model's arithmetic; None: one for a small model, else every core."""
    host: str = "127.0.0.1"
    """Address that the server binds and the client asks."""
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    """Port of the streams; 0 takes a free one."""
    http_port: int = Field(default=8000, ge=0, le=65535)
    """Port of health and readiness; 0 takes a free one."""
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    """Port of the Prometheus metrics; 0 takes a free one."""
    ready_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds that a server may take until it answers."""
    exit_timeout_s: float = Field(default=30.0, ge=0)
    """Seconds that live streams get to end in when the server is told to stop."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    """Seconds that a client waits for a server to answer at all."""
    chunk_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that a client waits for the next chunk of a stream."""


def load_settings(**given: Any) -> ServingSettings:
    """The environment's settings with those `given` that are not None; raises `InputError` in one line."""
    try:
        return ServingSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{name} = {first['input']!r}: {first['msg'].lower()} (CSM_SERVING_{name.upper()} or its option)"
        ) from None
