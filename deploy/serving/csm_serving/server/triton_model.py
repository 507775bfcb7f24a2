"""What Triton's Python backend runs: an adaptor between its requests and the engine. Importable only in its stub.

Every request gets its final flag: after the last frame, with an error, and when its caller has gone.
The stub fills `triton_python_backend_utils` only after it has imported this module: nothing of it is used before that.
Nor does this module import torch: how many threads it may have is known only when the settings are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

from csm_model.errors import ArtifactError, InputError, MissingDependencyError, legible
from csm_model.inference.faults import fault_of
from csm_serving.server.life import FOLDER, SignOfLife
from csm_serving.server.metrics import TritonMetrics
from csm_serving.server.repository import read_version_settings
from csm_serving.server.siblings import Siblings
from csm_serving.server.threads import set_threads, threads_for
from csm_serving.server.watch import PortWatch
from csm_serving.wire import messages, tensors
from csm_serving.wire.encodings import encoder_of
from csm_serving.wire.errors import (
    AccessError,
    BusyError,
    DeadlineError,
    QuotaError,
    UnavailableError,
    UnknownStreamError,
)
from csm_serving.wire.protocol import AUTHORIZATION, Chunk, End, SpeechRequest, TextPart

if TYPE_CHECKING:
    from csm_serving.server.callers import Caller, Callers, Grant
    from csm_serving.server.engine import Engine

_STATUS = {
    InputError: "INVALID_ARG",
    AccessError: "INVALID_ARG",
    BusyError: "UNAVAILABLE",
    UnavailableError: "UNAVAILABLE",
    DeadlineError: "CANCELLED",
}
_LAST_WORDS_S = 3.0
"""Seconds before Triton's exit timeout at which streams still live are broken off, so that their callers hear why."""
_TO_BE_TOLD_S = 0.5
"""Seconds that callers' last responses get to leave this process before it ends itself."""
_FINAL = 1
"""TRITONSERVER_RESPONSE_COMPLETE_FINAL."""


def _error_of(error: Exception) -> Any:
    """The error as Triton's: our code in the message, the nearest of Triton's statuses beside it."""
    status = next((name for kind, name in _STATUS.items() if isinstance(error, kind)), "INTERNAL")
    return pb_utils.TritonError(messages.encode_error(error), getattr(pb_utils.TritonError, status))


def _response_of(outputs: dict[str, tensors.Array]) -> Any:
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in outputs.items()]
    )


class _Answer:
    """The way back to the caller of one request.

    The server dies of a sender that is asked for anything once its last response is out (Triton 2.51, seen). The last
    response may come from another thread than the one that asks, so they take turns.
    """

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self._turn = threading.Lock()
        self._over = False
        self.grant: Grant | None = None
        """What its caller was allowed, which ends with it."""

    def send(self, outputs: dict[str, tensors.Array]) -> None:
        response = _response_of(outputs)
        with self._turn:
            if not self._over:
                self._sender.send(response)

    def finish(self, outputs: dict[str, tensors.Array] | None = None) -> None:
        """The last response; an empty one without `outputs`."""
        self._last(*(() if outputs is None else (_response_of(outputs),)))

    def fail(self, error: Exception) -> None:
        self._last(pb_utils.InferenceResponse(error=_error_of(error)))

    def cancelled(self) -> bool:
        with self._turn:
            return not self._over and bool(self._sender.is_cancelled())

    def _last(self, *response: Any) -> None:
        with self._turn:
            if not self._over:
                self._over = True
                if self.grant is not None:
                    self.grant.end()
                self._sender.send(*response, flags=_FINAL)


class _Sink:
    """Where a stream goes: see `csm_serving.server.stream.Sink`."""

    def __init__(self, request: SpeechRequest, answer: _Answer, *, opus_bitrate: int) -> None:
        self._answer = answer
        self._encode = encoder_of(request.encoding, bitrate=opus_bitrate)

    def chunk(self, chunk: Chunk) -> None:
        self._answer.send(messages.encode_chunk(chunk, self._encode))

    def end(self, end: End) -> None:
        try:
            last = messages.encode_end(end, self._encode)
        except Exception as error:
            self._answer.fail(error)
            raise
        self._answer.finish(last)

    def fail(self, error: Exception) -> None:
        self._answer.fail(error)

    def drop(self) -> None:
        self._answer.finish()

    def cancelled(self) -> bool:
        return self._answer.cancelled()


