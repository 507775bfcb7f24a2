"""The table of all steps: one row each, in its step's folder."""

from __future__ import annotations

from csm_components.annotate.spec import ANNOTATE
from csm_components.card.spec import CARD
from csm_components.deploy.spec import DEPLOY
from csm_components.evaluate.spec import EVALUATE
from csm_components.export.spec import EXPORT
from csm_components.finish.spec import END_RUN
from csm_components.ingest.spec import INGEST
from csm_components.register.spec import REGISTER
from csm_components.speak.spec import SPEAK
from csm_components.spec import StepSpec
from csm_components.tokenise.spec import TOKENISE
from csm_components.train.spec import TRAIN
from csm_model.errors import InputError

STEPS: tuple[StepSpec, ...] = (
    ANNOTATE,
    INGEST,
    TOKENISE,
    TRAIN,
    EXPORT,
    EVALUATE,
    REGISTER,
    CARD,
    SPEAK,
    DEPLOY,
    END_RUN,
)
"""All steps, in the order in which they follow one another."""


def task(name: str) -> StepSpec:
    """A step, or a part of one that is fanned out, by its name; raises `InputError` that lists them all."""
    tasks = {each.name: each for step in STEPS for each in (step, *step.tasks)}
    if name not in tasks:
        raise InputError(f"step {name!r}: there are {', '.join(tasks)}")
    return tasks[name]
