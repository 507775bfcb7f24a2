"""Training metrics as Prometheus reads them."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from ports import free_port

from csm_components.metrics import TrainingMetrics
from csm_model.errors import MissingDependencyError


def test_the_latest_line_is_served_and_written(tmp_path: Path) -> None:
    port = free_port()
    with TrainingMetrics(port=port, textfile=tmp_path / "m" / "training.prom") as metrics:
        metrics.update({"step": 10, "loss": 3.0, "frames_per_second": 150.0})
        metrics.update({"step": 30, "loss": 2.5})
        metrics.update({"step": 30, "validation_first": 2.75, "validation_accuracy": 0.5})
        metrics.update({"padding": 0.01, "memory_bytes": 2e9, "flops_per_second": 3e12, "mfu": 0.4, "time": 5})
        metrics.update({"step_seconds": 0.25, "rows_per_second": 900, "skipped_steps": 2, "loss_codebook_07": 4.5})
        metrics.update({"never_heard_of": 1.0})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    for line in (
        "csm_training_step 30.0",
        'csm_training_loss{kind="loss"} 2.5',
        'csm_training_loss{kind="validation_first"} 2.75',
        'csm_training_accuracy_ratio{kind="validation_accuracy"} 0.5',
        'csm_training_codebook_loss{codebook="7"} 4.5',
        "csm_training_padding_ratio 0.01",
        "csm_training_memory_bytes 2e+09",
        "csm_training_flops_per_second 3e+12",
        "csm_training_model_flops_utilization_ratio 0.4",
        "csm_training_step_duration_seconds 0.25",
        "csm_training_rows_per_second 900.0",
        "csm_training_skipped_steps 2.0",
        "csm_training_last_update_timestamp_seconds 5.0",
        "csm_training_frames_per_second 150.0",
    ):
        assert line in text
        assert line in (tmp_path / "m" / "training.prom").read_text()
    assert "never_heard_of" not in text
    losses = {line.partition("{")[2] for line in text.splitlines() if line.startswith("csm_training_loss{")}
    assert losses == {'kind="loss"} 2.5', 'kind="validation_first"} 2.75'}


def test_a_port_in_use_is_one_clear_line() -> None:
    with TrainingMetrics(port=(port := free_port())), pytest.raises(MissingDependencyError, match=f"port {port}"):
        TrainingMetrics(port=port)
