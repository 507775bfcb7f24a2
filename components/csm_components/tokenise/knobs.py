"""Settings of the step tokenise."""

from __future__ import annotations

from pydantic import Field

from csm_components.spec import StepSettings
from csm_model.errors import ArtifactError


class TokenizerSettings(StepSettings):
    """How text becomes ids."""

    section = "data"

    tokenizer: str | None = None
    """phonemes, bpe:SIZE, a tokenizer.json, or a tree with one; none takes the base's, or phonemes without a base."""
    prompt_format: str | None = None
    """How a BPE tokenizer writes a turn: sesame or miso; none for phonemes, and where the file says it."""


class HearingSettings(StepSettings):
    """What judges must hear of the corpus through the codec, before anything is made of its codes."""

    section = "data"

    heard_turns: int = Field(default=24, ge=0)
    """Turns that judges hear before and after the codec, evenly over the voices: half a minute. 0 leaves it out."""
    max_codec_wer_added: float | None = Field(default=0.08, ge=0)
    """Word errors that the codec may add in a voice; 0.08 is half of what the gate allows to the model as well."""
    min_codec_likeness: float | None = Field(default=0.8, ge=-1, le=1)
    """Likeness (cosine) of what it decodes to the recordings; voices that it knows keep 0.87, strangers 0.6 or less."""


class CheckSettings(StepSettings):
    """What turns must show that are decoded again."""

    section = "data"

    min_energy_correlation: float = Field(default=0.5, ge=-1, le=1)
    """What they must reach on average (trained codecs reach 0.95, random ones 0.35); -1 lets any codec through."""

    def accept(self, reached: float, codec: object) -> None:
        """Raises `ArtifactError` where turns decoded again have not reached what they must."""
        if self.min_energy_correlation > -1 and not reached >= self.min_energy_correlation:  # NaN is a miss
            raise ArtifactError(
                f"{codec}: its output does not follow the sound: energy correlation {reached:.2f}, at least "
                f"{self.min_energy_correlation:.2f} is needed; take a trained codec, or train it on this corpus"
            )
