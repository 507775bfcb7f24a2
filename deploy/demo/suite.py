"""The suite of 200 new sentences, and what makes them new.

They were written for the suite and stand in no corpus. The rule, over all text that the base and the demo are trained on: a
run of three words of the suite that is in training must be one that English has anyway. That is, it stands in real text at
least `LEAST_TIMES` times, and in at least `LEAST_SOURCES` of the sources that `collect_text.py` reads. That script leaves out
the lines which break the rule; a test holds it over them and the grammar's corpora.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SUITE = Path(__file__).parent / "suite" / "sentences.jsonl"
LEAST_TIMES = 3
LEAST_SOURCES = 2


def is_english_anyway(times: Mapping[str, int]) -> bool:
    """Whether a run of three words, which a source has so many times, is common in real text."""
    return sum(times.values()) >= LEAST_TIMES and len(times) >= LEAST_SOURCES
