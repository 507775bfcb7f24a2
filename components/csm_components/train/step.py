"""The step train: fine-tunes a base bundle, or trains one from nothing, on token shards.

The output folder:

| file | what it is |
| --- | --- |
| `result.json` | written last: what was trained, from what, and how it ended |
| `config.json` | the trainer's configuration |
| `metrics.jsonl` | one line a log interval, written by the trainer |
| `checkpoints/` | what a killed run goes on from |
| `final/` | the float bundle |
| `loss.png`, `training.prom` | the curve, and the last Prometheus metrics |
| `logs/` | all that the agents and workers printed |
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from csm_components.metrics import CODEBOOK, TrainingMetrics
from csm_components.settings import load_settings
from csm_components.storage import open_storage
from csm_components.tracking import RunLog, Tracker
from csm_model.errors import CsmError
from csm_model.files import digest_of, read_json, write_json

TRAINER = "csm_components.train.worker"
RESULT = "result.json"
_LOOK_EVERY_SECONDS = 3.0
_PUSH_EVERY_SECONDS = 30.0
_NOT_A_METRIC = {"step", "steps", "time"}


class StoppedError(CsmError):
    """The training was asked to stop: it is saved, and not at its end."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What training made; JSON-able."""

    out: str
    bundle: str
    """Folder of the float bundle."""
    digest: str
    """Digest of that bundle."""
    base_digest: str
    """Digest of the bundle it began from; empty for none."""
    steps: int
    loss: float | None
    """Last training loss."""
    validation_first: float | None
    """Last validation loss of codebook 0, in nats."""
    validation_depth: float | None
    """Last validation loss of the other codebooks, in nats."""
    minutes: float
    """Of training, over all attempts."""
    reused: bool


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The trainer's own settings: model preset, steps, batch, learning rate, ..."""
    nodes: str = "2x1"
    """torchrun agents x workers of each."""
    threads: int = 1
    """Compute threads of a worker."""
    trainer: str = TRAINER
    """Module to run."""


def train(
    tokens: Path | str,
    out: Path,
    *,
    base: Path | None = None,
    settings: TrainSettings | None = None,
    tracker: Tracker | None = None,
    say: Callable[[str], None] = print,
) -> TrainResult:
    """Trains on the shards in `tokens`; a run that was killed goes on from its last checkpoint.

    Args:
        tokens: folder that tokenise wrote, or where it is stored, such as s3://bucket/prefix: shards then come through
            a cache as they are needed (`cache_dir` and `cache_gb` of the recipe; in `out` without a `cache_dir`).
        out: folder for the result.
        base: bundle to begin from.
        settings: how to train.
        tracker: where to record; nowhere without it.
        say: called with lines of progress.

    Raises:
        StoppedError: it was asked to stop, and has saved.
        CsmError: of the trainer, with its own type; `LaunchError` where it died of anything else.
    """
    settings = settings or TrainSettings()
    cache = {"cache_dir": str(out.absolute() / "cache")} if "://" in str(tokens) else {}
    recipe = {**cache, **settings.recipe}
    tokens_manifest, source = _manifest_of(tokens)
    base_digest = read_json(base / "manifest.json")["digest"] if base else ""
    # What is learnt; neither the number of processes nor the places of copies are part of it.
    learnt = {name: value for name, value in recipe.items() if name not in ("mirror", "cache_dir", "cache_gb")}
    inputs = digest_of({"tokens": tokens_manifest["digest"], "base": base_digest, "recipe": learnt})
    if committed := _committed(out, inputs):
        return TrainResult(**{**committed, "out": str(out), "bundle": str(out / "final"), "reused": True})
    _start_afresh_unless(out, inputs)
    config = {
        **recipe,
        "tokens": source,
        "base": str(base.absolute()) if base else None,
        "out": str(out.absolute()),
    }
    if mirror := recipe.get("mirror"):  # a place of its own for each, so that none goes on from another's
        config["mirror"] = f"{mirror.rstrip('/')}/{inputs[:16]}"
    write_json(out / "config.json", config)
    write_json(out / "inputs.json", {"inputs": inputs})
    if tracker is None:
        _run(out, settings, None, say)
    else:
        with tracker.step("train", system_metrics=True) as log:
            log.params({**settings.recipe, "nodes": settings.nodes, "threads": settings.threads, "base": base_digest})
            log.dataset(
                source.split("/")[-2],
                digest=tokens_manifest["dataset_digest"],
                source=source,
                profile={key: value for key, value in tokens_manifest.items() if key.endswith("digest")},
                context="dataset",
            )
            log.tags({key: value for key, value in tokens_manifest.items() if key.endswith("digest")})
            _run(out, settings, log, say)
    if not (out / "final" / "manifest.json").exists():
        step = last_value(read_rows(out / "metrics.jsonl"), "step") or 0
        raise StoppedError(f"training was asked to stop after step {step:.0f} and is saved: run it again to go on")
    result = _result(out, base_digest)
    write_json(out / RESULT, {**asdict(result), "inputs": inputs})
    return result


