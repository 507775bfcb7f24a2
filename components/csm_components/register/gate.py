"""The gate: what the figures of a model must be before it becomes champion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from csm_components.spec import StepSettings
from csm_model.rules import finite

_LEAST = {"speaker_accuracy", "mos"}


class Gate(StepSettings):
    """Bounds on a model's figures; none asks nothing of that figure."""

    section = "gate"
    FIGURES: ClassVar[tuple[str, ...]] = ("wer", "speaker_accuracy", "mos", "wer_int8_delta", "unended")
    """Names of the figures that it looks at."""

    max_wer: float | None = Field(default=0.15, ge=0)
    """Word error rate of generated speech, as a fraction."""
    min_speaker_accuracy: float | None = Field(default=0.95, ge=0, le=1)
    """Share of sentences nearer to the asked speaker than to any other."""
    min_mos: float | None = Field(default=None, ge=1, le=5)
    """Mean opinion score, 1 to 5."""
    max_wer_int8_delta: float | None = Field(default=0.02, ge=-1)
    """Word error rate of the quantised bundle minus that of its float parent."""
    max_unended: float | None = Field(default=None, ge=0, le=1)
    """Share of sentences that were cut because the model did not end them."""

    def thresholds(self) -> dict[str, float]:
        """What is asked, by the names of the figures."""
        bounds = {
            "wer": self.max_wer,
            "speaker_accuracy": self.min_speaker_accuracy,
            "mos": self.min_mos,
            "wer_int8_delta": self.max_wer_int8_delta,
            "unended": self.max_unended,
        }
        return {name: bound for name, bound in bounds.items() if bound is not None}

    def misses(self, figures: Mapping[str, Any]) -> list[str]:
        """One line for each figure that misses its bound, with by how much; empty when the gate is passed.

        A figure that a bound asks for and that was not measured, or is no finite number, is a miss.
        """
        found = []
        for figure, bound in self.thresholds().items():
            value = figures.get(figure)
            most = figure not in _LEAST
            side = "at most" if most else "at least"
            if not finite(value):
                found.append(f"{figure} was not measured: {side} {bound:g} is asked")
            elif (value > bound) if most else (value < bound):
                found.append(f"{figure} {value:.3f} misses {side} {bound:g} by {abs(value - bound):.3f}")
        return found
