"""What a run learned: the same sentences with the same seeds, before it and after, voice by voice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csm_components.evaluate.figures import Interval, JudgedSentence, figures_of, wer_difference

ALL_VOICES = "all voices"


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Figures of one voice before and after; rates are fractions."""

    voice: str
    """Its name; `ALL_VOICES` for all of them together."""
    sentences: int
    wer_before: float
    wer_after: float
    wer_difference: float
    """After minus before: below 0 is better."""
    wer_difference_interval: Interval
    """95 %, by bootstrap over the sentences, each with both of its clips."""
    similarity_before: float
    """Mean cosine to the voice's reference."""
    similarity_after: float

    @property
    def difference(self) -> str:
        """The difference in percentage points, signed."""
        return _points(self.wer_difference)

    @property
    def difference_interval(self) -> str:
        """Its 95 % interval in percentage points."""
        low, high = self.wer_difference_interval
        return f"{_points(low)} to {_points(high)}"


def _points(rate: float) -> str:
    return f"{round(100 * rate, 1) + 0.0:+.1f}"  # + 0.0 takes the sign from a zero


def what_was_learned(
    rows: Mapping[str, Sequence[JudgedSentence]], names: Mapping[int, str]
) -> tuple[str, list[Learned]]:
    """The series that stands for after, and what was learned: a row a voice, then all together; none without a base.

    After is the float parent where it has spoken all that the base has, for both then speak in one way: offline, with
    float weights. Else it is what was generated, which is quantised, and maybe streamed and marked.
    """
    before = rows.get("base", ())
    if not before:
        return "", []
    asked = {row.sentence.id for row in before}
    after = "parent" if asked <= {row.sentence.id for row in rows.get("parent", ())} else "generated"
    pairs = {row.sentence.id: row for row in rows[after]}
    voices = sorted({row.sentence.speaker for row in before})
    groups = [
        (names.get(voice, f"speaker {voice}"), [row for row in before if row.sentence.speaker == voice])
        for voice in voices
    ]
    groups += [(ALL_VOICES, list(before))] if len(voices) > 1 else []
    return after, [_learned(voice, kept, [pairs[row.sentence.id] for row in kept]) for voice, kept in groups]


def _learned(voice: str, before: Sequence[JudgedSentence], after: Sequence[JudgedSentence]) -> Learned:
    difference, interval = wer_difference(after, before)
    was, now = figures_of(before), figures_of(after)
    return Learned(
        voice=voice,
        sentences=was.sentences,
        wer_before=was.wer,
        wer_after=now.wer,
        wer_difference=difference,
        wer_difference_interval=interval,
        similarity_before=was.speaker_similarity,
        similarity_after=now.speaker_similarity,
    )
