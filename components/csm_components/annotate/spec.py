"""The step annotate as data: as one step, or as shards that are then joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csm_components import kinds
from csm_components.annotate.knobs import AnnotateSettings
from csm_components.ingest.spec import LayoutSettings
from csm_components.spec import FanOut, Input, Output, StepSpec

if TYPE_CHECKING:
    from csm_components.job import StepJob

KEPT = "annotated"
"""Beside the folders of runs: parts of recordings, for runs with other settings of later steps."""


def _annotate(job: StepJob) -> Any:
    from csm_components.annotate.step import annotate
    from csm_components.ingest.corpora import open_corpus

    with open_corpus(job.artefact("corpus").url) as files:
        return annotate(
            files,
            job.out("annotations"),
            job.of(AnnotateSettings),
            layout=job.of(LayoutSettings).layout,
            kept=job.work.parent / KEPT if job.work else None,
            workers=job.workers,
        )


def _plan(job: StepJob) -> Any:
    from csm_components.annotate.fanout import plan_shards

    return plan_shards(
        job.artefact("corpus").url,
        job.of(AnnotateSettings),
        shards=job.shards,
        layout=job.of(LayoutSettings).layout,
    )


def _shard(job: StepJob) -> Any:
    from csm_components.annotate.fanout import annotate_shard

    return annotate_shard(
        job.artefact("corpus").url,
        job.shard,
        job.out("part"),
        job.of(AnnotateSettings),
        layout=job.of(LayoutSettings).layout,
        workers=job.workers,
    )


def _join(job: StepJob) -> Any:
    from csm_components.annotate.fanout import join_annotate

    return join_annotate(
        job.folders("parts"),
        job.artefact("corpus").url,
        job.out("annotations"),
        job.of(AnnotateSettings),
        layout=job.of(LayoutSettings).layout,
    )


_CORPUS = Input(name="corpus", kind=kinds.CORPUS)
_SETTINGS = (AnnotateSettings, LayoutSettings)
_ANNOTATIONS = Output(name="annotations", kind=kinds.ANNOTATIONS, folder="annotations", at="annotations/{digest}")
ANNOTATE = StepSpec(
    name="annotate",
    description="Finds in recordings who says what and when; hears what a corpus's texts say, where it has some.",
    work=_annotate,
    settings=_SETTINGS,
    inputs=(_CORPUS,),
    outputs=(_ANNOTATIONS,),
    dataset="digest",
    words=lambda r: (
        f"{r['recordings']} recordings, {r['turns']} turns, {r['speech_seconds'] / 60:.0f} min of speech, "
        f"{r['left_out']} left out"
    ),
    fan_out=FanOut(
        plan=StepSpec(
            name="plan-annotate",
            role="plan",
            description="Divides recordings into shards of about the same size.",
            work=_plan,
            settings=_SETTINGS,
            inputs=(_CORPUS,),
            values={"shards": "Names of the shards."},
        ),
        shard=StepSpec(
            name="annotate-shard",
            role="shard",
            description="Annotates the recordings of one shard; only theirs are fetched.",
            work=_shard,
            settings=_SETTINGS,
            inputs=(_CORPUS,),
            outputs=(
                Output(name="part", kind=kinds.ANNOTATIONS_PART, folder="annotate-shard", at="shards/annotate/{key}"),
            ),
        ),
        join=StepSpec(
            name="join-annotate",
            step="annotate",
            role="join",
            description="Joins the shards to what annotate would have written in one step.",
            work=_join,
            settings=_SETTINGS,
            inputs=(Input(name="parts", kind=kinds.ANNOTATIONS_PART, many=True), _CORPUS),
            outputs=(_ANNOTATIONS,),
            dataset="digest",
        ),
    ),
)
