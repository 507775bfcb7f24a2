"""What a training loses when the MLflow server it is recorded in is killed in its middle and started again.

    OMP_PROC_BIND=true python benchmarks/mlflow_outage.py [--steps 1500] [--rounds 6]

The server is a real one on this machine, with sqlite behind it; trainings of the debug model on one thread. Sides, in
turn, on equal work:

- undisturbed: the server answers all the time; another, which nobody asks, is started where the disturbed side's is;
- disturbed: it is killed after a quarter of the steps, and started again after half of them.

Measured are the sum of the steps' seconds, by the trainer's clock, and the processor time of the trainer and of the
step that follows it; ratios of neighbouring rounds, their median, and its 95 % interval (bootstrap). Each training's
points are then compared with what MLflow has of it: all of them, each once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from csm_components.tracking import Tracker
from csm_components.train.knobs import TrainSettings
from csm_components.train.progress import METRICS, read_rows
from csm_components.train.step import train
from csm_model.codec import RvqCodec, RvqConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from mlflow_server import MlflowServer, mlflow_server
from small_tokens import write_tokens

LOG_EVERY = 5
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Took:
    """What a training took."""

    steps: float
    """Sum of its steps, seconds."""
    cpu: float
    """Processor time of the trainer and its step, seconds."""


def recipe_of(steps: int) -> dict[str, object]:
    """Of the training."""
    return {
        "model": "debug", "steps": steps, "row_length": 256, "batch_packs": 2, "warmup_steps": 1,
        "log_every": LOG_EVERY, "validate_every": steps, "checkpoint_every": steps,
    }  # fmt: skip


def train_here(tokens: Path, run: Path, steps: int) -> None:
    """One training, recorded as the step of a run; prints the processor time of this process and its children."""
    settings = TrainSettings(recipe=recipe_of(steps), nodes="1x1", threads=1)
    train(tokens, run / "train", settings=settings, tracker=Tracker(folder=run), say=lambda line: None)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps(sum(each.ru_utime + each.ru_stime for each in used)))


def trained(tokens: Path, run: Path, steps: int, uri: str, at: Sequence[tuple[float, Callable[[], None]]]) -> Took:
    """One training in a process of its own; `at` is what is done after which share of its steps."""
    command = [sys.executable, __file__, "--one", str(run), "--tokens", str(tokens), "--steps", str(steps)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
    left = list(at)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        while process.poll() is None:
            rows = read_rows(run / "train" / METRICS)
            while left and rows and rows[-1]["step"] >= left[0][0] * steps:
                left.pop(0)[1]()
            time.sleep(_LOOK_SECONDS)
        assert process.stdout is not None
        said = process.stdout.read()
    for _, action in left:  # it was over before they were due
        action()
    if process.returncode:
        raise SystemExit(f"a training ended with {process.returncode}")
    seconds = sum(
        row["step_seconds"] * LOG_EVERY for row in read_rows(run / "train" / METRICS) if "step_seconds" in row
    )
    return Took(steps=seconds, cpu=json.loads(said))


def recorded(run: Path, uri: str) -> tuple[int, int, bool]:
    """Points of the training, how many of them MLflow has exactly once, and whether some had to be sent at the end."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    tracker = Tracker(folder=run)
    late = tracker.outbox.path.exists()
    tracker.flush()
    (found,) = tracker.client.search_runs(
        [tracker.experiment_id], f"tags.`csm.step` = 'train' and tags.`csm.run` = '{run.name}'"
    )
    rows = read_rows(run / "train" / METRICS)
    names = {name for row in rows for name in row} - {"step", "steps", "time"}
    asked = there = 0
    for name in sorted(names):
        points = [(point.step, point.value) for point in tracker.client.get_metric_history(found.info.run_id, name)]
        wanted = [(int(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]
        asked += len(wanted)
        there += sum(points.count(point) == 1 for point in wanted) if len(points) <= len(wanted) else 0
    return asked, there, late


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median, by drawing the rounds again."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(4000))
    return medians[100], medians[-101]


def compare(home: Path, *, steps: int, rounds: int) -> bool:
    """Prints a line a training, and the ratios; whether all points were there."""
    RvqCodec(RvqConfig.debug()).save(home / "codec")
    tokens = home / "tokens"
    tokens.mkdir()
    write_tokens(tokens, home / "codec")
    (home / "server").mkdir()
    took: dict[str, list[Took]] = {"undisturbed": [], "disturbed": []}
    whole = True
    with mlflow_server(home / "server") as server:
        for number in range(rounds):
            for side in sorted(took, reverse=bool(number % 2)):
                other = MlflowServer(home=home / f"other-{number}-{side}", artefacts=str(home / "other"))
                other.home.mkdir()
                started = other if side == "undisturbed" else server
                plan = [(0.5, started.start)] if side == "undisturbed" else [(0.25, server.kill), (0.5, server.start)]
                run = home / "runs" / f"{side}-{number}"
                run.mkdir(parents=True)
                took[side].append(trained(tokens, run, steps, server.address, plan))
                started.wait()
                other.kill()
                asked, there, late = recorded(run, server.address)
                whole = whole and asked == there
                print(
                    f"{side} {number}: steps {took[side][-1].steps:.2f} s, processor {took[side][-1].cpu:.2f} s, "
                    f"{there} of {asked} points{', the last sent after it' if late else ''}",
                    flush=True,
                )
    for name in ("steps", "cpu"):
        pairs = zip(took["disturbed"], took["undisturbed"], strict=True)
        ratios = [getattr(one, name) / getattr(other, name) for one, other in pairs]
        low, high = interval(ratios)
        print(f"{name}: disturbed / undisturbed {statistics.median(ratios):.4f} (95 %: {low:.4f} to {high:.4f})")
    return whole


def main() -> None:
    """Compares; exit status 1 where a point is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        train_here(options.tokens, options.one, options.steps)
        return
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # OMP_PROC_BIND has bound this process, and so its children
    with tempfile.TemporaryDirectory() as home:
        whole = compare(Path(home), steps=options.steps, rounds=options.rounds)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
