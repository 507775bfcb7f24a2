"""From verdicts on clips to the figures of a model, with how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csm_components.evaluate.sentences import Sentence
from csm_components.evaluate.verdicts import ClipVerdict
from csm_components.evaluate.wer import Errors, bootstrap_interval, corpus_wer, wer_interval

LONG_PAUSE_SECONDS = 1.0
"""A pause within a sentence that a listener takes for a fault."""
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class JudgedSentence:
    """One clip: what was asked, what was heard."""

    sentence: Sentence
    wav: Path
    ended: bool
    verdict: ClipVerdict
    errors: Errors

    @property
    def right_voice(self) -> bool:
        """Nearer to the asked speaker's reference than to any other's."""
        return self.verdict.nearest == self.sentence.speaker

    @property
    def similarity(self) -> float:
        """Cosine to the asked speaker's reference."""
        return self.verdict.similarity.get(self.sentence.speaker, 0.0)

    @property
    def other_similarity(self) -> float | None:
        """Cosine to the nearest other speaker's reference."""
        others = [value for voice, value in self.verdict.similarity.items() if voice != self.sentence.speaker]
        return max(others, default=None)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of many clips; shares and rates are fractions, times are seconds."""

    sentences: int
    words: int
    seconds: float
    """Of sound."""
    wer: float
    wer_interval: Interval
    """95 %, by bootstrap over sentences."""
    perfect: float
    """Sentences without a word error."""
    mos: float | None
    """Mean opinion score, 1 to 5; None where it was not asked for."""
    mos_interval: Interval | None
    speaker_accuracy: float
    """Clips nearer to the asked speaker than to any other."""
    speaker_accuracy_interval: Interval
    """95 %, Wilson."""
    speaker_similarity: float
    """Mean cosine to the asked speaker's reference."""
    other_similarity: float | None
    """Mean cosine to the nearest other speaker's reference; None where there is one voice."""
    unended: float
    """Clips that were cut because the model did not end them."""
    silent: float
    """Near-silent share of all sound."""
    leading_silence: float
    """Mean silence before the first sound."""
    long_pauses: float
    """Clips with a pause of a second or more inside, or before the first sound."""
    empty: float
    """Clips in which nothing was heard."""


def wilson_interval(hits: int, total: int, z: float = 1.96) -> Interval:
    """95 % interval of a share; also for none and for all (Wilson 1927)."""
    if not total:
        return (0.0, 1.0)
    share = hits / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def figures_of(rows: Sequence[JudgedSentence]) -> Figures:
    """The figures of at least one clip."""
    assert rows
    count = len(rows)
    errors = [row.errors for row in rows]
    scores = [row.verdict.mos for row in rows if row.verdict.mos is not None]
    seconds = [row.verdict.seconds for row in rows]
    others = [value for row in rows if (value := row.other_similarity) is not None]
    right = sum(row.right_voice for row in rows)
    silences = [row.verdict.silence for row in rows]
    return Figures(
        sentences=count,
        words=sum(item.words for item in errors),
        seconds=sum(seconds),
        wer=corpus_wer(errors),
        wer_interval=wer_interval(errors),
        perfect=sum(item.total == 0 for item in errors) / count,
        mos=float(np.mean(scores)) if scores else None,
        mos_interval=bootstrap_interval(scores) if scores else None,
        speaker_accuracy=right / count,
        speaker_accuracy_interval=wilson_interval(right, count),
        speaker_similarity=float(np.mean([row.similarity for row in rows])),
        other_similarity=float(np.mean(others)) if others else None,
        unended=sum(not row.ended for row in rows) / count,
        silent=sum(item.share * length for item, length in zip(silences, seconds, strict=True))
        / max(1e-9, sum(seconds)),
        leading_silence=float(np.mean([item.leading for item in silences])),
        long_pauses=sum(max(item.longest_pause, item.leading) >= LONG_PAUSE_SECONDS for item in silences) / count,
        empty=sum(not row.verdict.heard.strip() for row in rows) / count,
    )


def wer_difference(rows: Sequence[JudgedSentence], others: Sequence[JudgedSentence]) -> tuple[float, Interval]:
    """Word error rate of `rows` minus that of `others`, paired on the same sentences, with its 95 % interval.

    A sentence that was spoken several times counts with all its clips, as often in `rows` as in `others`.
    """
    asked = {row.sentence.id for row in others}
    mine, its = _errors_by_sentence([row for row in rows if row.sentence.id in asked]), _errors_by_sentence(others)
    assert mine.keys() == its.keys()
    words = [count for _, count in mine.values()]
    difference = [errors - its[name][0] for name, (errors, _) in mine.items()]
    return sum(difference) / max(1, sum(words)), bootstrap_interval(difference, words)


def points(difference: float, interval: Interval) -> str:
    """A difference of rates in points, with its interval."""
    low, high = interval
    return f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _errors_by_sentence(rows: Sequence[JudgedSentence]) -> dict[str, tuple[int, int]]:
    """Errors and words of each sentence, over all its clips."""
    sums: dict[str, tuple[int, int]] = {}
    for row in rows:
        errors, words = sums.get(row.sentence.id, (0, 0))
        sums[row.sentence.id] = (errors + row.errors.total, words + row.errors.words)
    return sums
