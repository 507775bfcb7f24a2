"""The policy's bounds of figures, and what it makes of texts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from csm_components.ingest.section import Section
from csm_model.rules import LISTED, broken, finite

Off = Literal["off"]
OFF: Off = "off"


def _within(least: float | None = None, most: float | None = None) -> BeforeValidator:
    """A number within bounds, or "off"; one line says what breaks that."""
    words = " and ".join(
        f"{bound:g} or {side}" for bound, side in ((least, "more"), (most, "less")) if bound is not None
    )

    def check(value: Any) -> Any:
        if value == OFF:
            return value
        if finite(value) and (least is None or value >= least) and (most is None or value <= most):
            return float(value)
        raise broken([f' {value!r}: must be {"a number, " + words if words else "a number"}; "off" is no bound'])

    return BeforeValidator(check)


Share = Annotated[float | Off, _within(0, 1)]
Level = Annotated[float | Off, _within(most=0)]
Amount = Annotated[float | Off, _within(0)]
Ratio = Annotated[float | Off, _within()]


class TextPolicy(Section):
    """What is made of the texts of a corpus."""

    marks: Literal["keep", "strip"] = "keep"
    """Hesitations and words broken off, which transcribers mark as "%uh", "um-[um]" or "w[ent]-": keep leaves them in
    the text as words, strip takes them out; either way they are tags of their turn."""


class FigureBounds(Section):
    """Bounds of the figures that annotate measures; "off" is no bound."""

    min_speech: Share = 0.1
    """A smaller share of speech, and nobody speaks: a tone, noise, a door."""
    max_music: Share = 0.5
    """A larger share of music under or beside the speech."""
    min_snr_db: Ratio = 12.0
    """Speech less far above the noise under it is noisy."""
    max_clipped: Share = 0.002
    """A larger share of samples cut off at full scale is clipped."""
    min_loudness_db: Level = -50.0
    """Speech below that level (dB of full scale) is too quiet."""
    max_loudness_db: Level = -3.0
    """Speech above it is too loud."""
    min_bandwidth_hz: Amount = 5_000.0
    """Sound whose spectrum ends below is of a narrow band: a telephone's ends at 4 kHz."""
    narrow_band: Literal["mark", "drop"] = "mark"
    """What becomes of it: mark gives it the tag "narrow band", by which training may weigh it (train.recipe)."""
    max_edge_silence_s: Amount = 2.0
    """More silence before and after the speech of a turn is padding."""
    max_overlap: Share = OFF
    """A larger share of a turn in which somebody else speaks too is crosstalk; off, for people do talk at once."""
    languages: Annotated[tuple[str, ...], LISTED, Field(min_length=1)] | Off = OFF
    """Languages of texts that are taken, such as ["en", "de"]; off takes all."""
    language_agreement: Share = 0.6
    """A text that is so surely of another language than the sound, or than the corpus says, is of a wrong language."""
    invented: Literal["drop", "keep"] = "drop"
    """Texts that recognisers invent: what stands under films, words over and over, a word too long to be one."""
    min_unique_words: Share = 0.4
    """Fewer different words, of eight or more, are words over and over."""
    max_longest_word: Amount = 40.0
    """Letters of the longest word."""
    max_wer: Amount = 0.4
    """More word errors of the text heard, a word given, and the text is wrong."""
    slack_words: int = Field(default=2, ge=0)
    """Words that may differ in any turn: a short answer is misheard more easily than it is wrong."""
    max_unheard_words: Amount = 1.0
    """More words at the beginning or the end of its text that are not heard, and the sound is cut off."""
    max_characters_per_second: Amount = 25.0
    """More letters and digits a second than anybody says, and the sound is cut off."""
    min_speaker_certainty: Share = OFF
    """A speaker less certain than that is not known."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Turns with the sound of an earlier one that is taken."""
