"""Training metrics as Prometheus reads them."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest

from csm_components.metrics import TrainingMetrics
from csm_model.errors import MissingDependencyError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_latest_line_is_served_and_written(tmp_path: Path) -> None:
    port = free_port()
    with TrainingMetrics(port=port, textfile=tmp_path / "m" / "training.prom") as metrics:
        metrics.update({"step": 10, "loss": 3.0, "frames_per_second": 150.0})
        metrics.update({"step": 30, "loss": 2.5})
        metrics.update({"step": 30, "validation_first": 2.75, "validation_accuracy": 0.5})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    for line in (
        "csm_training_step 30.0",
        'csm_training_loss{kind="loss"} 2.5',
        'csm_training_loss{kind="validation_first"} 2.75',
        'csm_training_accuracy{kind="validation_accuracy"} 0.5',
        "csm_training_frames_per_second 150.0",
    ):
        assert line in text
        assert line in (tmp_path / "m" / "training.prom").read_text()


def test_a_port_in_use_is_one_clear_line() -> None:
    with TrainingMetrics(port=(port := free_port())), pytest.raises(MissingDependencyError, match=f"port {port}"):
        TrainingMetrics(port=port)
