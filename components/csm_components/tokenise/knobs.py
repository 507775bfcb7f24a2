"""What the check of tokenise can be told."""

from __future__ import annotations

from pydantic import Field

from csm_components.spec import StepSettings
from csm_model.errors import ArtifactError


class CheckSettings(StepSettings):
    """What turns must show that are decoded again."""

    section = "data"

    min_energy_correlation: float = Field(default=0.5, ge=-1, le=1)
    """What they must reach on average (trained codecs reach 0.95, random ones 0.35); -1 lets any codec through."""

    def accept(self, reached: float, codec: object) -> None:
        """Raises `ArtifactError` where turns decoded again have not reached what they must."""
        if reached < self.min_energy_correlation:
            raise ArtifactError(
                f"{codec}: its output does not follow the sound: energy correlation {reached:.2f}, at least "
                f"{self.min_energy_correlation:.2f} is needed; take a trained codec, or train it on this corpus"
            )
