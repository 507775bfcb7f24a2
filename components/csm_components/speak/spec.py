"""The step speak as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csm_components import kinds
from csm_components.evaluate.knobs import EvaluateSettings
from csm_components.ingest.spec import ONLY_TEXTS
from csm_components.speak.knobs import SpeakSettings
from csm_components.spec import Input, Output, StepSpec

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
