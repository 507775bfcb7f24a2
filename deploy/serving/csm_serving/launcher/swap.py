"""Another bundle in a running server: loaded beside the old one, which ends its streams and goes.

Triton 2.51, told to load a model whose folder has a newer version, loads that one first, sends new streams to it from
then on, and lets the old one go when its last stream is over (seen; its `finalize` is not called before). A version
that does not load changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import http
import http.client
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json, write_json, written_path
from csm_serving.launcher.controls import HEADER
from csm_serving.server.repository import stored_settings, versions_in, write_version
from csm_serving.server.watch import reachable
from csm_serving.wire import messages
from csm_serving.wire.errors import BusyError, ServingError, UnavailableError
from csm_serving.wire.tensors import MODEL_NAME

STATE_NAME: Final = "server.json"
_PERIOD_S: Final = 0.2
_ANSWER_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """What a running server leaves in its folder, so that it can be found."""

    pid: int
    """Of Triton."""
    host: str
    grpc_port: int
    http_port: int
    metrics_port: int
    bundle: str
    """Folder of the bundle that new streams go to."""
    secret: str = field(repr=False)
    """What opens Triton's controls: see `csm_serving.launcher.controls`."""

    def write(self, folder: Path) -> None:
        """Says it in `folder`, to this user only."""
        write_json(folder / STATE_NAME, vars(self), private=True)

    @classmethod
    def read(cls, folder: Path) -> ServerState:
        """The server of `folder`; raises `InputError` where none runs."""
        if not (folder / STATE_NAME).exists():
            raise InputError(
                f"{folder}: no server runs from there; give the folder that csm serve named, with --folder"
            )
        try:
            state = cls(**read_json(folder / STATE_NAME))
        except TypeError:
            raise ArtifactError(f"{folder / STATE_NAME} is of another kind; start the server again") from None
        with contextlib.suppress(PermissionError):
            try:
                os.kill(state.pid, 0)
            except ProcessLookupError:
                raise InputError(
                    f"{folder}: its server, process {state.pid}, is gone; start it with csm serve"
                ) from None
        return state


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """A swap that is done."""

    version: str
    """The version that new streams go to."""
    replaced: tuple[str, ...]
    """The versions that are gone."""
    load_s: float
    """Until the new one was ready."""
    drain_s: float
    """From then on, until the old one's last stream was over."""


def swap_bundle(
    folder: Path,
    bundle: Path,
    *,
    ready_timeout_s: float = 600.0,
    drain_timeout_s: float | None = None,
    on_ready: Callable[[str], None] = lambda version: None,
) -> Swapped:
    """Puts `bundle` in the place of what the server of `folder` serves; its other settings stay.

    Args:
        folder: of the running server: `csm serve --folder`.
        bundle: a folder with a manifest.
        ready_timeout_s: how long the new version may take to load.
        drain_timeout_s: how long the old one's streams may take to end; None: as long as they do.
        on_ready: is told the new version when new streams go to it.

    Raises:
        InputError: there is no such bundle or no such server.
        BusyError: another swap is under way.
        CsmError: what the new version does not load for; the old one serves on.
        ServingError: the old version's streams took too long; the new one serves.
        UnavailableError: the server does not answer.
    """
    if not (bundle / "manifest.json").is_file():
        raise InputError(f"{bundle}: no bundle there (no manifest.json); give the folder of an exported bundle")
    state = ServerState.read(folder)
    with _alone(folder):
        repository = folder / "repository"
        served = [row["version"] for row in _index(state) if row.get("state") == "READY"]
        if not served:
            raise UnavailableError(f"{folder}: the server serves no version now; it starts or stops, try again")
        number = str(max(versions_in(repository)) + 1)
        settings = stored_settings(repository / MODEL_NAME / served[-1])
        began = time.monotonic()
        written = write_version(repository, number, settings | {"bundle": written_path(bundle.absolute())})
        try:
            _load(state, ready_timeout_s)
        except BaseException:
            shutil.rmtree(written, ignore_errors=True)
            raise
        ServerState(**vars(state) | {"bundle": written_path(bundle.absolute())}).write(folder)
        ready = time.monotonic()
        on_ready(number)
        replaced = _drained(state, number, drain_timeout_s)
        for old in versions_in(repository):
            if str(old) != number:
                shutil.rmtree(repository / MODEL_NAME / str(old), ignore_errors=True)
        return Swapped(version=number, replaced=replaced, load_s=ready - began, drain_s=time.monotonic() - ready)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with its process."""
    with (folder / "swap.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"{folder}: another swap is under way; wait until the old version has drained") from None
        yield


def _ask(state: ServerState, path: str, timeout_s: float) -> tuple[int, str]:
    """A POST to Triton's HTTP port; raises `UnavailableError`."""
    connection = http.client.HTTPConnection(reachable(state.host), state.http_port, timeout=timeout_s)
    try:
        connection.request("POST", path, headers={HEADER: state.secret})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except TimeoutError:
        raise UnavailableError(f"the server did not answer within {timeout_s:g} s; look into its log") from None
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"the server at {state.host}:{state.http_port} does not answer: {error}") from None
    finally:
        connection.close()


def _load(state: ServerState, timeout_s: float) -> None:
    status, said = _ask(state, f"/v2/repository/models/{MODEL_NAME}/load", timeout_s)
    if status == http.HTTPStatus.OK:
        return
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = str(json.loads(said)["error"])
    raise messages.find_error(said) or ServingError(f"the new version does not load: {' '.join(said.split())}")


def _index(state: ServerState) -> list[dict[str, Any]]:
    """What Triton says of the model's versions."""
    status, said = _ask(state, "/v2/repository/index", _ANSWER_S)
    if status != http.HTTPStatus.OK:
        raise UnavailableError(f"the server did not list its versions ({status}); it starts or stops, try again")
    return [row for row in json.loads(said) if row.get("name") == MODEL_NAME and row.get("version")]


def _drained(state: ServerState, version: str, timeout_s: float | None) -> tuple[str, ...]:
    """Waits until the other versions are gone; returns them."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        others = [row for row in _index(state) if row["version"] != version]
        left = [row["version"] for row in others if row.get("state") in ("READY", "UNLOADING", "LOADING")]
        if not left:
            return tuple(row["version"] for row in others)
        if deadline is not None and time.monotonic() > deadline:
            raise ServingError(
                f"version {version} serves, but version {', '.join(left)} still speaks after {timeout_s:g} s; it goes "
                "when its last stream is over"
            )
        time.sleep(_PERIOD_S)
