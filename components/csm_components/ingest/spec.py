"""The step ingest as data: as one step, or as shards that are then joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from csm_components import kinds
from csm_components.ingest.licenses import check_name
from csm_components.ingest.readers.table import check_layout
from csm_components.ingest.speakers import Numbering
from csm_components.spec import FanOut, Input, Output, StepSettings, StepSpec
from csm_model.rules import by

if TYPE_CHECKING:
    from csm_components.ingest.corpora import Chosen
    from csm_components.job import StepJob


ONLY_TEXTS = frozenset({"manifest.json", "cuts.jsonl.gz", "rejected.jsonl"})
"""Files of conversations that are no sound; a conversation fetches its own where it is read."""


class LayoutSettings(StepSettings):
    """How a corpus is read."""

    section = "data"

    layout: Annotated[str | None, by(check_layout)] = None
    """Reader of the corpus, of those that `csm data readers` lists; none takes the one that recognises it."""


class IngestSettings(StepSettings):
    """What of a corpus is taken."""

    section = "data"

    license: Annotated[str | None, by(check_name)] = None
    """Licence of records that name none; none takes what the corpus's LICENSE file names."""
    policy: str | None = None
    """TOML file (or its address) that says which licences are taken and for what, whose consent is needed, and the
    bounds of the checks, as csm data policy prints it; none is the packaged one."""
    use: Literal["train", "research"] = "train"
    """What the model is for: to be given to anybody, or research alone, which takes licences that allow no more."""
    conversations: int | None = Field(default=None, ge=1)
    """Take only so many conversations of the corpus, evenly spread; none takes all."""
    speakers: Numbering = "auto"
    """Where speakers' numbers count: `corpus` (one number a person), `conversation` (from 0 in each, by who speaks
    first), or `auto`: over the corpus while it needs no number above 15, else in each conversation."""


@contextmanager
def _chosen(job: StepJob) -> Iterator[Chosen]:
    """What a person chose of the corpus."""
    from csm_components.annotate.annotations import TABLES
    from csm_components.ingest.rights import open_gate
    from csm_components.settings import load_settings
    from csm_components.storage import open_storage

    settings = job.of(IngestSettings)
    storage = open_storage() if load_settings().storage else None
    runs = job.work.parent if job.work else None
    with open_gate(settings.policy, use=settings.use, runs=runs, storage=storage) as gate:
        yield {
            "layout": job.of(LayoutSettings).layout,
            "annotations": job.folder("annotations", TABLES.__contains__) if job.has("annotations") else None,
            "default_license": settings.license,
            "max_conversations": settings.conversations,
            "gate": gate,
        }


def _ingest(job: StepJob) -> Any:
    from csm_components.ingest.step import ingest

    with _chosen(job) as chosen:
        return ingest(
            job.folder("corpus"),
            job.out("conversations"),
            **chosen,
            numbering=job.of(IngestSettings).speakers,
            workers=job.workers,
        )


def _plan(job: StepJob) -> Any:
    from csm_components.ingest.fanout import plan_ingest

    with _chosen(job) as chosen:
        return plan_ingest(job.artefact("corpus").url, shards=job.shards, **chosen)


def _shard(job: StepJob) -> Any:
    from csm_components.ingest.fanout import ingest_shard

    with _chosen(job) as chosen:
        return ingest_shard(job.artefact("corpus").url, job.shard, job.out("part"), **chosen, workers=job.workers)


def _join(job: StepJob) -> Any:
    from csm_components.ingest.fanout import join_ingest

    with _chosen(job) as chosen:
        return join_ingest(
            job.folders("parts"),
            job.artefact("corpus").url,
            job.out("conversations"),
            **chosen,
            numbering=job.of(IngestSettings).speakers,
        )


_CORPUS = Input(name="corpus", kind=kinds.CORPUS)
_ANNOTATIONS = Input(name="annotations", kind=kinds.ANNOTATIONS, optional=True)
_CONVERSATIONS = Output(name="conversations", kind=kinds.CONVERSATIONS, folder="ingest", at="conversations/{digest}")
INGEST = StepSpec(
    name="ingest",
    description="Checks every record of a corpus and writes what can be used as conversations of sound at 24 kHz.",
    work=_ingest,
    settings=(LayoutSettings, IngestSettings),
    inputs=(_CORPUS, _ANNOTATIONS),
    outputs=(_CONVERSATIONS,),
    keep=("card.md",),
    dataset="digest",
    words=lambda r: (
        f"{r['conversations']} conversations, {r['speech_seconds'] / 60:.0f} min of speech, {r['rejected']} left out"
    ),
    fan_out=FanOut(
        plan=StepSpec(
            name="plan-ingest",
            role="plan",
            description="Divides a corpus into shards that can be ingested side by side.",
            work=_plan,
            settings=(LayoutSettings, IngestSettings),
            inputs=(_CORPUS, _ANNOTATIONS),
            values={"shards": "Names of the shards."},
        ),
        shard=StepSpec(
            name="ingest-shard",
            role="shard",
            description="Ingests the conversations of one shard; of the sound, only theirs is fetched.",
            work=_shard,
            settings=(LayoutSettings, IngestSettings),
            inputs=(_CORPUS, _ANNOTATIONS),
            outputs=(
                Output(name="part", kind=kinds.CONVERSATIONS_PART, folder="ingest-shard", at="shards/ingest/{key}"),
            ),
        ),
        join=StepSpec(
            name="join-ingest",
            step="ingest",
            role="join",
            description="Joins the shards of a corpus to what ingest would have written in one step.",
            work=_join,
            settings=(LayoutSettings, IngestSettings),
            inputs=(Input(name="parts", kind=kinds.CONVERSATIONS_PART, many=True), _CORPUS, _ANNOTATIONS),
            outputs=(_CONVERSATIONS,),
            keep=("card.md",),
            dataset="digest",
        ),
    ),
)
