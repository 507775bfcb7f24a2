"""Figures of a turn: what its sound is like, and whether its text is what is said in it.

Figures only: nothing is left out here. What a figure is worth is the policy's to say (`csm_components.ingest.select`),
so that other bounds cost no second look at the sound.

| figure | what it is | measured by |
| --- | --- | --- |
| `wer_given_heard` | word errors of the text heard against the one given, a word given | `evaluate.wer` |
| `unheard_words` | words given before the first, or after the last, that was heard | `evaluate.wer` |
| `bandwidth_hz` | where the spectrum ends | `spectrum` |
| `snr_db` | speech over the noise under it | `spectrum` |
| `loudness_db` | level of the louder half, dB of full scale | `spectrum` |
| `clipped` | share of samples cut off | `ingest.checks` |
| `speech`, `music` | share of the turn in which there is any | `activity`, given |
| `edge_silence_s` | seconds before the first speech and after the last | `activity`, given |
| `characters_per_second` | letters and digits of its text a second | |
| `unique_words`, `longest_word`, `stock_phrase` | marks of a text that a recogniser invented | `invented` |
| `language_text`, `language_certainty` | of its text, and how sure, 0 to 1 | `language` |
| `language_given`, `language_sound` | as the corpus and the recogniser name it | given |
| `speaker_certainty` | of its speaker, 0 to 1 | given, or `voices` |
| `duplicate_of` | an earlier turn with the same sound | `duplicates` |

What was not measured is absent.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from csm_components.annotate.invented import marks_of_invention
from csm_components.annotate.language import language_of_text
from csm_components.annotate.spectrum import measure_spectrum
from csm_components.evaluate.wer import Step, word_errors
from csm_components.ingest.audio import Samples
from csm_components.ingest.checks import clipped_share, plain_text

VERSION = 1
"""Of what this module makes."""
HESITATIONS = frozenset("ah and but eh er erm hm hmm i mhm mm oh so uh uhhuh um well yeah you know".split())
_LOOP = re.compile(r"(\b[\w']+\b)(?:\W+\1\b){3,}\W*", re.IGNORECASE)
"""One word four times and more: what recognisers make of a short sound."""
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
    language_given: str | None = None,
    language_sound: str | None = None,
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
        language_given: the language that the corpus names.
        language_sound: the one that a recogniser hears.
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
        figures |= compare_texts(text_given, text_heard)
    return figures | marks_of_invention(text) | _languages(text, language_given, language_sound)


def compare_texts(given: str, heard: str) -> dict[str, float]:
    """`wer_given_heard` and `unheard_words`; nothing of a text without words, or one that is too long to align."""
    words = max(len(given.split()), len(heard.split()))
    if not plain_text(given) or words > LONGEST_TEXT:
        return {}
    errors = word_errors(given, _LOOP.sub(r"\1", heard))
    figures: dict[str, float] = {"wer_given_heard": round(errors.rate, 4)}
    if plain_text(heard):
        figures["unheard_words"] = max(_unheard(errors.steps), _unheard(errors.steps[::-1]))
    return figures


def _unheard(steps: Sequence[Step]) -> int:
    """Words given before the first that was heard; hesitations, which recognisers leave out, do not count."""
    before = itertools.takewhile(lambda step: not step.heard, steps)
    return sum(word not in HESITATIONS for step in before for word in step.said.split())


def _languages(text: str, given: str | None, sound: str | None) -> dict[str, Any]:
    """Codes of languages, without a country: `en-US` is `en`."""
    figures: dict[str, Any] = {}
    if (found := language_of_text(text)) is not None:
        figures |= {"language_text": found.code, "language_certainty": found.certainty}
    named = {"language_given": given, "language_sound": sound}
    return figures | {name: re.split("[-_]", code)[0].lower() for name, code in named.items() if code}


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
