"""What Triton's Python backend runs: an adaptor between its requests and the engine. Importable only in its stub.

Every request gets its final flag: after the last frame, with an error, and when its caller has gone.
The stub fills `triton_python_backend_utils` only after it has imported this module: nothing of it is used before that.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from csm_model.errors import ArtifactError, InputError
from csm_serving import tensors, wire
from csm_serving.engine import Engine
from csm_serving.errors import BusyError, UnavailableError
from csm_serving.metrics import TritonMetrics
from csm_serving.protocol import Chunk, End, SpeechRequest, TextPart
from csm_serving.settings import ServingSettings, load_settings
from csm_serving.watch import PortWatch

_STATUS = {InputError: "INVALID_ARG", BusyError: "UNAVAILABLE", UnavailableError: "UNAVAILABLE"}
_LAST_WORDS_S = 3.0
"""Seconds before Triton's exit timeout at which streams still live are broken off, so that their callers hear why."""
_FINAL = 1
"""TRITONSERVER_RESPONSE_COMPLETE_FINAL."""


def _error_of(error: Exception) -> Any:
    """The error as Triton's: our code in the message, the nearest of Triton's statuses beside it."""
    status = next((name for kind, name in _STATUS.items() if isinstance(error, kind)), "INTERNAL")
    return pb_utils.TritonError(wire.encode_error(error), getattr(pb_utils.TritonError, status))


def _response_of(outputs: dict[str, tensors.Array]) -> Any:
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in outputs.items()]
    )


class _Sender:
    """A stream's way back to its caller."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def chunk(self, chunk: Chunk) -> None:
        self._sender.send(_response_of(wire.encode_chunk(chunk)))

    def end(self, end: End) -> None:
        self._sender.send(_response_of(wire.encode_end(end)), flags=_FINAL)

    def fail(self, error: Exception) -> None:
        self._sender.send(pb_utils.InferenceResponse(error=_error_of(error)), flags=_FINAL)

    def drop(self) -> None:
        self._sender.send(flags=_FINAL)

    def cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


class _TritonLog(logging.Handler):
    """Passes this program's log records to Triton's log."""

    def emit(self, record: logging.LogRecord) -> None:
        write = pb_utils.Logger.log_error if record.levelno >= logging.ERROR else pb_utils.Logger.log_info
        write(self.format(record))


class TritonPythonModel:
    """The model of `deploy/triton/csm`; its settings are the server's environment (`CSM_SERVING_*`)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Checks the configuration, loads the bundle, speaks once."""
        logging.getLogger("csm_serving").addHandler(_TritonLog())
        try:
            settings = load_settings()
            _check_config(json.loads(args["model_config"]))
            self._engine = _load(settings)
            grace_s = max(0.0, settings.exit_timeout_s - _LAST_WORDS_S)
            self._watch = PortWatch(
                settings.host,
                settings.http_port,
                busy=lambda: self._engine.live > 0,
                on_closed=lambda: self._engine.close(grace_s),
            )
        except Exception as error:
            raise pb_utils.TritonModelException(wire.encode_error(error)) from error

    def execute(self, requests: list[Any]) -> None:
        """Hands each request to the engine and returns at once; the engine answers through the request's sender."""
        self._watch.look()
        for request in requests:
            sender = _Sender(request.get_response_sender())
            try:
                speech = _request_of(request)
            except Exception as error:
                self._engine.refuse("invalid_input")
                sender.fail(error)
                continue
            try:
                if isinstance(speech, TextPart):
                    self._engine.append(speech.stream_id, speech.text, speech.more)
                    sender.drop()
                else:
                    self._engine.submit(speech, sender)
            except Exception as error:
                sender.fail(error)

    def finalize(self) -> None:
        """Ends the engine; Triton calls this when no stream is left."""
        self._watch.stop()
        self._engine.close(grace_s=0)


def _request_of(request: Any) -> SpeechRequest | TextPart:
    return wire.decode_request({tensor.name(): tensor.as_numpy() for tensor in request.inputs()})


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


def _load(settings: ServingSettings) -> Engine:
    from csm_serving.loading import load_engine

    engine = load_engine(settings, TritonMetrics(pb_utils))
    pb_utils.Logger.log_info(f"csm: serving {settings.bundle} in {settings.slots} slots, process {os.getpid()}")
    return engine
