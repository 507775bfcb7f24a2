"""The checks that every record goes through. Each has a bound, and a rejection names the figure and the bound."""

from __future__ import annotations

import re

import numpy as np

from csm_components.ingest.audio import Samples
from csm_components.ingest.policy import Rules
from csm_components.ingest.records import Reason

FULL_SCALE = 0.999
SHORTEST_RUN = 3
"""Samples at full scale in a row that are clipping; single peaks are none."""


def plain_text(text: str) -> str:
    """Text as two records are compared by it: letters and digits in lower case, single spaces."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def check_text(text: str) -> tuple[Reason, str] | None:
    """Finds text with nothing to say."""
    return None if plain_text(text) else ("no text", f"{text!r} holds no word")


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
