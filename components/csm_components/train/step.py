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

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_components.metrics import TrainingMetrics
from csm_components.settings import load_settings
from csm_components.storage import open_storage
from csm_components.targets import TrainTarget
from csm_components.tracking import RunLog, Tracker
from csm_components.train.kept import kept_training
from csm_components.train.progress import MetricsFollower, last_value, loss_figure, read_rows, training_seconds
from csm_components.train.remote import job_name
from csm_model.errors import CsmError
from csm_model.files import digest_of, read_json, write_json

if TYPE_CHECKING:
    from csm_components.train.elsewhere import Elsewhere

TRAINER = "csm_components.train.worker"
RESULT = "result.json"


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
    target: TrainTarget = field(default_factory=TrainTarget)
    """Where its processes run."""


def train(
    tokens: Path | str,
    out: Path,
    *,
    base: Path | None = None,
    settings: TrainSettings | None = None,
    tracker: Tracker | None = None,
    pipeline: str = "",
    code_version: str = "",
    say: Callable[[str], None] = print,
) -> TrainResult:
    """Trains on the shards in `tokens`; a run that was killed goes on from its last checkpoint.

    On a cluster without a cache key, a bundle that another run has kept of the same inputs is taken instead.

    Args:
        tokens: folder that tokenise wrote, or where it is stored, such as s3://bucket/prefix: shards then come through
            a cache as they are needed (`cache_dir` and `cache_gb` of the recipe; in `out` without a `cache_dir`).
        out: folder for the result.
        base: bundle to begin from.
        settings: how to train.
        tracker: where to record; nowhere without it.
        pipeline: name of the pipeline run on a cluster: each has a job of its own there.
        code_version: of the program; a bundle that another version made is not taken.
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
    job = _TrainingProcesses(out=out, settings=settings, tokens=(source, tokens_manifest["digest"]), base=base, say=say)
    if settings.target.backend != "local":
        from csm_components.train.elsewhere import Elsewhere

        job.elsewhere = Elsewhere(settings.target, job_name(pipeline, "train", inputs), out)
    params = {**settings.recipe, "nodes": settings.nodes, "threads": settings.threads, "base": base_digest}
    recorded = partial(_recorded, tracker, params, tokens_manifest, source)
    kept = kept_training(inputs, code_version) if pipeline else None
    if kept and (note := kept.fetch(out)):
        say(f"run {note['run']} has trained this, and its bundle is kept: nothing is trained")
        result = TrainResult(**{**note["result"], "out": str(out), "bundle": str(out / "final"), "reused": True})
        with recorded(system_metrics=False) as log:
            if log is not None:
                log.tags({"trained_by": note["run"]})
                log.metrics({name: getattr(result, name) for name in ("loss", "validation_first", "validation_depth")})
    else:
        with recorded(system_metrics=job.elsewhere is None) as log:
            job.run(log)
        result = _result(out, base_digest)
        if kept:
            kept.note(asdict(result), pipeline)
    write_json(out / RESULT, {**asdict(result), "inputs": inputs})
    return result


@contextmanager
def _recorded(
    tracker: Tracker | None, params: Mapping[str, Any], tokens: Mapping[str, Any], source: str, *, system_metrics: bool
) -> Iterator[RunLog | None]:
    """The step's run in MLflow, with what goes into it; None where nothing is recorded."""
    if tracker is None:
        yield None
        return
    digests = {key: value for key, value in tokens.items() if key.endswith("digest")}
    with tracker.step("train", system_metrics=system_metrics) as log:
        log.params(params)
        log.dataset(
            source.split("/")[-2],
            digest=tokens["dataset_digest"],
            source=source,
            profile=digests,
            context="dataset",
        )
        log.tags(digests)
        yield log


def _manifest_of(tokens: Path | str) -> tuple[dict[str, Any], str]:
    """The manifest of the tokens, and where the trainer finds them."""
    if "://" not in str(tokens):
        return read_json(Path(tokens) / "manifest.json"), str(Path(tokens).absolute())
    return open_storage(str(tokens)).get_json("manifest.json"), str(tokens)


@dataclass(kw_only=True)
class _TrainingProcesses:
    """The processes of one training, here or elsewhere."""

    out: Path
    settings: TrainSettings
    tokens: tuple[str, str]
    """Where they are, and their digest."""
    base: Path | None
    say: Callable[[str], None]
    elsewhere: Elsewhere | None = None

    def run(self, log: RunLog | None) -> None:
        """Trains to the end, or until it is asked to stop; what is seen of it goes to `log` as it comes."""
        out = self.out
        with TrainingMetrics(port=load_settings().metrics_port, textfile=out / "training.prom") as metrics:
            saved = self.elsewhere.saved if self.elsewhere else None
            follower = MetricsFollower(out / "metrics.jsonl", log=log, metrics=metrics, say=self.say, saved=saved)
            self._launch(log, follower)
            follower.tick(last=True)
        rows = read_rows(out / "metrics.jsonl")
        if rows:
            figure = loss_figure(rows)
            figure.savefig(out / "loss.png", dpi=120)
            if log is not None:
                log.figure(figure, "loss.png")
                log.artifact(out / "config.json")

    def _launch(self, log: RunLog | None, follower: MetricsFollower) -> None:
        from csm_components.train.app import LaunchSpec
        from csm_components.train.local import launch

        spec = LaunchSpec(
            module=self.settings.trainer,
            args=("--config", str((self.out / "config.json").absolute())),
            nodes=self.settings.nodes,
            threads=self.settings.threads,
            log_dir=self.out / "logs",
        )
        if self.elsewhere is None:
            launch(spec, on_line=self.say, on_tick=follower.tick)
            return
        self.elsewhere.run(
            spec,
            recipe=self.settings.recipe,
            tokens=self.tokens,
            base=self.base,
            run_id=log.run_id if log else "",
            say=self.say,
            on_tick=follower.tick,
        )


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
    """What the job left; raises `StoppedError` where it has not come to its end."""
    rows = read_rows(out / "metrics.jsonl")
    if not (out / "final" / "manifest.json").exists():
        step = last_value(rows, "step") or 0
        raise StoppedError(f"training was asked to stop after step {step:.0f} and is saved: run it again to go on")
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
