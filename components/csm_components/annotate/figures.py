"""Figures of a turn: what its sound is like, and whether its text is what is said in it.

Figures only: nothing is left out here. What a figure is worth is the policy's to say (`csm_components.ingest.select`),
so that other bounds cost no second look at the sound.

| figure | what it is | measured by |
| --- | --- | --- |
| `wer_given_heard` | word errors of the text heard against the one given, a word given | `evaluate.wer` |
| `bandwidth_hz` | where the spectrum ends | `spectrum` |
| `snr_db` | speech over the noise under it | `spectrum` |
| `loudness_db` | level of the louder half, dB of full scale | `spectrum` |
| `clipped` | share of samples cut off | `ingest.checks` |
| `speech`, `music` | share of the turn in which there is any | `activity`, given |
| `edge_silence_s` | seconds before the first speech and after the last | `activity`, given |
| `characters_per_second` | letters and digits of its text a second | |
| `unique_words`, `longest_word`, `stock_phrase` | marks of a text that a recogniser invented | `invented` |
| `language_certainty` | of the language of its text, 0 to 1 | `language` |
| `speaker_certainty` | of its speaker, 0 to 1 | given, or `voices` |
| `duplicate_of` | an earlier turn with the same sound | `duplicates` |

What was not measured is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from csm_components.annotate.invented import marks_of_invention
from csm_components.annotate.spectrum import measure_spectrum
from csm_components.evaluate.wer import word_errors
from csm_components.ingest.audio import Samples
from csm_components.ingest.checks import clipped_share, plain_text

VERSION = 1
"""Of what this module makes."""
LONGEST_TEXT = 400
"""Words beyond which two texts are not aligned: its time grows with the square."""


def measure(
    samples: Samples,
    rate: int,
    *,
    text: str,
    text_given: str | None = None,
    text_heard: str | None = None,
    speech: Sequence[tuple[float, float]] | None = None,
    music: float | None = None,
    speaker_certainty: float | None = None,
) -> dict[str, Any]:
    """The figures of one turn.

    Args:
        samples: its sound `[S]`, mono, -1 to 1.
        rate: of these samples, Hz; the higher of the source's and what is at hand, for bandwidth ends at half of it.
        text: what it is taken to say.
        text_given: what the corpus says is said.
        text_heard: what a recogniser hears.
        speech: spans in which there is speech, seconds from the turn's beginning.
        music: share of it with music.
        speaker_certainty: of its speaker.
    """
    seconds = len(samples) / rate
    figures: dict[str, Any] = {}
    if seconds:
        figures |= measure_spectrum(samples, rate, speech)
        figures["clipped"] = round(clipped_share(samples), 5)
        figures["characters_per_second"] = round(len(plain_text(text).replace(" ", "")) / seconds, 2)
        if speech is not None:
            figures |= _of_speech(speech, seconds)
    if music is not None:
        figures["music"] = round(music, 3)
    if speaker_certainty is not None:
        figures["speaker_certainty"] = round(speaker_certainty, 3)
    if text_given is not None and text_heard is not None:
        rate_of_errors = wer_given_heard(text_given, text_heard)
        figures |= {} if rate_of_errors is None else {"wer_given_heard": rate_of_errors}
    return figures | marks_of_invention(text)


def wer_given_heard(given: str, heard: str) -> float | None:
    """Word errors a word given; None for a text without words, or one that is too long to align."""
    words = max(len(given.split()), len(heard.split()))
    if not plain_text(given) or words > LONGEST_TEXT:
        return None
    return round(word_errors(given, heard).rate, 4)


def _of_speech(speech: Sequence[tuple[float, float]], seconds: float) -> dict[str, float]:
    """Share of speech, and the silence around it; all of a turn without speech is silence around none."""
    spans = [(max(0.0, start), min(seconds, end)) for start, end in speech if end > 0 and start < seconds]
    if not spans:
        return {"speech": 0.0, "edge_silence_s": round(seconds, 3)}
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    return {
        "speech": round(min(1.0, sum(end - start for start, end in spans) / seconds), 3),
        "edge_silence_s": round(first + seconds - last, 3),
    }
