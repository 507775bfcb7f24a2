"""The gate: what the figures of a model must be before it becomes champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from csm_model.errors import InputError

_LEAST = {"speaker_accuracy", "mos"}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Bounds on a model's figures; None asks nothing of that figure."""

    FIGURES: ClassVar = ("wer", "speaker_accuracy", "mos", "wer_int8_delta", "unended")
    """Names of the figures that it looks at."""

    max_wer: float | None = 0.15
    """Word error rate of generated speech, as a fraction."""
    min_speaker_accuracy: float | None = 0.95
    """Share of sentences nearer to the asked speaker than to any other."""
    min_mos: float | None = None
    """Mean opinion score, 1 to 5."""
    max_wer_int8_delta: float | None = 0.02
    """Word error rate of the quantised bundle minus that of its float parent."""
    max_unended: float | None = None
    """Share of sentences that were cut because the model did not end them."""

    def __post_init__(self) -> None:
        for name in ("max_wer", "min_speaker_accuracy", "max_unended"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"gate {name} {value}: must be 0 or more; it is a fraction")

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

        A figure that a bound asks for and that was not measured is a miss.
        """
        found = []
        for figure, bound in self.thresholds().items():
            value = figures.get(figure)
            most = figure not in _LEAST
            side = "at most" if most else "at least"
            if value is None:
                found.append(f"{figure} was not measured: {side} {bound:g} is asked")
            elif (value > bound) if most else (value < bound):
                found.append(f"{figure} {value:.3f} misses {side} {bound:g} by {abs(value - bound):.3f}")
        return found
