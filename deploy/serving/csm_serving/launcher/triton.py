"""A real Triton on this machine, serving one bundle: started, watched, drained and stopped."""

from __future__ import annotations

import contextlib
import http
import http.client
import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from csm_model.errors import InputError, MissingDependencyError
from csm_model.files import path_written, read_json, written_path
from csm_serving.launcher import controls
from csm_serving.launcher.hosts import for_grpc, for_http, listening_socket
from csm_serving.launcher.installation import Installation, find_installation, write_search_folders
from csm_serving.launcher.life import LifeWatch
from csm_serving.launcher.places import PlainPlace, joined
from csm_serving.launcher.server_log import ServerLog
from csm_serving.launcher.swap import STATE_NAME, ServerState, Swapped, swap_bundle
from csm_serving.launcher.tls import RenewalWatch, encrypting
from csm_serving.server.repository import write_repository
from csm_serving.server.watch import reachable
from csm_serving.settings import ServingSettings
from csm_serving.wire import messages, tensors
from csm_serving.wire.defaults import address_of
from csm_serving.wire.errors import ServingError
from csm_serving.wire.protocol import AUTHORIZATION

log = logging.getLogger(__name__)

_EXIT_MARGIN_S = 5.0
"""Seconds that Triton gets beyond its exit timeout before it is killed."""
_POLL_S = 0.25
"""Seconds between two looks at Triton and its model."""
_FAILED_STARTS = 3
"""So many starts in a row that fail will not succeed later."""
_DEATHS = 30
"""So many deaths within `_DEATHS_S` seconds are no accidents."""
_DEATHS_S = 600.0
_SHARED_BYTES = 96 * 2**20
"""Of the memory in /dev/shm that Triton shares with each version's stub. The largest request takes 32 MB, so it need
not grow; servers are reported to die while it does (Triton's issue 8882)."""
_PORT_OPTIONS = {"grpc": "--grpc-port", "http": "--http-port", "metrics": "--metrics-port"}


