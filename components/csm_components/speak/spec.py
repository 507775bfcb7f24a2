"""The step speak as data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from csm_components import kinds
from csm_components.evaluate.knobs import EvaluateSettings
from csm_components.ingest.spec import ONLY_TEXTS
from csm_components.spec import Input, Output, StepSettings, StepSpec
from csm_model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from csm_components.job import StepJob

SPARE_SENTENCES = (
    "My sister arrives at nine fifteen, so we should leave soon.",
    "Is there a quiet place near the river where we can eat?",
    "It will rain on Monday, but the weekend looks warm and clear.",
    "Please bring two coffees and a slice of lemon cake.",
)
"""Said for the clock."""


def check_text(text: str) -> str:
    """Returns `text`; raises `InputError` where there is nothing in it to say."""
    if not re.search(r"[^\W_]", text):
        raise InputError(f"text {text[:40]!r} has nothing to say: give at least one letter or digit")
    return text


class SpeakSettings(StepSettings):
    """What is said at the end."""

    section = "release"

    dialogue: str | None = None
    """File of a dialogue that is spoken and judged at the end, as csm say --dialogue reads it; who is no voice of the
    corpus is spoken by one of it. None speaks none."""
    say: Annotated[str, AfterValidator(check_text)] = (
        "Could you book a table by the window for six people on Thursday evening?"
    )
    """A sentence that is in no training data, spoken at the end."""
    speaker: int | None = Field(default=None, ge=0)
    """The voice that says it; none is the first of the corpus."""


def _speak(job: StepJob) -> Any:
    from csm_components.speak.step import speak

    settings = job.of(SpeakSettings)
    return speak(
        job.folder("bundle"),
        job.folder("conversations", ONLY_TEXTS.__contains__),
        job.out("speech"),
        settings=settings,
        judging=job.of(EvaluateSettings),
        verdict=job.folder("version"),
        sentences=SPARE_SENTENCES,
        workers=job.workers,
        say=job.say,
    )


def _words(result: Mapping[str, Any]) -> str:
    told = f"first audio {result['first_audio_ms']:.0f} ms, real-time factor {result['real_time_factor']:.2f}"
    if (dialogue := result["dialogue"]) is not None:
        told += f"; dialogue: {dialogue['wer']:.1%} of words wrong"
    return told


SPEAK = StepSpec(
    name="speak",
    description="Serves the registered bundle from a Triton of its own, holds a dialogue, and times single sentences.",
    work=_speak,
    settings=(SpeakSettings, EvaluateSettings),
    inputs=(
        Input(name="bundle", kind=kinds.BUNDLE),
        Input(name="version", kind=kinds.VERSION),
        Input(name="conversations", kind=kinds.CONVERSATIONS),
    ),
    outputs=(Output(name="speech", kind=kinds.SPEECH, folder="speech"),),
    words=_words,
)
