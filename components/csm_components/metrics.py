"""Prometheus metrics of training and of steps; the only module here that imports prometheus_client.

**Training.** The trainer writes one JSON object a line to `metrics.jsonl`; whoever follows the file hands its rows to
`TrainingMetrics`, which serves them on a port (`CSM_METRICS_PORT`) and writes them as text for node_exporter.

| metric | meaning |
| --- | --- |
| `csm_training_step`, `csm_training_steps` | optimiser steps done, and to do |
| `csm_training_skipped_steps` | steps that were not taken: no number, or a leap of the loss |
| `csm_training_loss{kind}` | latest losses in nats: `loss`, `loss_first`, `loss_depth`, `validation_first`, ... |
| `csm_training_codebook_loss{codebook}` | latest loss of each codebook, in nats |
| `csm_training_accuracy_ratio{kind}` | latest accuracies of codebook 0: `accuracy_first`, `validation_accuracy` |
| `csm_training_learning_rate`, `csm_training_gradient_norm` | as logged |
| `csm_training_step_duration_seconds` | time of a step |
| `csm_training_rows_per_second`, `csm_training_frames_per_second` | rows that hold something, and frames of sound |
| `csm_training_padding_ratio` | share of the rows that hold nothing |
| `csm_training_flops_per_second` | floating-point operations that the model needs, all workers |
| `csm_training_model_flops_utilization_ratio` | their share of what the devices could do, where that was told |
| `csm_training_memory_bytes` | most memory that a worker has held |
| `csm_training_last_update_timestamp_seconds` | time of the latest row, since 1970 |
| `csm_training_saved_timestamp_seconds` | newest checkpoint, or start of the attempt: what is later is not safe |

They are pushed too, as `job` `csm_training`, where there is a gateway (see below).

**Steps.** A step's pod is gone before Prometheus could ask it, so its figures are pushed to a pushgateway
(`CSM_PUSHGATEWAY`), which keeps the latest of each group of the labels `job` (`csm_step`), `step`, `pipeline` and
`model` (the last two where `CSM_PIPELINE` and `CSM_MODEL` name them):

| metric | meaning |
| --- | --- |
| `csm_step_duration_seconds` | time that the step took when it last ended well |
| `csm_step_last_success_timestamp_seconds` | when that was, since 1970 |
| `csm_step_last_failure_timestamp_seconds` | when it last failed, since 1970 |
| `csm_step_result{figure}` | numbers of its result: `wer_generated` of evaluate, `promoted` (0 or 1) of register, ... |
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, Gauge, pushadd_to_gateway, start_http_server, write_to_textfile

from csm_components.settings import load_settings
from csm_model.errors import MissingDependencyError

_GAUGES = {
    "step": ("csm_training_step", "Optimiser steps done."),
    "steps": ("csm_training_steps", "Optimiser steps to do."),
    "skipped_steps": ("csm_training_skipped_steps", "Optimiser steps that were not taken."),
    "learning_rate": ("csm_training_learning_rate", "Learning rate."),
    "gradient_norm": ("csm_training_gradient_norm", "Norm of the gradients before clipping."),
    "step_seconds": ("csm_training_step_duration_seconds", "Time of an optimiser step."),
    "rows_per_second": (
        "csm_training_rows_per_second",
        "Rows that are no padding in a second, all workers.",
    ),
    "frames_per_second": ("csm_training_frames_per_second", "Audio frames trained on in a second, all workers."),
    "padding": ("csm_training_padding_ratio", "Share of the rows that hold nothing."),
    "flops_per_second": ("csm_training_flops_per_second", "Floating-point operations in a second, all workers."),
    "mfu": (
        "csm_training_model_flops_utilization_ratio",
        "Share of the devices' peak that the model uses.",
    ),
    "memory_bytes": ("csm_training_memory_bytes", "Most memory that a worker has held."),
    "time": ("csm_training_last_update_timestamp_seconds", "Time of the latest row, since 1970."),
    "saved": (
        "csm_training_saved_timestamp_seconds",
        "Time of the newest checkpoint, or of the attempt's start, since 1970.",
    ),
}
CODEBOOK = "loss_codebook_"
"""How the name of a codebook's own loss begins."""
STEP_JOB = "csm_step"
TRAINING_JOB = "csm_training"
_PUSH_SECONDS = 10.0


