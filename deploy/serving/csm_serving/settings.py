"""Settings of a server, and of the commands that ask one; in the environment each is `CSM_SERVING_<NAME>`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from csm_model.errors import InputError
from csm_model.files import written_path
from csm_serving.wire.defaults import CHUNK_TIMEOUT_S, CONNECT_TIMEOUT_S, GRPC_PORT, HOST, address_of
from csm_serving.wire.protocol import MAX_STREAM_CHARACTERS

SECRETS: Final = {"turn_key", "watermark_key", "token"}
"""Settings that are handed on in the environment, and never written down."""
NOT_THE_MODELS: Final = {
    *("triton", "log", "grpc_port", "metrics_port"),
    *("ready_timeout_s", "connect_timeout_s", "chunk_timeout_s"),
    *("tls_cert", "tls_key", "tls_client_ca", "tls", "ca", "client_cert", "client_key"),
}
"""Settings of the program around Triton and of the client."""

PATHS: Final = ("bundle", "codec", "voices", "audit", "token_file")
"""Settings of the model that are paths, or may be."""


class ServingSettings(BaseSettings):
    """What serving reads from outside."""

    model_config = SettingsConfigDict(env_prefix="CSM_SERVING_", frozen=True, allow_inf_nan=False, extra="ignore")

    bundle: Path | None = None
    """Folder of the bundle that the model loads."""
    codec: Path | None = None
    """Folder of the codec, for a bundle that carries none."""
    weights: Literal["fp32", "bf16", "int8", "int4"] | None = None
    """How the model's weights are kept while it serves; None: as they are stored."""
    ungated_int4: bool = False
    """Whether 4-bit weights may serve though the bundle's gate has not passed them."""
    slots: int = Field(default=8, ge=1, le=256)
    """Streams that may be live at once."""
    queue: int = Field(default=16, ge=0, le=4096)
    """Streams that may wait for a slot; a request above them is refused at once."""
    max_wait_s: float = Field(default=30.0, ge=0)
    """Longest time that a request may ask to wait for a slot."""
    frame_budget: float = Field(default=0.9, ge=0, le=1)
    """Share of a frame's 80 ms that a step may take before new streams are refused; 0: no bound."""
    prefill_rows: int = Field(default=64, ge=1, le=4096)
    """Rows of a prompt that are read in one step; more of them stall live streams, fewer delay the first audio."""
    lead_s: float = Field(default=1.0, ge=0)
    """Seconds that a stream may be ahead of its player where it is not alone; 0: as far as there is time for."""
    text_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds that a stream waits for more of its text before it ends."""
    max_stream_characters: int = Field(default=MAX_STREAM_CHARACTERS, ge=1)
    """Longest text of a stream, all its parts together."""
    max_frames: int | None = Field(default=None, ge=1)
    """Longest turn in frames of 80 ms, whatever a request asks for; None: the model's own."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of the model's arithmetic; None: one for a small model, else every core."""
    opus_bitrate: int = Field(default=32_000, ge=6_000, le=128_000)
    """Bits a second of a stream that is encoded as Opus."""
    watermark: str = "perth"
    """The mark that every stream carries: `perth` or `perth:<payload>`; `off`: none, which the log says."""
    watermark_key: str | None = Field(default=None, repr=False)
    """Secret that the mark's payload is drawn from, hexadecimal; None: the public one, with which anybody reads it."""
    voices: Path | None = None
    """Folder of the registry of voices; None: only the bundle's own speakers."""
    voice_use: str | None = None
    """What this server is for; voices whose consent does not name it are refused. None: any use."""
    client_voices: Literal["refuse", "allow"] = "refuse"
    """Whether a client may bring sound of the asked speaker that this service has not spoken: it clones a voice."""
    turn_key: str | None = Field(default=None, repr=False)
    """Secret behind the chunks' tokens, hexadecimal, the same for all servers that share conversations; None: drawn."""
    audit: str = "log"
    """Where a line about every stream goes: `log`, a file, or `off`, which the log says."""
    audit_required: bool = True
    """Whether no stream begins while that line could not be written."""
    token_file: Path | None = None
    """File of those who may call, each with a token; None: whoever reaches the server may, which the log says."""
    tls_cert: Path | None = None
    """PEM file of the server's certificate and its chain: the streams go over TLS. None: unencrypted."""
    tls_key: Path | None = None
    """PEM file of that certificate's key."""
    tls_client_ca: Path | None = None
    """PEM file of the authorities that must have signed a client's certificate; None: clients need none."""
    triton: Path | None = None
    """Folder of the Triton to start, as NVIDIA's image has it in /opt/tritonserver; None: the one of the wheel."""
    log: Literal["file", "stderr"] = "file"
    """Where Triton's log goes, audit and all: a file in the server's folder, or standard error, as of a container."""
    host: str = HOST
    """Address that the server binds and the client asks."""
    grpc_port: int = Field(default=GRPC_PORT, ge=0, le=65535)
    """Port of the streams; 0 takes a free one."""
    http_port: int = Field(default=8000, ge=0, le=65535)
    """Port of health and readiness; 0 takes a free one."""
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    """Port of the Prometheus metrics; 0 takes a free one."""
    ready_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds that a server may take until it answers."""
    exit_timeout_s: float = Field(default=30.0, ge=0)
    """Seconds that live streams get to end in when the server is told to stop."""
    connection_age_s: float | None = Field(default=None, gt=0)
    """Age at which a client's connection is told to be made anew, its streams unhurt: then a balancer can send it to
    another server. None: never."""
    keepalive_s: float = Field(default=20.0, ge=1)
    """Seconds without a word from a client after which the server asks whether it is there; as many again, and its
    streams are cancelled."""
    connect_timeout_s: float = Field(default=CONNECT_TIMEOUT_S, gt=0)
    """Seconds that a client waits for a server to answer at all."""
    chunk_timeout_s: float = Field(default=CHUNK_TIMEOUT_S, gt=0)
    """Seconds that a client waits for the next chunk of a stream."""
    tls: bool = False
    """Whether a client encrypts; it does, too, where one of the next two is set."""
    ca: Path | None = None
    """PEM file of the authorities whose certificates a client believes; None: those that gRPC brings along."""
    client_cert: Path | None = None
    """PEM file of a client's own certificate, for a server that asks for one."""
    client_key: Path | None = None
    """PEM file of its key."""
    token: str | None = Field(default=None, repr=False)
    """A client's token, as `csm token add` printed it."""

    @property
    def url(self) -> str:
        """Where the streams are: `host:port`."""
        return address_of(self.host, self.grpc_port)

    def unguarded(self) -> Self:
        """The same for a server that is started for its starter alone, on loopback: without TLS and tokens.

        Slots alone bound its streams: on a slow machine the starter would else be refused for its own ones' sake.
        """
        guards = dict.fromkeys(("token_file", "tls_cert", "tls_key", "tls_client_ca"))
        return self.model_copy(update={**guards, "frame_budget": 0.0})

    def of_model(self) -> dict[str, Any]:
        """What the model needs to know, as JSON: all that is set, without the client's part and the secrets.

        Paths are absolute: the model runs in another process, maybe in another folder.
        """
        values = self.model_dump(mode="json", exclude=set(NOT_THE_MODELS | SECRETS), exclude_none=True)
        for name in PATHS:
            if values.get(name) not in (None, "log", "off"):
                values[name] = written_path(Path(values[name]).absolute())
        return values


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
