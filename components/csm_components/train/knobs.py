"""Settings of the step train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from csm_components.spec import StepSettings
from csm_components.train.nodes import check_nodes


class TrainSettings(StepSettings):
    """How to train."""

    section = "train"

    recipe: Mapping[str, Any] = Field(default_factory=dict)
    """The trainer's own settings: model preset, steps, batch, learning rate, ..."""
    nodes: Annotated[str, AfterValidator(check_nodes)] = "2x1"
    """torchrun agents x workers of each."""
    threads: int = Field(default=1, ge=1)
    """Compute threads of a worker."""
