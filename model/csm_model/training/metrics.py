"""What a training says of itself: figures of the last steps, and the file that they are written to."""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from csm_model.files import measured, write_bytes
from csm_model.training.data import Batch

_log = logging.getLogger(__name__)
_LOSSES = ("loss", "loss_first", "loss_depth", "loss_text", "accuracy_first")


class Meter:
    """Adds up what the steps since the last line did."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 1e-9
        self._losses: list[Sequence[float]] = []
        self._norms: list[float] = []
        self._rows = self._frames = self._padding = 0
        self._flops = 0.0

    def add_losses(self, means: Sequence[float], norm: float) -> None:
        """Of a step that was taken: total, first, depth, text, accuracy, each codebook's; and the gradient norm."""
        self._losses.append(means)
        self._norms.append(norm)

    def add_work(self, batches: Sequence[Batch], flops: float, *, seconds: float) -> None:
        """What one process read and computed in a step."""
        self.steps += 1
        self.seconds += seconds
        self._flops += flops
        for batch in batches:
            self._rows += batch.rows_held
            self._padding += batch.mask.shape[0] * batch.mask.shape[1] - batch.rows_held
            self._frames += len(batch.first.places)

    def work(self) -> list[float]:
        """Rows, target frames, rows of padding and FLOPs of this process."""
        return [float(self._rows), float(self._frames), float(self._padding), self._flops]

    def losses(self) -> dict[str, float]:
        """Means over the steps that were taken; {} where none was."""
        if not self._losses:
            return {}
        means = [sum(values) / len(self._losses) for values in zip(*self._losses, strict=True)]
        figures = dict(zip(_LOSSES, means, strict=False))
        figures |= {f"loss_codebook_{book:02}": value for book, value in enumerate(means[len(_LOSSES) :])}
        return figures | {"gradient_norm": sum(self._norms) / len(self._norms)}

    def peak_memory(self, device: torch.device) -> float:
        """Most bytes that this process has held: of the accelerator where it uses one, else resident memory."""
        if device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(device))
        return peak_resident_memory()


def peak_resident_memory() -> float:
    """Most bytes of memory that this process has held since it began its program.

    What getrusage(2) calls so is, on Linux, at least what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    lines = status.read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) * 1024.0 for line in lines if line.startswith("VmHWM:"))


class MetricsFile:
    """`metrics.jsonl`: one object a line."""

    def __init__(self, path: Path, *, steps: int, writes: bool) -> None:
        self._path, self._steps, self._writes = path, steps, writes

    def write(self, step: int, learning_rate: float, values: Mapping[str, float]) -> None:
        """Adds a line."""
        if not self._writes:
            return
        row = {"step": step, "steps": self._steps, "time": round(time.time(), 2), "learning_rate": learning_rate}
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(measured(row | {name: round(value, 5) for name, value in values.items()})) + "\n")

    def note(self, step: int, text: str) -> None:
        """Says something that is no figure."""
        if self._writes:
            _log.warning("step %d: %s", step, text)

    def forget_after(self, step: int) -> None:
        """Drops the lines that a killed run wrote after its last checkpoint."""
        if not self._writes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:  # the line that the kill cut
                continue
        write_bytes(self._path, "".join(kept).encode())
