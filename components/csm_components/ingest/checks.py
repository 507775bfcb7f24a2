"""The checks that every record goes through. Each has a bound, and a rejection names the figure and the bound."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from csm_components.ingest.audio import Samples
from csm_components.ingest.licenses import FREE_LICENSES, canonical
from csm_components.ingest.records import Reason
from csm_model.errors import InputError

FULL_SCALE = 0.999
SHORTEST_RUN = 3
"""Samples at full scale in a row that are clipping; single peaks are none."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Bounds of the checks."""

    min_seconds: float = 0.2
    """A turn shorter than this is empty."""
    min_level_db: float = -55.0
    """A turn whose root mean square is below this (dB of full scale) is silent."""
    max_clipped: float = 0.002
    """A turn with a larger share of its samples cut off at full scale is clipped."""
    max_chars_per_second: float = 32.0
    """Letters and digits that nobody says in a second; common speech has 12 to 18."""
    min_chars_per_second: float = 2.5
    """Fewer than this, after `slack_seconds`, and the recording holds something that the text does not."""
    slack_seconds: float = 2.0
    """Silence and hesitation that any turn may have."""
    licenses: tuple[str, ...] = FREE_LICENSES
    """Licences taken, by SPDX name."""

    def __post_init__(self) -> None:
        if not 0 < self.min_chars_per_second < self.max_chars_per_second:
            raise InputError(
                f"chars per second from {self.min_chars_per_second} to {self.max_chars_per_second}: "
                "the lower bound must be above 0 and below the upper one"
            )
        if not self.licenses:
            raise InputError("no licence is allowed, so every record would be left out; allow at least one")


def plain_text(text: str) -> str:
    """Text as two records are compared by it: letters and digits in lower case, single spaces."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def check_text(text: str) -> tuple[Reason, str] | None:
    """Finds text with nothing to say."""
    return None if plain_text(text) else ("no text", f"{text!r} holds no word")


def check_license(name: str | None, rules: Rules) -> tuple[Reason, str] | None:
    """Finds a licence that is not on the list, or none at all."""
    if name is None:
        return "unknown licence", "names no licence; put a LICENSE file into the corpus or give one"
    if canonical(name, rules.licenses) is None:
        return "unknown licence", f"{name!r} is not on the list of allowed licences"
    return None


class SoundMeter:
    """What the checks ask of a turn's sound, which comes in blocks."""

    def __init__(self) -> None:
        self.samples = 0
        self._squares = 0.0
        self._clipped = 0
        self._run = 0  # samples at full scale that the last block ended with

    def add(self, samples: Samples) -> None:
        """Takes the next samples `[S]` (float, before resampling)."""
        self.samples += len(samples)
        self._squares += float(np.sum(np.square(samples, dtype=np.float64)))
        full = np.concatenate(([False], np.abs(samples) >= FULL_SCALE, [False]))
        edges = np.flatnonzero(full[1:] != full[:-1])
        starts, ends = edges[::2], edges[1::2]
        lengths = ends - starts
        if len(starts) and starts[0] == 0:
            lengths[0] += self._run
        else:
            self._clipped += self._counted(self._run)
        self._run = 0
        if len(ends) and ends[-1] == len(samples):
            self._run = int(lengths[-1])
            lengths = lengths[:-1]
        self._clipped += int(lengths[lengths >= SHORTEST_RUN].sum())

    @staticmethod
    def _counted(run: int) -> int:
        return run if run >= SHORTEST_RUN else 0

    @property
    def level_db(self) -> float:
        """Root mean square, dB of full scale."""
        return float(10 * np.log10(self._squares / max(self.samples, 1) + 1e-12))

    @property
    def clipped(self) -> float:
        """Share of samples in runs of three or more at full scale, as a converter leaves them when it clips."""
        return (self._clipped + self._counted(self._run)) / max(self.samples, 1)


def clipped_share(samples: Samples) -> float:
    """Share of samples `[S]` in runs of three or more at full scale, as a converter leaves them when it clips."""
    meter = SoundMeter()
    meter.add(samples)
    return meter.clipped


def check_sound(samples: Samples, rate: int, text: str, rules: Rules) -> tuple[Reason, str] | None:
    """Finds what is wrong with a turn's samples `[S]` (float, before resampling), or with how its text fits them."""
    meter = SoundMeter()
    meter.add(samples)
    return check_meter(meter, rate, text, rules)


def check_meter(meter: SoundMeter, rate: int, text: str, rules: Rules) -> tuple[Reason, str] | None:
    """Finds what is wrong with a turn's sound, or with how its text fits it."""
    seconds = meter.samples / rate
    if seconds < rules.min_seconds:
        return "empty", f"{seconds:.2f} s of sound, at least {rules.min_seconds} s are needed"
    level = meter.level_db
    if not level >= rules.min_level_db:  # a sample that is no number makes the level none
        return "silent", f"{level:.0f} dB of full scale, at least {rules.min_level_db:.0f} dB are needed"
    clipped = meter.clipped
    if clipped > rules.max_clipped:
        return "clipped", f"{clipped:.1%} of the samples are cut off, at most {rules.max_clipped:.1%} may be"
    chars = len(plain_text(text).replace(" ", ""))
    if chars > seconds * rules.max_chars_per_second:
        rule = f"at most {rules.max_chars_per_second:.0f} a second can be said"
        return "text does not fit", f"{chars} letters in {seconds:.2f} s, {rule}"
    if seconds > rules.slack_seconds + chars / rules.min_chars_per_second:
        rule = f"at least {rules.min_chars_per_second} a second are expected"
        return "text does not fit", f"{chars} letters in {seconds:.1f} s, {rule}"
    return None