def _manifest_of(tokens: Path | str) -> tuple[dict[str, Any], str]:
    """The manifest of the tokens, and where the trainer finds them."""
    if "://" not in str(tokens):
        return read_json(Path(tokens) / "manifest.json"), str(Path(tokens).absolute())
    with tempfile.TemporaryDirectory(prefix="csm-") as scratch:
        path = Path(scratch) / "manifest.json"
        open_storage(str(tokens)).get_file("manifest.json", path)
        return read_json(path), str(tokens)


def _run(out: Path, settings: TrainSettings, log: RunLog | None, say: Callable[[str], None]) -> None:
    from csm_components.train.app import LaunchSpec
    from csm_components.train.local import launch

    spec = LaunchSpec(
        module=settings.trainer,
        args=("--config", str((out / "config.json").absolute())),
        nodes=settings.nodes,
        threads=settings.threads,
        log_dir=out / "logs",
    )
    port = load_settings().metrics_port
    with TrainingMetrics(port=port, textfile=out / "training.prom") as metrics:
        follower = MetricsFollower(out / "metrics.jsonl", log=log, metrics=metrics, say=say)
        launch(spec, on_line=say, on_tick=follower.tick)
        follower.tick(last=True)
    rows = read_rows(out / "metrics.jsonl")
    if rows:
        figure = loss_figure(rows)
        figure.savefig(out / "loss.png", dpi=120)
        if log is not None:
            log.figure(figure, "loss.png")
            log.artifact(out / "config.json")


class MetricsFollower:
    """Follows the trainer's `metrics.jsonl` into MLflow, Prometheus and lines of progress.

    A trainer that resumes cuts the file back to its checkpoint, so the whole of it is read each time; what MLflow has
    from an earlier attempt is not sent again.
    """

    def __init__(self, path: Path, *, log: RunLog | None, metrics: TrainingMetrics, say: Callable[[str], None]) -> None:
        self._path, self._log, self._metrics, self._say = path, log, metrics, say
        self._sent: dict[str, int] = {}
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
            self._send(self._log, rows)
        if rows:
            self._say(_progress(rows))

    def _saved(self) -> float:
        """When the newest checkpoint was made; before the first of this attempt, when the attempt began."""
        times = [self._began]
        for folder in (self._path.parent / "checkpoints").glob("step-*"):
            with suppress(FileNotFoundError):  # the oldest are removed meanwhile
                times.append(folder.stat().st_mtime)
        return max(times)

    def _send(self, log: RunLog, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            step = int(row["step"])
            new = {}
            for key, value in row.items():
                if key not in self._sent and key not in _NOT_A_METRIC:
                    self._sent[key] = log.last_step(key)
                if key not in _NOT_A_METRIC and step > self._sent[key]:
                    new[key] = value
                    self._sent[key] = step
            if new:
                log.metrics(new, step=step)


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
    return float((row["time"] - first["time"]) / steps * (row["steps"] - row["step"]))


def training_seconds(rows: list[dict[str, Any]]) -> float:
    """Time between the rows, without the pauses between attempts."""
    gaps = [float(after["time"] - before["time"]) for before, after in pairwise(rows)]
    longest = 30.0 + 20.0 * statistics.median(gaps) if gaps else 0.0
    return sum(gap for gap in gaps if gap <= longest)


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


def _committed(out: Path, inputs: str) -> dict[str, Any] | None:
    """The result of an earlier run over the same inputs, where its bundle is still the same."""
    if not (out / RESULT).exists() or not (out / "final" / "manifest.json").exists():
        return None
    result: dict[str, Any] = read_json(out / RESULT)
    same = (
        result.pop("inputs", None) == inputs
        and read_json(out / "final" / "manifest.json")["digest"] == result["digest"]
    )
    return result if same else None


def _start_afresh_unless(out: Path, inputs: str) -> None:
    """Removes what an earlier run with other inputs left in `out`; its checkpoints would be resumed from."""
    out.mkdir(parents=True, exist_ok=True)
    mark = out / "inputs.json"
    if mark.exists() and read_json(mark)["inputs"] == inputs:
        return
    for name in ("checkpoints", "final"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("metrics.jsonl", RESULT, "inputs.json"):
        (out / name).unlink(missing_ok=True)


def _result(out: Path, base_digest: str) -> TrainResult:
    rows = read_rows(out / "metrics.jsonl")

    return TrainResult(
        out=str(out),
        bundle=str(out / "final"),
        digest=read_json(out / "final" / "manifest.json")["digest"],
        base_digest=base_digest,
        steps=int(last_value(rows, "step") or 0),
        loss=last_value(rows, "loss"),
        validation_first=last_value(rows, "validation_first"),
        validation_depth=last_value(rows, "validation_depth"),
        minutes=training_seconds(rows) / 60,
        reused=False,
    )
