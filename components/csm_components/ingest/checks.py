"""The checks that every record goes through. Each has a bound, and a rejection names the figure and the bound."""

from __future__ import annotations

import re

import numpy as np

from csm_components.ingest.audio import Samples
from csm_components.ingest.policy import Rules
from csm_components.ingest.records import Reason


def plain_text(text: str) -> str:
    """Text as two records are compared by it: letters and digits in lower case, single spaces."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def check_text(text: str) -> tuple[Reason, str] | None:
    """Finds text with nothing to say."""
    return None if plain_text(text) else ("no text", f"{text!r} holds no word")


def clipped_share(samples: Samples) -> float:
    """Share of samples `[S]` in runs of three or more at full scale, as a converter leaves them when it clips."""
    full = np.abs(samples) >= 0.999
    if len(full) < 3:
        return 0.0
    middle = full[:-2] & full[1:-1] & full[2:]
    run = np.zeros(len(full), bool)
    for shift in range(3):
        run[shift : len(full) - 2 + shift] |= middle
    return float(run.mean())


def check_sound(samples: Samples, rate: int, text: str, rules: Rules) -> tuple[Reason, str] | None:
    """Finds what is wrong with a turn's samples `[S]` (float, before resampling), or with how its text fits them."""
    seconds = len(samples) / rate
    if seconds < rules.min_seconds:
        return "empty", f"{seconds:.2f} s of sound, at least {rules.min_seconds} s are needed"
    level = 10 * np.log10(float(np.mean(np.square(samples, dtype=np.float64))) + 1e-12)
    if not level >= rules.min_level_db:  # a sample that is no number makes the level none
        return "silent", f"{level:.0f} dB of full scale, at least {rules.min_level_db:.0f} dB are needed"
    clipped = clipped_share(samples)
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
