"""The step train: fine-tunes a base bundle, or trains one from nothing, on token shards.

The output folder:

| file | what it is |
| --- | --- |
| `made.json` | written last: what was trained, from what, and how it ended |
| `result.json` | the trainer's own: the bundle's digest, and its step |
| `config.json` | the trainer's configuration |
| `metrics.jsonl` | one line a log interval, written by the trainer |
| `checkpoints/` | what a killed run goes on from |
| `final/` | the float bundle, with a copy of the metrics |
| `loss.png`, `training.prom` | the curve, and the last Prometheus metrics |
| `logs/` | all that the agents and workers printed |
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_components import made
from csm_components.ingest.rights import refuse_expired
from csm_components.metrics import TrainingMetrics
from csm_components.settings import load_settings
from csm_components.storage import open_storage
from csm_components.targets import TrainTarget
from csm_components.tracking import RunLog, Tracker
from csm_components.train.knobs import TrainSettings
from csm_components.train.progress import (
    METRICS,
    MetricsFollower,
    last_value,
    loss_figure,
    read_rows,
    training_seconds,
)
from csm_components.train.remote import job_name
from csm_model.errors import CsmError
from csm_model.files import copy_file, digest_of, known_json, read_json, write_json

if TYPE_CHECKING:
    from csm_components.train.elsewhere import Elsewhere

TRAINER = "csm_components.train.worker"
INPUTS = "inputs.json"
"""Beside checkpoints: what they were made of."""


class StoppedError(CsmError):
    """The training was asked to stop: it is saved, and not at its end."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What training made; JSON-able."""

    out: str
    bundle: str
    """Folder of the float bundle, or its address in the storage."""
    digest: str
    """Digest of that bundle."""
    base_digest: str
    """Digest of the bundle it began from; empty for none."""
    replay_digest: str = ""
    """Digest of the tokens that were replayed; empty for none."""
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


def train(
    tokens: Path | str,
    out: Path,
    *,
    base: Path | str | None = None,
    replay: Path | str | None = None,
    settings: TrainSettings | None = None,
    target: TrainTarget | None = None,
    trainer: str = TRAINER,
    tracker: Tracker | None = None,
    pipeline: str = "",
    say: Callable[[str], None] = print,
) -> TrainResult:
    """Trains on the shards in `tokens`; a run that was killed goes on from its last checkpoint.

    Args:
        tokens: folder that tokenise wrote, or where it is stored, such as s3://bucket/prefix: shards then come through
            a cache as they are needed (`cache_dir` and `cache_gb` of the recipe; in `out` without a `cache_dir`).
        out: folder for the result.
        base: bundle to begin from: a folder, or its address where a cluster's job is to fetch it.
        replay: further shards that are learnt beside `tokens`, in a folder or stored.
        settings: how to train.
        target: where its processes run; beside this one without it.
        trainer: module to run.
        tracker: where to record; nowhere without it.
        pipeline: name of the pipeline run on a cluster: each has a job of its own there.
        say: called with lines of progress.

    Raises:
        InputError: something that is to be learnt from has expired.
        StoppedError: it was asked to stop, and has saved.
        CsmError: of the trainer, with its own type; `LaunchError` where it died of anything else.
    """
    settings, target = settings or TrainSettings(), target or TrainTarget()
    stored = "://" in f"{tokens}{replay}"
    cache = {"cache_dir": str(out.absolute() / "cache")} if stored else {}
    recipe = {**cache, **settings.recipe}
    tokens_manifest = _manifest_of(tokens)
    source, begin, again = _absolute(tokens), base and _absolute(base), replay and _absolute(replay)
    base_digest, replay_digest = (str(_manifest_of(place)["digest"]) if place else "" for place in (base, replay))
    # What is learnt; neither the number of processes nor the places of copies are part of it.
    learnt = {name: value for name, value in recipe.items() if name not in ("mirror", "cache_dir", "cache_gb")}
    made_of = {"tokens": tokens_manifest["digest"], "base": base_digest, "recipe": learnt}
    inputs = digest_of(made_of | ({"replay": replay_digest} if replay else {}))
    if (known := _known(out, inputs)) is not None:
        if known_json(out / INPUTS) is None:
            write_json(out / INPUTS, {"inputs": inputs})
        return known
    for place in (tokens, replay):
        if place:
            refuse_expired(_manifest_of(place))
    _start_afresh_unless(out, inputs)
    if not (out / METRICS).exists() and (out / "final" / METRICS).exists():
        copy_file(out / "final" / METRICS, out / METRICS)  # the trainer writes only what it does from now on
    config = {
        **recipe,
        "tokens": source,
        "base": begin,
        "replay": again,
        "out": str(out.absolute()),
    }
    if mirror := recipe.get("mirror"):  # a place of its own for each, so that none goes on from another's
        config["mirror"] = f"{mirror.rstrip('/')}/{inputs[:16]}"
    write_json(out / "config.json", config)
    write_json(out / INPUTS, {"inputs": inputs})
    job = _TrainingProcesses(
        out=out, settings=settings, trainer=trainer, tokens=source, base=begin, replay=again, say=say
    )
    if target.backend != "local":
        from csm_components.train.elsewhere import Elsewhere

        job.elsewhere = Elsewhere(target, job_name(pipeline, "train", inputs), out)
    params = {**settings.recipe, "nodes": settings.nodes, "threads": settings.threads, "base": base_digest}
    params |= {"replay": replay_digest} if replay else {}
    with _recorded(tracker, params, tokens_manifest, source, system_metrics=job.elsewhere is None) as log:
        job.run(log)
    result = _result(out, base_digest, replay_digest, job.elsewhere.trained if job.elsewhere else "")
    made.commit(out, "train", inputs, result)
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