class _TritonLog(logging.Handler):
    """Passes this program's log records to Triton's log."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warn" if record.levelno >= logging.WARNING else "info"
        try:
            getattr(pb_utils.Logger, f"log_{level}")(legible(self.format(record)))
        except Exception:
            self.handleError(record)


class TritonPythonModel:
    """The model of `deploy/triton/csm`, one version of it: see `csm_serving.server.repository` for its settings."""

    _engine: Engine | None = None
    _watch: PortWatch | None = None
    _metrics: TritonMetrics | None = None
    _siblings: Siblings | None = None
    _life: SignOfLife | None = None
    _callers: Callers | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """Checks the configuration, loads the bundle, speaks once."""
        log = logging.getLogger("csm_serving")
        log.addHandler(_TritonLog())
        log.setLevel(logging.INFO)
        try:
            settings = read_version_settings(Path(args["model_repository"]) / args["model_version"])
            _check_config(json.loads(args["model_config"]))
            with contextlib.suppress(MissingDependencyError):
                encoder_of("opus")  # imports what it needs: who asks for it first need not wait
            set_threads(settings.threads or threads_for(settings.bundle), os.environ)
            from csm_serving.server.engine import Watchers
            from csm_serving.server.loading import load_callers, load_engine

            self._settings = settings
            self._callers = load_callers(settings)
            self._metrics = TritonMetrics(pb_utils, version=args["model_version"])
            folder = Path(args["model_repository"]).parent.parent / FOLDER
            self._life = life = SignOfLife(folder, args["model_version"])
            watchers = Watchers(alive=life.beat, broken=self._give_up)
            self._engine = engine = load_engine(settings, self._metrics, watchers)
            self._siblings = Siblings(
                Path(args["model_repository"]),
                args["model_version"],
                lambda part, caller: engine.append(part.stream_id, part.text, part.more, caller=caller),
            )
            self._watch = PortWatch(
                settings.host,
                settings.http_port,
                busy=lambda: engine.live + engine.queued > 0,
                on_closed=self._end,
                told=life.is_told_to_stop,
            )
            life.begin()
        except Exception as error:
            raise pb_utils.TritonModelException(messages.encode_error(error)) from error

    def is_ready(self) -> bool:
        """Whether streams are taken on. Servers newer than 2.51 ask; for 2.51 a model that is loaded is ready."""
        return self._engine is not None and self._engine.ready

    def execute(self, requests: list[Any]) -> None:
        """Hands each request to the engine and returns at once; the engine answers through the request's sender."""
        assert self._watch is not None
        self._watch.look()
        for request in requests:
            answer = _Answer(request)
            try:
                self._take(request, answer)
            except BaseException as error:
                answer.fail(fault_of(error))

    def _take(self, request: Any, answer: _Answer) -> None:
        """Takes a request on, or raises why not."""
        assert self._engine is not None
        caller = None
        try:
            if self._callers is not None:
                caller = self._callers.identify(_authorization(request))
            asked = messages.decode_request({tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
            if isinstance(asked, TextPart):
                self._append(asked, caller)
            elif self._callers is not None and caller is not None:
                answer.grant = self._callers.admit(caller, asked)
        except Exception as error:
            reason = "quota" if isinstance(error, QuotaError) else "denied" if isinstance(error, AccessError) else ""
            self._engine.refuse(reason or "invalid_input")
            raise
        if isinstance(asked, TextPart):
            answer.finish()
            return
        sink = _Sink(asked, answer, opus_bitrate=self._settings.opus_bitrate)
        try:
            self._engine.submit(asked, sink, caller=None if caller is None else caller.name)
        except BaseException:
            if answer.grant is not None:
                answer.grant.end(unused=True)
            raise

    def _append(self, part: TextPart, caller: Caller | None) -> None:
        """Adds to the text of a stream: of this version, or of one that is being replaced."""
        assert self._engine is not None
        name = None if caller is None else caller.name
        if self._callers is not None and caller is not None:
            self._callers.charge(caller, len(part.text))
        try:
            self._engine.append(part.stream_id, part.text, part.more, caller=name)
        except UnknownStreamError:
            if self._siblings is None:
                raise
            self._siblings.hand_on(part, name)

    def finalize(self) -> None:
        """Ends the engine. Triton calls this when no stream is left, also where another version took this one's place.

        Streams that are there all the same may end first, for as long as the exit timeout.
        """
        if self._watch is not None:
            self._watch.stop()
        if self._siblings is not None:
            self._siblings.close()
        self._end()
        if self._metrics is not None:
            self._metrics.close()

    def _end(self) -> None:
        """Takes no more streams; those that are live may end within the exit timeout."""
        if self._engine is not None:
            self._engine.close(max(0.0, self._settings.exit_timeout_s - _LAST_WORDS_S))
        if self._life is not None:
            self._life.end()

    def _give_up(self, reason: str) -> None:
        """The engine is broken: this process ends, and Triton with it, which would go on without a model."""
        time.sleep(_TO_BE_TOLD_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)


def _authorization(request: Any) -> str | None:
    """The header of that name, which Triton hands on among a request's parameters."""
    value = json.loads(request.parameters() or "{}").get(AUTHORIZATION)
    return value if isinstance(value, str) else None


def _check_config(config: dict[str, Any]) -> None:
    """Raises `ArtifactError` where config.pbtxt is not the one of this protocol."""
    given = {
        tensor["name"]: (tensor["data_type"], tuple(int(size) for size in tensor["dims"]))
        for tensor in config["input"] + config["output"]
    }
    asked = {spec.name: (spec.config_dtype, spec.shape) for spec in (*tensors.INPUTS, *tensors.OUTPUTS)}
    differing = sorted(name for name in given.keys() | asked.keys() if given.get(name) != asked.get(name))
    if differing:
        raise ArtifactError(
            f"config.pbtxt is of another protocol: {', '.join(differing)} differ; write it again with csm serve"
        )
    if not config.get("model_transaction_policy", {}).get("decoupled"):
        raise ArtifactError("config.pbtxt lacks model_transaction_policy { decoupled: true }; a stream needs it")