def push_metrics(registry: CollectorRegistry, job: str, grouping: Mapping[str, str]) -> None:
    """Pushes the metrics of a registry to the pushgateway of the settings; does nothing where none is set.

    Metrics of the same name and group are replaced, others of the group stay. A gateway that cannot be reached costs a
    line on standard error, and nothing else.

    Args:
        registry: what to push.
        job: label `job`.
        grouping: more labels of the group; `pipeline` and `model` are added from the settings.
    """
    settings = load_settings()
    if not settings.pushgateway:
        return
    labels = {"pipeline": settings.pipeline, "model": settings.model, **grouping}
    try:
        pushadd_to_gateway(
            settings.pushgateway,
            job=job,
            registry=registry,
            grouping_key={name: value for name, value in labels.items() if value},
            timeout=_PUSH_SECONDS,
        )
    except (OSError, ValueError, HTTPException) as error:  # urllib's errors are OSErrors; the others: not an address
        why = " ".join(str(error).split())
        sys.stderr.write(f"warning: {settings.pushgateway}: figures of {job} were not pushed ({why})\n")


def success_figures(seconds: float, result: Mapping[str, Any]) -> CollectorRegistry:
    """What is pushed of a step that has ended well: what it took, and the numbers of its result."""
    registry = CollectorRegistry()
    Gauge("csm_step_duration_seconds", "Time that a step took.", registry=registry).set(seconds)
    _now(registry, "csm_step_last_success_timestamp_seconds", "When a step last ended well, since 1970.")
    figures = Gauge("csm_step_result", "Numbers of a step's result.", ["figure"], registry=registry)
    for name, value in result.items():
        if isinstance(value, int | float):
            figures.labels(figure=name).set(value)
    return registry


def failure_figures() -> CollectorRegistry:
    """What is pushed of a step that has failed."""
    registry = CollectorRegistry()
    _now(registry, "csm_step_last_failure_timestamp_seconds", "When a step last failed, since 1970.")
    return registry


def push_success(step: str, seconds: float, result: Mapping[str, Any]) -> None:
    """Pushes that a step has ended well, what it took, and the numbers of its result."""
    push_metrics(success_figures(seconds, result), STEP_JOB, {"step": step})


def push_failure(step: str) -> None:
    """Pushes that a step has failed."""
    push_metrics(failure_figures(), STEP_JOB, {"step": step})


def _now(registry: CollectorRegistry, name: str, text: str) -> None:
    Gauge(name, text, registry=registry).set(time.time())


class TrainingMetrics:
    """Gauges of one training, in a registry of their own.

    Args:
        port: where to serve them; 0 serves none.
        textfile: where to write them after each update; None writes none.
    """

    def __init__(
        self, *, port: int = 0, textfile: Path | None = None, registry: CollectorRegistry | None = None
    ) -> None:
        self.registry = registry or CollectorRegistry()
        self._textfile = textfile
        self._gauges = {key: Gauge(name, text, registry=self.registry) for key, (name, text) in _GAUGES.items()}
        self._loss = Gauge("csm_training_loss", "Latest losses, in nats.", ["kind"], registry=self.registry)
        self._codebook = Gauge(
            "csm_training_codebook_loss", "Latest loss of each codebook, in nats.", ["codebook"], registry=self.registry
        )
        self._accuracy = Gauge(
            "csm_training_accuracy_ratio", "Latest accuracies of codebook 0.", ["kind"], registry=self.registry
        )
        self._server: Any = None
        if port:
            try:
                self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
            except OSError as error:
                raise MissingDependencyError(
                    f"port {port} for training metrics cannot be had ({error.strerror}): set another CSM_METRICS_PORT"
                ) from None

    def update(self, row: Mapping[str, Any]) -> None:
        """Takes one row of the trainer's metrics."""
        for key, value in row.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if (gauge := self._gauge(key)) is not None:
                gauge.set(value)
        if self._textfile:
            self._textfile.parent.mkdir(parents=True, exist_ok=True)
            write_to_textfile(str(self._textfile), self.registry)

    def push(self) -> None:
        """Pushes them all to the gateway of the settings, where one is set."""
        push_metrics(self.registry, TRAINING_JOB, {})

    def _gauge(self, key: str) -> Gauge | None:
        """The gauge of a key of the trainer's; None for one that has none."""
        if key in self._gauges:
            return self._gauges[key]
        if key.startswith(CODEBOOK):
            return self._codebook.labels(codebook=str(int(key.removeprefix(CODEBOOK))))
        if "accuracy" in key:
            return self._accuracy.labels(kind=key)
        if key.startswith(("loss", "validation_")):
            return self._loss.labels(kind=key)
        return None

    def close(self) -> None:
        """Stops serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
