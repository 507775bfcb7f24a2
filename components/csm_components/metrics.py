"""Prometheus metrics of training; the only module here that imports prometheus_client.

The trainer writes one JSON object a line to `metrics.jsonl`; whoever follows the file hands its rows to
`TrainingMetrics`, which serves them on a port (`CSM_METRICS_PORT`) and writes them as text for node_exporter.

| metric | meaning |
| --- | --- |
| `csm_training_step`, `csm_training_steps` | optimiser steps done, and to do |
| `csm_training_loss{kind}` | latest losses: `loss`, `loss_first`, `loss_depth`, `validation_first`, ... |
| `csm_training_accuracy{kind}` | latest accuracies of codebook 0: `accuracy_first`, `validation_accuracy` |
| `csm_training_frames_per_second`, `csm_training_learning_rate`, `csm_training_gradient_norm` | as logged |
| `csm_training_last_update_seconds` | time of the latest row, since 1970 |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, Gauge, start_http_server, write_to_textfile

from csm_model.errors import MissingDependencyError

_GAUGES = {
    "step": ("csm_training_step", "Optimiser steps done."),
    "steps": ("csm_training_steps", "Optimiser steps to do."),
    "frames_per_second": ("csm_training_frames_per_second", "Audio frames trained on in a second, all workers."),
    "learning_rate": ("csm_training_learning_rate", "Learning rate."),
    "gradient_norm": ("csm_training_gradient_norm", "Norm of the gradients before clipping."),
    "time": ("csm_training_last_update_seconds", "Time of the latest row, since 1970."),
}


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
        self._accuracy = Gauge("csm_training_accuracy", "Latest accuracies.", ["kind"], registry=self.registry)
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
            if key in self._gauges:
                self._gauges[key].set(value)
            else:
                kind = self._accuracy if "accuracy" in key else self._loss
                kind.labels(kind=key).set(value)
        if self._textfile:
            self._textfile.parent.mkdir(parents=True, exist_ok=True)
            write_to_textfile(str(self._textfile), self.registry)

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
