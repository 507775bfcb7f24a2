"""The step card as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csm_components import kinds
from csm_components.spec import Input, Output, StepSpec

if TYPE_CHECKING:
    from csm_components.job import StepJob


def _card(job: StepJob) -> Any:
    from csm_components.card.step import write_card

    return write_card(
        job.folder("bundle", lambda name: name == "manifest.json"),
        job.folder("evaluation", lambda name: name == "result.json"),
        job.folder("version"),
        job.out("card"),
    )


CARD = StepSpec(
    name="card",
    description="Writes the model card of a registered version: what it is made of, how it was judged, and its bounds.",
    work=_card,
    inputs=(
        Input(name="bundle", kind=kinds.BUNDLE),
        Input(name="evaluation", kind=kinds.EVALUATION),
        Input(name="version", kind=kinds.VERSION),
    ),
    outputs=(Output(name="card", kind=kinds.CARD, folder="card"),),
    keep=("card.md",),
    words=lambda r: f"{r['model']} version {r['version']}",
)
