"""Settings of the step evaluate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from csm_components.spec import StepSettings
from csm_model.errors import InputError
from csm_model.rules import by


def check_speakers(speakers: tuple[int, ...]) -> None:
    """Raises `InputError` for what is no number of a voice."""
    if wrong := [speaker for speaker in speakers if speaker < 0]:
        raise InputError(f"speaker {wrong[0]}: voices are numbered from 0")


class EvaluateSettings(StepSettings):
    """How much is spoken, and who judges."""

    section = "judge"

    sentences_per_voice: int = Field(default=48, ge=1)
    """Held-out sentences for each voice, streamed from the server; fewer where the split has fewer."""
    parent_per_voice: int = Field(default=48, ge=1)
    """Of these, sentences that the float parent speaks too, with the same seeds."""
    base_per_voice: int = Field(default=12, ge=1)
    """Of these, sentences that the base speaks too, with the same seeds."""
    recogniser: Literal["tiny", "base"] = "base"
    """Whisper that reads what was said: `base`, or `tiny` where seconds count."""
    mos: bool = True
    """Whether naturalness is scored too; it takes as long as recognition."""
    max_frames: int | None = Field(default=None, ge=1)
    """Longest sentence in frames of 80 ms; none is the model's own bound."""
    split: Literal["test", "validation"] = "test"
    """Part of the corpus that is held out for it."""
    speakers: Annotated[tuple[int, ...], by(check_speakers)] = ()
    """Voices; empty for those of the split."""
    seed: int = Field(default=0, ge=0, lt=2**62)
    """The n-th sentence is drawn with `seed + n`."""
