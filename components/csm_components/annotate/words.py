"""Words: what is said in stretches of speech, each word with its time and how sure it is.

Whisper reads 30 s at a time, whatever is in them, so stretches are packed into windows of that length, with a short
silence between, and each word goes back to the stretch that it was heard in: a word has no time in which nobody
speaks. Agreed cures for what Whisper invents: no text before a window is shown to it, a window that it takes for no
speech is not believed, and one that repeats itself is read again in halves.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csm_components.annotate.activity import Activity
from csm_components.annotate.knobs import PACKAGED
from csm_components.annotate.recordings import RATE, DecodedSound, Span
from csm_components.ingest.audio import Samples
from csm_model.errors import InputError
from csm_model.files import digest_of_file

VERSION = 1
WINDOW_S = 29.0
GAP_S = 0.4
"""Silence between stretches of a window; people who pause for less are read on."""
AROUND_S = 0.1
"""Read before and after speech: its first and last sounds are quiet."""
BATCH = 8
"""Windows that are read at once."""
MOST_TOKENS = 300
"""Of a window: twice what the fastest talker needs."""
NO_SPEECH, UNLIKELY, REPEATS = 0.6, -1.0, 2.4
"""Whisper's own bounds: a window is no speech where it says so and is unsure of the text; text that packs smaller than
that repeats itself."""
SHORTEST_WORD_S = 0.02


class Word(NamedTuple):
    """A word that was heard."""

    text: str
    """With the space before it, if any, and the punctuation at it."""
    start: float
    end: float
    confidence: float


class Stretch(NamedTuple):
    """Sound to be read."""

    span: Span
    channel: int | None


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What was heard in a recording."""

    words: list[list[Word]]
    """Of each stretch."""
    language: str | None
    """As the recogniser names it; None where nothing was heard."""
    certainty: float | None = None
    """Of the language, 0 to 1; None where it was said."""


@dataclass(frozen=True, kw_only=True)
class _SpeechWindow:
    """Stretches that are read at once."""

    stretches: Sequence[int]
    """Their numbers."""
    starts: list[float] = field(default_factory=list)
    """Where each begins in the window, seconds."""
    samples: Samples


def stretches_of(activity: Activity, seconds: float) -> list[Stretch]:
    """Speech as it is read, in the order of its times: a short pause parts no sentence, and a little is read around.

    Args:
        activity: the speech.
        seconds: length of the recording.
    """
    found = []
    for channel, spans in zip(activity.channels, activity.speech, strict=True):
        mine: list[Span] = []
        for span in spans:
            if mine and span.start - mine[-1].end <= GAP_S and span.end - mine[-1].start <= WINDOW_S - 2 * AROUND_S:
                mine[-1] = Span(mine[-1].start, span.end)
            else:
                mine.append(span)
        found += [
            Stretch(
                Span(max(0.0, round(span.start - AROUND_S, 3)), min(seconds, round(span.end + AROUND_S, 3))), channel
            )
            for span in mine
        ]
    return sorted(found, key=lambda stretch: stretch.span)


def recogniser_folder(name: str) -> Path:
    """The folder of a recogniser; raises `InputError` where there is none.

    Args:
        name: `tiny` or `base`, or a folder of faster-whisper (CTranslate2).
    """
    from csm_components.evaluate.judges import Size, whisper_folder

    if name in PACKAGED:
        size: Size = "tiny" if name == "tiny" else "base"
        return whisper_folder(size)
    folder = Path(name)
    if not (folder / "model.bin").is_file():
        raise InputError(
            f"recogniser {name}: no model.bin there; name a folder of faster-whisper, or {' or '.join(PACKAGED)}"
        )
    return folder


def recogniser_digest(name: str) -> str:
    """SHA-256 of a recogniser's weights."""
    from csm_components.evaluate.judges import WHISPER_DIGESTS

    return WHISPER_DIGESTS[name] if name in PACKAGED else digest_of_file(recogniser_folder(name) / "model.bin")


@cache
def _model(name: str) -> Any:
    """A recogniser, once in a process."""
    from faster_whisper import WhisperModel

    return WhisperModel(str(recogniser_folder(name)), device="cpu", compute_type="int8", cpu_threads=1)


def hear(
    sound: DecodedSound, stretches: Sequence[Stretch], *, recogniser: str, language: str | None = None
) -> Recognised:
    """Reads stretches of speech.

    Args:
        sound: the recording.
        stretches: no longer than a window; longer ones are read up to its end.
        recogniser: see `recogniser_folder`.
        language: what is spoken; found where None, from the first windows.
    """
    words: list[list[Word]] = [[] for _ in stretches]
    found, certainty = language, None
    for windows in _batched(_packed(sound, stretches)):
        rows, heard_language, sure = _read(_model(recogniser), windows, found)
        if found is None:
            found, certainty = heard_language, round(sure, 3)
        for window, row in zip(windows, rows, strict=True):
            _back(window, row, stretches, words)
    return Recognised(words=words, language=found if stretches else language, certainty=certainty)


