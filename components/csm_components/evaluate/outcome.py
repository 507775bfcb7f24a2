"""The result of the step evaluate, from rows and figures to JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from csm_components.evaluate.figures import Figures, JudgedSentence, figures_of
from csm_components.evaluate.learned import Learned
from csm_components.evaluate.verdicts import read_verdict
from csm_components.evaluate.wer import word_errors
from csm_components.evaluate.work import Take
from csm_model.files import read_json

RESULT = "result.json"
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What the judges found; JSON-able. Rates and shares are fractions."""

    out: str
    report: str
    digest: str
    """Of the figures and of what they were measured on."""
    bundle_digest: str
    dataset_digest: str
    sentences: int
    wer_generated: float
    wer_interval: tuple[float, float]
    """95 %, by bootstrap over sentences."""
    wer_reconstruction: float
    wer_original: float
    mos: float | None
    mos_reconstruction: float | None
    mos_original: float | None
    speaker_accuracy: float
    speaker_similarity: float
    unended: float
    """Sentences that were cut because the model did not end them."""
    silent: float
    """Near-silent share of the generated sound; the originals' stands in `result.json`."""
    wer_int8_delta: float | None
    """Word error rate minus the float parent's on the same sentences; None where it was not given."""
    wer_int8_delta_interval: tuple[float, float] | None
    compared: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """For each compared bundle its figures on `sentences`, and this bundle's on the same (`wer_here`, ...)."""
    learned: list[dict[str, Any]] = field(default_factory=list)
    """What the run learned on equal sentences, a row a voice and one for all (`csm_components.evaluate.learned`)."""
    minutes: float
    reused: bool

    def for_gate(self) -> dict[str, float | None]:
        """The figures by the names that the gate of the step register asks for."""
        return {
            "wer": self.wer_generated,
            "speaker_accuracy": self.speaker_accuracy,
            "mos": self.mos,
            "unended": self.unended,
            "wer_int8_delta": self.wer_int8_delta,
        }


def figures_for_gate(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a committed `result.json` by the names that the gate asks for."""
    known = {name: result[name] for name in EvaluateResult.__dataclass_fields__}
    return EvaluateResult(**known).for_gate()


def row_of(take: Take, verdict: Path) -> JudgedSentence:
    """A take and its committed verdict as one row."""
    heard = read_verdict(verdict)
    return JudgedSentence(
        sentence=take.sentence,
        wav=take.place.wav,
        ended=bool(read_json(take.place.note)["ended"]),
        verdict=heard,
        errors=word_errors(take.sentence.text, heard.heard),
    )


def result_of(
    out: Path,
    manifest: Mapping[str, Any],
    dataset: Mapping[str, Any],
    figures: Mapping[str, Figures],
    same: Mapping[str, Figures],
    delta: tuple[float, tuple[float, float]] | None,
    learned: Sequence[Learned],
    *,
    digest: str,
    minutes: float,
) -> EvaluateResult:
    """The step's result from the figures."""
    generated = figures["generated"]
    return EvaluateResult(
        out=str(out),
        report=str(out / REPORT),
        digest=digest,
        bundle_digest=manifest["digest"],
        dataset_digest=dataset["digest"],
        sentences=generated.sentences,
        wer_generated=generated.wer,
        wer_interval=generated.wer_interval,
        wer_reconstruction=figures["reconstruction"].wer,
        wer_original=figures["original"].wer,
        mos=generated.mos,
        mos_reconstruction=figures["reconstruction"].mos,
        mos_original=figures["original"].mos,
        speaker_accuracy=generated.speaker_accuracy,
        speaker_similarity=generated.speaker_similarity,
        unended=generated.unended,
        silent=generated.silent,
        wer_int8_delta=delta[0] if delta else None,
        wer_int8_delta_interval=delta[1] if delta else None,
        compared={
            name: {
                "sentences": figures[name].sentences,
                "wer": figures[name].wer,
                "wer_here": here.wer,
                "mos": figures[name].mos,
                "mos_here": here.mos,
                "speaker_accuracy": figures[name].speaker_accuracy,
                "speaker_accuracy_here": here.speaker_accuracy,
            }
            for name, here in same.items()
        },
        learned=[asdict(row) | {"wer_difference_interval": list(row.wer_difference_interval)} for row in learned],
        minutes=minutes,
        reused=False,
    )


def details_of(
    rows: Mapping[str, Sequence[JudgedSentence]],
    figures: Mapping[str, Figures],
    same: Mapping[str, Figures],
    names: Mapping[int, str],
    *,
    seen: int,
) -> dict[str, Any]:
    """What `result.json` has beyond the result: all figures, those of each voice, and every sentence."""
    voices = sorted({row.sentence.speaker for row in rows["generated"]})
    return {
        "figures": {name: asdict(value) for name, value in figures.items()},
        "on_the_same_sentences": {name: asdict(value) for name, value in same.items()},
        "voices": {
            str(voice): {
                "name": names[voice],
                **{
                    series: asdict(figures_of(kept))
                    for series, all_rows in rows.items()
                    if (kept := [row for row in all_rows if row.sentence.speaker == voice])
                },
            }
            for voice in voices
        },
        "seen_and_left_out": seen,
        "rows": {series: [_detail(row) for row in kept] for series, kept in rows.items()},
    }


def _detail(row: JudgedSentence) -> dict[str, Any]:
    verdict = asdict(row.verdict)
    return {
        **asdict(row.sentence),
        "wav": row.wav.name,
        "ended": row.ended,
        "word_errors": row.errors.total,
        "words": row.errors.words,
        "right_voice": row.right_voice,
        **verdict,
        "similarity": {str(voice): value for voice, value in row.verdict.similarity.items()},
    }