class LocalTriton:
    """A context manager: on entry Triton serves the bundle, on exit live streams have ended and the process is gone.

    `folder` keeps the assembled repository and the log; without it a temporary folder is used and removed. Raises
    `MissingDependencyError` (no Triton here, a port in use), `InputError` or `ArtifactError` (the bundle), and
    `ServingError` where Triton dies or does not answer in time.
    """

    def __init__(self, bundle: Path, *, settings: ServingSettings, folder: Path | None = None) -> None:
        self._settings = settings
        self._bundle = bundle.absolute()
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="csm-serving-")
        self.folder = (folder or Path(self._temporary.name if self._temporary else "")).absolute()
        self.log = ServerLog(self.folder / "triton.log", self._settings.log)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._told = False
        self.life = LifeWatch(self.folder, period_s=_POLL_S)
        self._turn_key = self._settings.turn_key or secrets.token_hex(32)
        self._secret = controls.draw_secret()
        self.ports: dict[str, int] = {}
        self.renewal = RenewalWatch(None)
        """Of the certificate in use."""

    @property
    def _shared_memory(self) -> str:
        """How the names of its shared memory begin."""
        return f"csm_{os.getpid()}_{self.ports['grpc']}_"

    @property
    def _place(self) -> PlainPlace:
        """Its folder, as Triton is told of it."""
        return PlainPlace(self.folder, self._shared_memory)

    @property
    def url(self) -> str:
        """Where a client finds the streams: `host:port`."""
        return address_of(self._settings.host, self.ports["grpc"])

    @property
    def http_url(self) -> str:
        """Base address of health, readiness and metadata."""
        return f"http://{address_of(self._settings.host, self.ports['http'])}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics."""
        return f"http://{address_of(self._settings.host, self.ports['metrics'])}/metrics"

    @property
    def pid(self) -> int:
        """Triton's process."""
        if self._process is None:
            raise ServingError("Triton is not running; start it first")
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts Triton and returns when the model is ready."""
        if not (self._bundle / "manifest.json").is_file():
            raise InputError(
                f"{self._bundle}: no bundle there (no manifest.json); give the folder of an exported bundle"
            )
        installation = find_installation(self._settings.triton)
        with _leave_to_write():
            self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(InputError):
            other = ServerState.read(self.folder)
            raise MissingDependencyError(
                f"{self.folder} is used by a server already, process {other.pid}: stop it, or give another --folder"
            )
        self.ports = _claim_ports(self._settings, self.ports)
        with _leave_to_write():
            command, environment = self._assemble(installation)
            self.life.begin()
        self._process = self.log.popen(command, environment)
        self._guard = _guard(self._process.pid, self._settings.exit_timeout_s + _EXIT_MARGIN_S)
        self._wait_ready()
        self._ready = True
        self._state().write(self.folder)

    def restart(self) -> None:
        """Starts Triton again, after it has died, on the same ports, with the bundle that was served last."""
        with contextlib.suppress(InputError):  # a start that failed has left none
            self._bundle = path_written(read_json(self.folder / STATE_NAME)["bundle"])
        self._clear()
        self.start()

    def swap(
        self, bundle: Path, *, drain_timeout_s: float | None = None, on_ready: Callable[[str], None] | None = None
    ) -> Swapped:
        """Serves `bundle` to new streams from now on, and returns when the old ones are over: see `swap_bundle`."""
        return swap_bundle(
            self.folder,
            bundle,
            ready_timeout_s=self._settings.ready_timeout_s,
            drain_timeout_s=drain_timeout_s,
            on_ready=on_ready or (lambda version: None),
        )

    def _state(self) -> ServerState:
        ports = {f"{name}_port": port for name, port in self.ports.items()}
        host, bundle = self._settings.host, written_path(self._bundle)
        return ServerState(pid=self.pid, host=host, bundle=bundle, secret=self._secret, **ports)

    def wait(self, timeout_s: float) -> int | None:
        """Triton's exit status, or None where it still runs after `timeout_s` seconds."""
        if self._process is None:
            raise ServingError("Triton is not running; start it first")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """Asks the server, once, to stop: it takes no more streams and exits when the live ones are over.

        Its model is told first, and Triton when nothing is live: it would refuse more text for live streams.
        """
        if self._process is not None and self._process.poll() is None and not self._told:
            self._told = True
            with contextlib.suppress(OSError):
                self.life.tell_to_stop()
            threading.Thread(target=self._drain, args=(self._process,), name="csm-drain", daemon=True).start()

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """Stops Triton when its model has ended its streams, which it does within the exit timeout."""
        deadline = time.monotonic() + self._settings.exit_timeout_s
        while process.poll() is None and self.life.serves and time.monotonic() < deadline:
            time.sleep(_POLL_S / 5)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Stops Triton: live streams may end within the exit timeout; then it is killed. Returns its exit status."""
        if self._process is not None and self._ready:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._settings.exit_timeout_s + _EXIT_MARGIN_S)
        status = self._clear()
        if self._temporary is not None:
            self._temporary.cleanup()
        return status

    def _clear(self) -> int:
        """Removes what is left of a Triton, its stubs above all; returns its exit status."""
        status = 0
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            status = self._process.wait()
            for left in Path("/dev/shm").glob(f"{self._shared_memory}*"):  # noqa: S108
                left.unlink(missing_ok=True)
            self._process = None
            self._ready = False
            (self.folder / STATE_NAME).unlink(missing_ok=True)
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        return status

    def _assemble(self, installation: Installation) -> tuple[list[str], dict[str, str]]:
        settings = self._settings
        backend = self.folder / "backends" / "python"
        shutil.rmtree(backend, ignore_errors=True)  # of a server that is gone
        shutil.copytree(installation.backend, backend)
        shutil.copy2(installation.stub, backend)
        served = {"bundle": written_path(self._bundle), "http_port": self.ports["http"]}
        shutil.rmtree(self.folder / "repository", ignore_errors=True)
        write_repository(self.folder / "repository", settings.of_model() | served)
        lib, bin_ = write_search_folders(installation, self.folder)
        place = self._place
        place.make()
        libraries, python = place.of(installation.libraries, "libraries"), place.of(bin_.parent, "python") / bin_.name
        environment = os.environ | {
            "LD_LIBRARY_PATH": joined(str(libraries), str(place.of(lib, "lib")), os.environ.get("LD_LIBRARY_PATH", "")),
            "PATH": joined(str(python), os.environ.get("PATH", "")),
            "LC_ALL": "C.UTF-8",  # the model reads names of files as they are written, whatever the locale here
            "CSM_SERVING_TURN_KEY": self._turn_key,
        }
        if settings.watermark_key is not None:
            environment["CSM_SERVING_WATERMARK_KEY"] = settings.watermark_key
        command = [
            str(installation.server),
            f"--model-repository={place.path / 'repository'}",
            f"--backend-directory={place.path / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            f"--backend-config=python,shm-default-byte-size={_SHARED_BYTES}",
            "--model-control-mode=explicit",
            f"--load-model={tensors.MODEL_NAME}",
            f"--exit-timeout-secs={round(settings.exit_timeout_s)}",
            "--allow-gpu-metrics=false",
            f"--grpc-keepalive-time={round(settings.keepalive_s * 1000)}",
            f"--grpc-keepalive-timeout={round(settings.keepalive_s * 1000)}",
            *controls.closing(self._secret),
            *encrypting(settings),
        ]
        self.renewal = RenewalWatch(settings)
        if settings.token_file is not None:
            command.append(f"--grpc-header-forward-pattern=(?i)^{AUTHORIZATION}$")
        if settings.connection_age_s is not None:
            command.append(f"--grpc-max-connection-age={round(settings.connection_age_s * 1000)}")
        for name, port in self.ports.items():
            host = for_grpc(settings.host) if name == "grpc" else for_http(settings.host)
            command += [f"--{name}-address={host}", f"--{name}-port={port}"]
        return command, environment

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._settings.ready_timeout_s
        hidden = False
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                raise self._death(status)
            if not hidden and self.log.begun:  # what Triton says first, it says with its options read
                self._hide_secret()
                hidden = True
            if self._is_ready():
                return
            time.sleep(0.05)
        raise ServingError(
            f"Triton did not answer within {self._settings.ready_timeout_s:g} s (CSM_SERVING_READY_TIMEOUT_S); "
            f"its last words: {self.log.last_words()}"
        )

    def _hide_secret(self) -> None:
        try:
            controls.hide(self._secret, self.pid)
        except OSError as error:
            log.warning(
                "the secret of the server's controls stands in Triton's command line, where all users of this machine "
                "can read it (%s): let nobody else on this machine",
                error.strerror or error,
            )

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(reachable(self._settings.host), self.ports["http"], timeout=1)
        try:
            connection.request("GET", f"/v2/models/{tensors.MODEL_NAME}/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _death(self, status: int) -> Exception:
        """Why Triton died: the model's own error where it gave one, else the end of the log."""
        said = self.log.lines()
        for line in sorted(said, key=lambda line: not line.startswith("error:")):  # these lines are not escaped
            if (error := messages.find_error(line)) is not None:
                return error
            if "already in use" in line:
                return MissingDependencyError(
                    f"Triton could not listen: {line.partition('] ')[2] or line}; choose other ports"
                )
        return ServingError(
            f"Triton died with status {status} before it was ready; its last words: {self.log.last_words()}"
        )


