"""What every step does around its own work: timed, noted down, recorded in MLflow, its figures pushed to Prometheus.

A run on this machine has a folder, with one record a step (`csm_components.made`), `steps/NAME.json`: the summary of a
run is made from these alone. A reused step keeps the seconds that its work once took.

On a cluster there is no such folder. What a step makes goes into the storage, and its record into the ledger there:
under the key of what it has read, and under the one that Kubeflow's cache has for it (`CSM_CACHE_KEY`). A step that
finds its record does no work.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_components.artefacts import Artefact
from csm_components.ingest.rights import is_over
from csm_components.job import StepJob
from csm_components.lifeline import sole_user
from csm_components.made import Record, enter, entered, note, noted
from csm_components.metrics import push_failure, push_success
from csm_components.program import code_digest, torch_version
from csm_components.settings import load_settings
from csm_components.storage import Storage, open_storage
from csm_components.tree_list import tree_of
from csm_model.files import digest_of, sweep

if TYPE_CHECKING:
    from csm_components.tracking import RunLog

_ORPHAN_SECONDS = 60.0


def note_path(work: Path, step: str) -> Path:
    """The file in which a step of the run in `work` is noted down."""
    return work / "steps" / f"{step}.json"


def perform(job: StepJob) -> Record:
    """Does a step, whatever it takes around its work; the record of it, with the addresses of what it made."""
    spec = job.spec
    if spec.role == "exit":
        return Record(step=spec.step, result=asdict(spec.work(job)))
    try:
        record = _in_folder(job, job.work) if job.work else _on_cluster(job)
    except Exception:
        push_failure(spec.step)
        raise
    push_success(spec.step, record.seconds, record.result)
    return record


def _in_folder(job: StepJob, folder: Path) -> Record:
    """Does a step of the run in `folder`, which has the folder for itself."""
    with sole_user(folder, name=".step.lock", wait_seconds=_ORPHAN_SECONDS):
        for output in job.spec.outputs:
            sweep(job.out(output.name))
        began = time.monotonic()
        values = asdict(job.spec.work(job))
        seconds = time.monotonic() - began
        path = note_path(folder, job.spec.step)
        before = noted(path)
        if before is not None and values["reused"]:
            seconds = before.seconds
        elif job.spec.records:
            tracker = job.tracker()
            assert tracker is not None
            with tracker.step(job.spec.step) as log:
                _record(log, job, values, seconds, name=folder.name, source=str(values.get("out", "")))
        record = Record(step=job.spec.step, result=values, seconds=seconds)
        note(path, record)
    return record


def _on_cluster(job: StepJob) -> Record:
    """Does a step in a pod of its own, if nobody has done it; its MLflow run is open while it works."""
    settings = load_settings()
    storage = open_storage() if settings.storage else None
    key = content_key(job) if storage is not None and job.spec.cacheable else ""
    known = entered(storage, job.spec.step, key) if storage is not None and key else None
    if known is not None and (not _there(known) or is_over(known.result.get("expires"))):
        known = None
    tracker = job.tracker() if job.spec.records or known else None
    name = f"{job.spec.step}-{job.shard}" if job.shard else job.spec.step
    with tracker.step(name) if tracker else nullcontext() as log:
        if known is not None:
            record = replace(known.reused(), run=job.run)
            job.say(f"run {known.run} has made this of the same inputs: nothing is done")
            if log is not None:
                log.tags({"made_by": known.run})
        else:
            record = _worked(job, key, storage, settings.storage)
        if log is not None:
            source = next((row["url"] for row in record.artefacts.values()), "")
            _record(log, job, record.result, record.seconds, name=settings.model or settings.experiment, source=source)
            for path in (job.out(job.spec.outputs[0].name) / file for file in job.spec.keep):
                if path.exists():
                    log.artifact(path)
    if storage is not None:
        for each in {key, settings.cache_key} - {""}:
            enter(storage, replace(known or record, key=each))
    return record


def _worked(job: StepJob, key: str, storage: Storage | None, url: str) -> Record:
    """Does the work, and stores what it made."""
    began = time.monotonic()
    values = asdict(job.spec.work(job))
    made = {} if storage is None else store(job, values, storage, url)
    return Record(
        step=job.spec.step,
        key=key,
        result=values,
        seconds=time.monotonic() - began,
        run=job.run,
        artefacts={name: asdict(artefact) for name, artefact in made.items()},
    )


def content_key(job: StepJob) -> str:
    """Digest of all that a step's result is made of: settings, content of what it reads, program; empty where the
    content of an input is not known.
    """
    inputs = {name: [artefact.identity() for artefact in row] for name, row in job.inputs.items()}
    if not all(digest for row in inputs.values() for digest in row):
        return ""
    settings = {knob.dotted: getattr(job.of(knob.owner), knob.name) for knob in job.spec.knobs}
    return digest_of(
        {
            "task": job.spec.name,
            "settings": settings,
            "inputs": inputs,
            "shards": job.shards if job.spec.role == "plan" else None,
            "shard": job.shard,
            "code": code_digest(),
            "torch": torch_version(),
        }
    )


def store(job: StepJob, values: Mapping[str, Any], storage: Storage, url: str) -> dict[str, Artefact]:
    """Puts what a step has made into the storage; what is there already by its digest is not sent again."""
    made = {}
    for output in job.spec.outputs:
        folder = job.out(output.name)
        if output.at:
            key = output.at.format(**values)
            if not storage.has_tree(key):
                storage.put_tree(folder, key)
        else:
            key = f"{output.kind.name}/{tree_of(folder)['digest']}"
            storage.put_tree(folder, key)
        made[output.name] = Artefact(url=f"{url.rstrip('/')}/{key}", digest=key.rpartition("/")[2])
    return made


def _there(record: Record) -> bool:
    """Whether all that a record names is still in the storage."""
    from csm_components.storage import open_tree

    trees = (open_tree(row["url"]) for row in record.artefacts.values())
    return all(storage.has_tree(key) for storage, key in trees)


def _record(log: RunLog, job: StepJob, values: Mapping[str, Any], seconds: float, *, name: str, source: str) -> None:
    settings = {knob.dotted: getattr(job.of(knob.owner), knob.name) for knob in job.spec.knobs}
    log.params({**settings, **{key: value for key, value in values.items() if isinstance(value, str)}})
    log.metrics({**values, "step_seconds": seconds})
    log.tags({key: value for key, value in values.items() if key.endswith("digest")})
    if job.spec.dataset:
        log.dataset(
            name,
            digest=str(values[job.spec.dataset]),
            source=source or str(values["out"]),
            profile={key: value for key, value in values.items() if isinstance(value, int | float)},
            context="dataset",
        )
