"""What a training's `metrics.jsonl` says: rows on to MLflow and Prometheus, lines of progress, and the curve."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from csm_components.metrics import CODEBOOK, TrainingMetrics
from csm_components.tracking import RunLog

METRICS = "metrics.jsonl"
"""What the trainer logs: a line an interval."""
_LOOK_EVERY_SECONDS = 3.0
_PUSH_EVERY_SECONDS = 30.0
_NOT_A_METRIC = {"step", "steps", "time"}


class MetricsFollower:
    """Follows the trainer's `metrics.jsonl` into MLflow, Prometheus and lines of progress.

    A trainer that resumes cuts the file back to its checkpoint, so the whole of it is read each time; what MLflow has
    from an earlier attempt is not recorded again.

    Args:
        path: the file.
        log: the MLflow run.
        metrics: the gauges.
        say: called with lines of progress.
        saved: when the newest checkpoint was made, since 1970; without it, those beside the file say so.
    """

    def __init__(
        self,
        path: Path,
        *,
        log: RunLog | None,
        metrics: TrainingMetrics,
        say: Callable[[str], None],
        saved: Callable[[], float] | None = None,
    ) -> None:
        self._path, self._metrics, self._say = path, metrics, say
        self._log = log
        self._recorded: dict[str, int] = {}
        self._saved = saved or self._saved_here
        self._seen = (0, 0)
        self._began = time.time()
        self._looked = self._pushed = 0.0

    def tick(self, *, last: bool = False) -> None:
        """Takes what is new, every few seconds, and pushes it on less often."""
        now = time.monotonic()
        if not last and now - self._looked < _LOOK_EVERY_SECONDS:
            return
        self._looked = now
        self._take()
        if self._seen != (0, 0) and (last or now - self._pushed >= _PUSH_EVERY_SECONDS):
            self._pushed = now
            self._metrics.push()

    def _take(self) -> None:
        if not self._path.exists():
            return
        stat = self._path.stat()
        if (stat.st_mtime_ns, stat.st_size) == self._seen:
            return
        self._seen = (stat.st_mtime_ns, stat.st_size)
        rows = read_rows(self._path)
        for row in rows[-2:]:
            self._metrics.update(row)
        self._metrics.update({"saved": self._saved()})
        if self._log is not None:
            self._log.rows(list(self._new(rows)))
        if rows:
            self._say(_progress(rows))

    def _new(self, rows: list[dict[str, Any]]) -> Iterator[tuple[int, float, dict[str, Any]]]:
        """Step, time and figures of the rows, of each figure from the first step on that is not recorded yet."""
        for row in rows:
            step = int(row["step"])
            new = {key: row[key] for key in row if key not in _NOT_A_METRIC and step > self._recorded.get(key, -1)}
            if new:
                self._recorded |= dict.fromkeys(new, step)
                yield step, float(row.get("time", time.time())), new

    def _saved_here(self) -> float:
        """When the newest checkpoint was made; before the first of this attempt, when the attempt began."""
        times = [self._began]
        for folder in (self._path.parent / "checkpoints").glob("step-*"):
            with suppress(FileNotFoundError):  # the oldest are removed meanwhile
                times.append(folder.stat().st_mtime)
        return max(times)


def _progress(rows: list[dict[str, Any]]) -> str:
    row = rows[-1]
    shown = [
        f"{key.replace('_', ' ')} {value:.3f}"
        for key in ("loss", "validation_first")
        if (value := last_value(rows, key)) is not None
    ]
    if speed := last_value(rows, "rows_per_second"):
        shown.append(f"{speed:,.0f} rows/s")
    if skipped := last_value(rows, "skipped_steps"):
        shown.append(f"{skipped:.0f} skipped")
    if left := _seconds_left(rows):
        shown.append(f"{left / 60:.1f} min left")
    return "  ".join([f"step {row['step']}/{row.get('steps', '?')}", *shown])


def _seconds_left(rows: list[dict[str, Any]]) -> float:
    """What the rest will take at the speed of the last rows; 0 where that is not known."""
    first, row = rows[max(0, len(rows) - 20)], rows[-1]
    steps = row["step"] - first["step"]
    if steps <= 0 or "steps" not in row:
        return 0.0
    took = max(0.0, float(row["time"] - first["time"]))  # a clock may be set back
    return float(took / steps * max(0, row["steps"] - row["step"]))


def training_seconds(rows: list[dict[str, Any]]) -> float:
    """Time between the rows, without the pauses between attempts and where the clock was set back."""
    gaps = [float(after["time"] - before["time"]) for before, after in pairwise(rows)]
    longest = 30.0 + 20.0 * max(0.0, statistics.median(gaps)) if gaps else 0.0
    return sum(gap for gap in gaps if 0 <= gap <= longest)  # a clock that was set back has not given time back


def last_value(rows: list[dict[str, Any]], key: str) -> float | None:
    """The latest value of a metric; None where it was never logged."""
    return next((float(row[key]) for row in reversed(rows) if isinstance(row.get(key), int | float)), None)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def loss_figure(rows: list[dict[str, Any]]) -> Any:
    """The losses over the steps, and beside them each codebook's own at the end (a matplotlib figure)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=[2, 1])
    keys = sorted({key for row in rows for key in row})
    for key in keys:
        if not key.startswith(("loss", "validation_")) or key.startswith(CODEBOOK) or "accuracy" in key:
            continue
        points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
        if any(value for _, value in points):  # a loss without weight is 0 throughout
            curves.plot(*zip(*points, strict=True), label=key.replace("_", " "), linewidth=1.5)
    curves.set(xlabel="step", ylabel="loss (nats)")
    curves.grid(alpha=0.3)
    curves.legend()
    books = {int(key.removeprefix(CODEBOOK)): last_value(rows, key) for key in keys if key.startswith(CODEBOOK)}
    bars.bar(list(books), [value or 0.0 for value in books.values()])
    bars.set(xlabel="codebook", ylabel="last loss (nats)")
    bars.grid(alpha=0.3, axis="y")
    return figure
