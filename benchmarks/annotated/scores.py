"""Scores of annotations: diarisation error rate, and word error rates with speakers.

The diarisation error rate is NIST's: missed speech, false speech and speech of the wrong person, over all speech of the
truth, with the best mapping of speakers, overlap counted, and no collar. The cpWER (Watanabe et al. 2020, CHiME-6) puts
each person's words one after another and takes the mapping with the fewest errors; no error crosses people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from csm_components.evaluate.wer import word_errors

FRAMES = 100
"""A second."""


class Said(NamedTuple):
    """A turn."""

    start: float
    end: float
    speaker: str
    text: str


@dataclass(frozen=True, kw_only=True)
class DiarisationError:
    """Seconds."""

    missed: float
    false: float
    confused: float
    speech: float
    """Of the truth, people who speak at once each counted."""

    @property
    def rate(self) -> float:
        """The diarisation error rate."""
        return (self.missed + self.false + self.confused) / self.speech

    def __add__(self, other: DiarisationError) -> DiarisationError:
        return DiarisationError(
            missed=self.missed + other.missed,
            false=self.false + other.false,
            confused=self.confused + other.confused,
            speech=self.speech + other.speech,
        )


def _masks(turns: Sequence[Said], frames: int) -> NDArray[np.bool_]:
    """Who speaks in which frame: `[speakers, frames]`."""
    names = sorted({turn.speaker for turn in turns})
    masks = np.zeros((len(names), frames), bool)
    for turn in turns:
        masks[names.index(turn.speaker), round(turn.start * FRAMES) : round(turn.end * FRAMES)] = True
    return masks


def diarisation_error(truth: Sequence[Said], found: Sequence[Said]) -> DiarisationError:
    """Compares who speaks when; text is not looked at."""
    frames = max((round(turn.end * FRAMES) for turn in (*truth, *found)), default=0)
    true, heard = _masks(truth, frames), _masks(found, frames)
    both = true.astype(np.int64) @ heard.T.astype(np.int64)
    rows, columns = linear_sum_assignment(both, maximize=True) if both.size else ([], [])
    right = int(both[rows, columns].sum()) if both.size else 0
    ours, theirs = heard.sum(axis=0), true.sum(axis=0)
    least = int(np.minimum(ours, theirs).sum())
    return DiarisationError(
        missed=float(np.maximum(theirs - ours, 0).sum()) / FRAMES,
        false=float(np.maximum(ours - theirs, 0).sum()) / FRAMES,
        confused=(least - right) / FRAMES,
        speech=float(theirs.sum()) / FRAMES,
    )


def words_wrong(truth: Sequence[Said], found: Sequence[Said]) -> tuple[int, int]:
    """Errors and words with each person's words together, by the best mapping of people."""
    said, heard = (_by_speaker(turns) for turns in (truth, found))
    size = max(len(said), len(heard))
    said, heard = (texts + [""] * (size - len(texts)) for texts in (said, heard))
    costs = np.array([[word_errors(one, other).total for other in heard] for one in said])
    rows, columns = linear_sum_assignment(costs)
    return int(costs[rows, columns].sum()), sum(word_errors(text, "").words for text in said if text)


def _by_speaker(turns: Sequence[Said]) -> list[str]:
    texts: dict[str, list[str]] = {}
    for turn in sorted(turns):
        texts.setdefault(turn.speaker, []).append(turn.text)
    return [" ".join(row) for row in texts.values()]


def all_words_wrong(truth: Sequence[Said], found: Sequence[Said]) -> tuple[int, int]:
    """Errors and words, whoever says them, in the order of their times."""
    said, heard = (" ".join(turn.text for turn in sorted(turns)) for turns in (truth, found))
    errors = word_errors(said, heard)
    return errors.total, errors.words
