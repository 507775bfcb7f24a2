"""Settings of the step train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from csm_components.spec import StepSettings
from csm_components.train.nodes import parse_nodes
from csm_model.rules import broken, by
from csm_model.training.config import broken_settings

_GIVEN = {
    "tokens": "the step tokenise makes them",
    "out": "it is in the folder of the run",
    "base": "set data.base",
    "replay": "set data.replay",
}
"""Settings of the trainer that a run decides itself."""


def check_recipe(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns `recipe` as it is; a validator's error for what the trainer would refuse of it."""
    lines = [f".{name}: is no part of a recipe; {cure}" for name, cure in _GIVEN.items() if name in recipe]
    own = {name: value for name, value in recipe.items() if name not in _GIVEN}
    if lines := [*lines, *(f".{line}" for line in broken_settings(own))]:
        raise broken(lines)
    return recipe


class TrainSettings(StepSettings):
    """How to train."""

    section = "train"

    recipe: Annotated[Mapping[str, Any], AfterValidator(check_recipe)] = Field(default_factory=dict)
    """The trainer's own settings: model preset, steps, batch, learning rate, ..."""
    nodes: Annotated[str, by(parse_nodes)] = "2x1"
    """torchrun agents x workers of each."""
    threads: int = Field(default=1, ge=1)
    """Compute threads of a worker."""
