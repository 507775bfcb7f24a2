"""Cache keys: for each step of a pipeline, the digest of all that its result is made from.

A key is of the step's settings, the content of what is read, the program, the image, and the keys of the steps before
it; so it is known before anything runs. Kubeflow's own fingerprint sees none of these but the image's name. Its cache
is one for each pipeline, so the pipeline's name is in the keys too.

What a step with shards makes does not depend on how it was cut: what is joined has the key of the whole step. Without a
key, and so always started, are shards (all of one step share what is compiled, so they look up their own content in the
storage), and what has an effect outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from csm_components.ingest.blocklist import Blocklist
from csm_components.ingest.rights import is_over
from csm_components.made import entered
from csm_components.program import code_digest
from csm_components.spec import Knob, StepSpec
from csm_components.storage import Storage
from csm_model.files import digest_of
from csm_pipelines.config import RunConfig
from csm_pipelines.pipelines import Pipeline, WiredStep
from csm_pipelines.profile import ClusterProfile
from csm_pipelines.sources import Source


@dataclass(frozen=True, kw_only=True)
class StepKey:
    """What a step's result is made from."""

    step: str
    inputs: Mapping[str, Any]
    """Settings by their dotted names, digests of what is read, the program and the image."""
    upstream: tuple[str, ...]
    """Steps whose results it reads."""
    key: str


def step_keys(
    pipeline: Pipeline,
    config: RunConfig,
    sources: Mapping[str, Source],
    profile: ClusterProfile,
    *,
    shards: int,
    rights: Mapping[str, str] | None = None,
) -> dict[str, StepKey]:
    """The keys of a pipeline's steps, in order; none where its data are not known before it runs.

    Args:
        pipeline: which.
        config: the run.
        sources: what it is made from.
        profile: the cluster.
        shards: parts that steps are cut into.
        rights: what decides beside the policy which records of the corpus are taken (`rights_now`).
    """
    if not pipeline.keyed:
        return {}
    wholes = {task.spec.name: task for task in pipeline.wired(pipeline.steps)}
    plans = {task.spec.name: task for task in pipeline.wired(pipeline.on_cluster)}
    keys: dict[str, StepKey] = {}
    for spec in pipeline.on_cluster:
        if spec.role == "shard" or not spec.cacheable:
            continue
        task = wholes[spec.step] if spec.role == "join" else plans[spec.name]
        inputs: dict[str, Any] = _read(task, sources) | _settings(task.spec, config, sources)
        if spec.role == "plan":
            inputs["shards"] = shards
        if spec.step == "ingest":
            inputs |= rights or {}
        inputs |= {"code": code_digest(), "image": profile.image(spec)}
        upstream = tuple(dict.fromkeys(_step_of(feed.task, plans) for feed in task.feeds.values() if feed.task))
        if not keys.keys() >= set(upstream):
            continue  # it reads what a step that always runs makes anew: known only when it runs
        before = {step: keys[step].key for step in upstream}
        key = digest_of({"pipeline": pipeline.name, "step": spec.step, "inputs": inputs, "upstream": before})
        keys[spec.step] = StepKey(step=spec.step, inputs=inputs, upstream=upstream, key=key)
    return keys


def rights_now(storage: Storage, keys: Mapping[str, StepKey], day: date | None = None) -> dict[str, str]:
    """What decides beside the policy which records are taken: the storage's blocklist, and what has expired since.

    Empty where nobody is blocked, and nothing has expired that ingest has taken under its key.

    Args:
        storage: the cluster's.
        keys: of a run's steps.
        day: the day that it is; the clock's without it.
    """
    found: dict[str, str] = {}
    if blocked := Blocklist.of_storage(storage).rows:
        found["blocklist"] = Blocklist(blocked).digest
    record = entered(storage, "ingest", keys["ingest"].key) if "ingest" in keys else None
    last = record.result.get("expires") if record is not None else None
    if last is not None and is_over(last, day):
        found["expired"] = last
    return found


def _read(task: WiredStep, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Digests of what a task reads that no step makes."""
    return {
        name: sources[feed.source].digest if feed.source in sources else None
        for name, feed in task.feeds.items()
        if feed.source
    }


def _settings(spec: StepSpec, config: RunConfig, sources: Mapping[str, Source]) -> dict[str, Any]:
    """The settings of a step by their dotted names; those of a mapping each by its own."""
    found: dict[str, Any] = {}
    for knob in spec.knobs:
        value = sources[knob.name].digest if _is_source(knob, sources) else config.value(knob)
        if isinstance(value, Mapping):
            found |= {f"{knob.dotted}.{name}": inner for name, inner in value.items()}
        else:
            found[knob.dotted] = list(value) if isinstance(value, tuple) else value
    return found


def _is_source(knob: Knob, sources: Mapping[str, Source]) -> bool:
    """Whether a setting names something by its place, such as a tokenizer's file: its content is what counts."""
    return knob.dotted == f"data.{knob.name}" and knob.name in sources


def _step_of(task: str, plans: Mapping[str, WiredStep]) -> str:
    return plans[task].spec.step if task in plans else task
