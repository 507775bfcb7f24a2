"""What a run on a cluster will do, before it is submitted: which steps run, which are reused, and why.

A step that ends well is entered in the storage's ledger under its cache key (`csm_components.made`); a step whose key
is there will be reused. What the last submission was made from is kept beside it,
`ledger/submitted/PIPELINE/MODEL.json`, so that a plan can say what has changed since.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from csm_components.made import entered
from csm_components.storage import Storage
from csm_pipelines.keys import StepKey
from csm_pipelines.pipelines import Pipeline
from csm_pipelines.shards import ShardsInStorage

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """What will become of one step."""

    step: str
    key: str
    """Cache key; empty for a step that always runs."""
    reused: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What will become of a run."""

    pipeline: str
    steps: tuple[PlannedStep, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def make_plan(
    pipeline: Pipeline, model: str, keys: Mapping[str, StepKey], storage: Storage, shards: Mapping[str, ShardsInStorage]
) -> RunPlan:
    """Looks every step up in the ledger.

    Args:
        pipeline: which.
        model: the registered model that it is for.
        keys: cache keys by step.
        storage: the cluster's storage.
        shards: how many shards of a fanned-out step are in the storage, by step.
    """
    last = last_submission(storage, pipeline.name, model)
    steps = []
    for spec in pipeline.on_cluster:
        step = spec.step
        if step in keys:
            steps.append(_planned(keys[step], keys, storage, last))
        elif step in shards:
            steps.append(PlannedStep(step=step, key="", reused=shards[step].whole, why=shards[step].words))
        elif spec.role == "shard":
            steps.append(PlannedStep(step=step, key="", reused=False, why="each shard looks for itself in the storage"))
        else:
            why = spec.effects or "its inputs are known only when it runs"
            steps.append(PlannedStep(step=step, key="", reused=False, why=why))
    return RunPlan(pipeline=pipeline.name, steps=tuple(steps))


def remember(storage: Storage, pipeline: str, model: str, keys: Mapping[str, StepKey], run: str) -> None:
    """Keeps what a submission was made from, for the next plan."""
    submission = {
        "run": run,
        "submitted": time.time(),
        "steps": {step: {"key": row.key, "inputs": dict(row.inputs)} for step, row in keys.items()},
    }
    storage.put_json(submission, _submitted(pipeline, model))


def last_submission(storage: Storage, pipeline: str, model: str) -> dict[str, Any] | None:
    """What the last submission for a model was made from; None where there was none."""
    key = _submitted(pipeline, model)
    return storage.get_json(key) if storage.exists(key) else None


def _submitted(pipeline: str, model: str) -> str:
    return f"ledger/submitted/{pipeline}/{model}.json"


def _planned(
    row: StepKey, keys: Mapping[str, StepKey], storage: Storage, last: Mapping[str, Any] | None
) -> PlannedStep:
    record = entered(storage, row.step, row.key)
    if record is not None:
        when = time.strftime("%d %B %Y %H:%M", time.localtime(record.finished)).lstrip("0")
        run = f", run {record.run}" if record.run else ""
        took = f", took {_duration(record.seconds)}"
        return PlannedStep(step=row.step, key=row.key, reused=True, why=f"made on {when}{run}{took}")
    return PlannedStep(step=row.step, key=row.key, reused=False, why=_why(row, keys, last))


def _why(row: StepKey, keys: Mapping[str, StepKey], last: Mapping[str, Any] | None) -> str:
    if last is None or row.step not in last["steps"]:
        return "never submitted before"
    known = last["steps"]
    if known[row.step]["key"] == row.key:
        return "submitted before, and has not ended well since"
    if changed := differences(known[row.step]["inputs"], row.inputs):
        return "changed: " + "; ".join(changed[:_SHOWN]) + (f"; {len(changed) - _SHOWN} more" * (len(changed) > _SHOWN))
    before = [step for step in row.upstream if known.get(step, {}).get("key") != keys[step].key]
    return f"{', '.join(before)} will be other than before"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the inputs of two submissions, `name old → new`."""
    names = [*now, *(name for name in before if name not in now)]
    return [
        f"{name} {_short(before.get(name))} → {_short(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text[:12]
    head, at, digest = text.partition("@sha256:")
    return f"{head}@{digest[:12]}" if at else text


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show(console: Console, plan: RunPlan) -> None:
    """Prints a plan as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("step", "key", "", "why"):
        table.add_column(title, overflow="fold")
    for row in plan.steps:
        style = "blue" if row.reused else "bold cyan"
        state = "reused" if row.reused else "will run"
        why = row.why.replace("[", r"\[")
        table.add_row(f"[{style}]{row.step}", row.key[:12], f"[{style}]{state}", f"[dim]{why}")
    console.print(table)
    keyed = [row for row in plan.steps if row.key]
    runs = sum(not row.reused for row in keyed)
    console.print(f"{runs} of {len(keyed)} steps that can be reused will run", highlight=False)