def serve(
    bundle: Path,
    *,
    settings: ServingSettings,
    folder: Path | None = None,
    on_ready: Callable[[LocalTriton], None] | None = None,
) -> int:
    """Serves `bundle` until SIGTERM or SIGINT, then lets live streams end; returns Triton's exit status.

    A Triton that dies by itself, or whose model does, is ended and started again, unless that happens often. Call it
    from the main thread: it takes the signals.
    """
    with LocalTriton(bundle, settings=settings, folder=folder) as triton:
        stopping = threading.Event()

        def told(number: int, frame: FrameType | None) -> None:
            stopping.set()
            triton.terminate()

        before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            if on_ready is not None:
                on_ready(triton)
            _watch(triton, stopping)
            return triton.stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _watch(triton: LocalTriton, stopping: threading.Event) -> None:
    """Starts Triton again where it has died, or its model has, until it is to stop; raises where that does not help."""
    deaths: list[float] = []
    failed_starts = 0
    failure: str | None = None
    while not stopping.is_set():
        triton.renewal.look()
        if failure is None:
            status = triton.wait(timeout_s=_POLL_S)
            failure = triton.life.failure() if status is None else f"Triton ended by itself with status {status}"
        if failure is None or stopping.is_set():
            continue
        deaths = [at for at in deaths if time.monotonic() - at < _DEATHS_S] + [time.monotonic()]
        line = f"{failure}; its last words: {triton.log.last_words()}"
        if failed_starts >= _FAILED_STARTS or len(deaths) >= _DEATHS:
            raise ServingError(f"{line}; it was started again {len(deaths) - 1} times before")
        log.error("%s; it is started again", line)
        failure = None
        try:
            triton.restart()
            failed_starts = 0
        except ServingError as error:
            failed_starts += 1
            failure = f"Triton did not start again: {error}"


@contextlib.contextmanager
def _leave_to_write() -> Iterator[None]:
    """A folder that may not or cannot be written is the caller's to change."""
    try:
        yield
    except PermissionError as error:
        raise InputError(f"{error.filename}: no leave to write there; give another --folder") from None
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be written ({error.strerror}); give another --folder") from None


def _claim_ports(settings: ServingSettings, before: dict[str, int]) -> dict[str, int]:
    """The three ports: those asked for or had `before`, checked to be free, and free ones for 0."""
    asked = {"grpc": settings.grpc_port, "http": settings.http_port, "metrics": settings.metrics_port} | before
    with contextlib.ExitStack() as held:
        ports = {}
        for name, port in asked.items():
            try:
                claim = held.enter_context(listening_socket(settings.host, port))
            except OSError as error:
                raise MissingDependencyError(
                    f"port {port} of {settings.host} cannot be had ({error.strerror}): stop what uses it, or choose "
                    f"another with {_PORT_OPTIONS[name]}"
                ) from None
            ports[name] = int(claim.getsockname()[1])
        return ports


def _guard(pid: int, patience_s: float) -> subprocess.Popen[bytes]:
    """A shell that stops `pid` when this process is gone, however it went: then the pipe between them closes."""
    script = (
        'read -r _; kill -TERM "$1"; while kill -0 "$1" && [ "$2" -gt "${i:=0}" ]; do sleep 1; i=$((i + 1)); done; '
    )
    return subprocess.Popen(
        ["/bin/sh", "-c", script + 'kill -KILL "-$1"', "csm-guard", str(pid), str(round(patience_s))],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