def _absolute(place: Path | str) -> str:
    """A folder with its whole path, or an address as it is."""
    return str(place) if "://" in str(place) else str(Path(place).absolute())


def _manifest_of(place: Path | str) -> dict[str, Any]:
    """The manifest of tokens or of a bundle, in a folder or in a storage."""
    stored = "://" in str(place)
    found: dict[str, Any] = (
        open_storage(str(place)).get_json("manifest.json") if stored else read_json(Path(place) / "manifest.json")
    )
    return found


@dataclass(kw_only=True)
class _TrainingProcesses:
    """The processes of one training, here or elsewhere."""

    out: Path
    settings: TrainSettings
    trainer: str
    tokens: str
    """Where they are, as the bundle to begin from and the tokens that are replayed."""
    base: str | Path | None
    replay: str | Path | None
    say: Callable[[str], None]
    elsewhere: Elsewhere | None = None

    def run(self, log: RunLog | None) -> None:
        """Trains to the end, or until it is asked to stop; what is seen of it goes to `log` as it comes."""
        out = self.out
        with TrainingMetrics(port=load_settings().metrics_port, textfile=out / "training.prom") as metrics:
            saved = self.elsewhere.saved if self.elsewhere else None
            follower = MetricsFollower(out / METRICS, log=log, metrics=metrics, say=self.say, saved=saved)
            self._launch(log, follower)
            follower.tick(last=True)
        rows = read_rows(out / METRICS)
        if (out / "final").is_dir() and rows:
            copy_file(out / METRICS, out / "final" / METRICS)  # the curve travels with the bundle
        if rows:
            loss_figure(rows).savefig(out / "loss.png", dpi=120)
            if log is not None:
                log.artifact(out / "loss.png")
                log.artifact(out / "config.json")

    def _launch(self, log: RunLog | None, follower: MetricsFollower) -> None:
        from csm_components.train.app import LaunchSpec
        from csm_components.train.local import launch

        spec = LaunchSpec(
            module=self.trainer,
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
            replay=self.replay,
            run_id=log.run_id if log else "",
            say=self.say,
            on_tick=follower.tick,
        )


def _known(out: Path, inputs: str) -> TrainResult | None:
    """The result of an earlier run over the same inputs, where its bundle is still the same."""
    known = made.committed(out, inputs)
    if known is None:
        return None
    if "://" not in known["bundle"]:
        known["bundle"] = str(out / "final")
        manifest = known_json(out / "final" / "manifest.json")
        if manifest is None or manifest["digest"] != known["digest"]:
            return None
    return TrainResult(**known)


def _start_afresh_unless(out: Path, inputs: str) -> None:
    """Removes what an earlier run with other inputs left in `out`; its checkpoints would be resumed from."""
    out.mkdir(parents=True, exist_ok=True)
    if (mark := known_json(out / INPUTS)) is not None and mark["inputs"] == inputs:
        return
    for name in ("checkpoints", "final"):
        shutil.rmtree(out / name, ignore_errors=True)
    made.forget(out)
    for name in (METRICS, "result.json", INPUTS):
        (out / name).unlink(missing_ok=True)


def _result(out: Path, base_digest: str, replay_digest: str, trained: str) -> TrainResult:
    """What the job left, here or at the address `trained`; raises `StoppedError` where it has not come to its end."""
    rows = read_rows(out / METRICS)
    if not trained and not (out / "final" / "manifest.json").exists():
        step = last_value(rows, "step") or 0
        raise StoppedError(f"training was asked to stop after step {step:.0f} and is saved: run it again to go on")
    return TrainResult(
        out=str(out),
        bundle=trained or str(out / "final"),
        digest=trained.rpartition("/")[2] or read_json(out / "final" / "manifest.json")["digest"],
        base_digest=base_digest,
        replay_digest=replay_digest,
        steps=int(last_value(rows, "step") or 0),
        loss=last_value(rows, "loss"),
        validation_first=last_value(rows, "validation_first"),
        validation_depth=last_value(rows, "validation_depth"),
        minutes=training_seconds(rows) / 60,
        reused=False,
    )
