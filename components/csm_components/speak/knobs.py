"""Settings of the step speak."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from csm_components.spec import StepSettings
from csm_model.errors import InputError
from csm_model.rules import by


def check_text(text: str) -> None:
    """Raises `InputError` where there is nothing in a text to say."""
    if not re.search(r"[^\W_]", text):
        raise InputError(f"text {text[:40]!r} has nothing to say: give at least one letter or digit")


class SpeakSettings(StepSettings):
    """What is said at the end."""

    section = "release"

    dialogue: str | None = None
    """File of a dialogue that is spoken and judged at the end, as csm say --dialogue reads it; who is no voice of the
    corpus is spoken by one of it. None speaks none."""
    say: Annotated[str, by(check_text)] = "Could you book a table by the window for six people on Thursday evening?"
    """A sentence that is in no training data, spoken at the end."""
    speaker: int | None = Field(default=None, ge=0)
    """The voice that says it; none is the first of the corpus."""