def _packed(sound: DecodedSound, stretches: Sequence[Stretch]) -> Iterator[_SpeechWindow]:
    """Windows of as many stretches as fit, in order."""
    gap = np.zeros(round(GAP_S * RATE), np.float32)
    numbers: list[int] = []
    starts: list[float] = []
    pieces: list[Samples] = []
    filled = 0.0
    for number, (span, channel) in enumerate(stretches):
        seconds = min(span.seconds, WINDOW_S)
        if numbers and filled + GAP_S + seconds > WINDOW_S:
            yield _SpeechWindow(stretches=numbers, starts=starts, samples=np.concatenate(pieces))
            numbers, starts, pieces, filled = [], [], [], 0.0
        if numbers:
            pieces.append(gap)
            filled += GAP_S
        numbers.append(number)
        starts.append(filled)
        pieces.append(sound.read(channel, Span(span.start, span.start + seconds)))
        filled += len(pieces[-1]) / RATE
    if numbers:
        yield _SpeechWindow(stretches=numbers, starts=starts, samples=np.concatenate(pieces))


def _batched(windows: Iterator[_SpeechWindow]) -> Iterator[list[_SpeechWindow]]:
    batch: list[_SpeechWindow] = []
    for window in windows:
        batch.append(window)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(model: Any, windows: Sequence[_SpeechWindow], language: str | None) -> tuple[list[list[Word]], str, float]:
    """The words of windows, by their times in each; and the language."""
    from faster_whisper import BatchedInferencePipeline

    edges = (np.cumsum([0, *(len(window.samples) for window in windows)]) / RATE).tolist()
    segments, info = BatchedInferencePipeline(model).transcribe(
        np.concatenate([window.samples for window in windows]),
        language=language,
        beam_size=1,
        temperature=0.0,
        word_timestamps=True,
        without_timestamps=True,
        condition_on_previous_text=False,
        batch_size=BATCH,
        max_new_tokens=MOST_TOKENS,
        clip_timestamps=[{"start": a, "end": b} for a, b in pairwise(edges)],
        vad_filter=False,
    )
    rows: list[list[Word]] = [[] for _ in windows]
    again: set[int] = set()
    for segment in segments:
        number = bisect.bisect_right(edges, segment.seek / 100 + 0.02) - 1  # frames of 10 ms, cut off
        if segment.no_speech_prob > NO_SPEECH and segment.avg_logprob < UNLIKELY:
            continue
        if segment.compression_ratio > REPEATS:
            again.add(number)
            continue
        offset = edges[number]
        rows[number] += [
            Word(word.word, word.start - offset, word.end - offset, round(float(word.probability), 3))
            for word in segment.words or ()
        ]
    for number in again:
        halves = _halves(windows[number])
        if len(halves) > 1:
            for half, begin in halves:
                ((words,), _, _) = _read(model, [half], language or info.language)
                rows[number] += [word._replace(start=word.start + begin, end=word.end + begin) for word in words]
    return rows, str(info.language), float(info.language_probability)


def _halves(window: _SpeechWindow) -> list[tuple[_SpeechWindow, float]]:
    """A window as two, each with where it begins in it; one of a single stretch stays whole."""
    count = len(window.stretches)
    if count < 2:
        return [(window, 0.0)]
    found = []
    for places in (range(count // 2), range(count // 2, count)):
        begin = window.starts[places[0]]
        end = len(window.samples) if places[-1] + 1 == count else round((window.starts[places[-1] + 1] - GAP_S) * RATE)
        half = _SpeechWindow(
            stretches=[window.stretches[place] for place in places],
            starts=[window.starts[place] - begin for place in places],
            samples=window.samples[round(begin * RATE) : end],
        )
        found.append((half, begin))
    return found


def _back(window: _SpeechWindow, row: Sequence[Word], stretches: Sequence[Stretch], words: list[list[Word]]) -> None:
    """Gives each word to the stretch that its middle was heard in, at the time that it has there."""
    for word in row:
        middle = (word.start + word.end) / 2
        place = max(0, bisect.bisect_right(window.starts, middle) - 1)
        span = stretches[window.stretches[place]].span
        if place + 1 < len(window.starts):
            ends = window.starts[place] + span.seconds
            if middle - ends > window.starts[place + 1] - middle > 0:  # in the silence, nearer to the next
                place += 1
                span = stretches[window.stretches[place]].span
        shift = span.start - window.starts[place]
        start = min(max(span.start, word.start + shift), span.end - SHORTEST_WORD_S)
        end = min(max(start + SHORTEST_WORD_S, word.end + shift), span.end)
        words[window.stretches[place]].append(word._replace(start=round(start, 3), end=round(end, 3)))
