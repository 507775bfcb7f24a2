"""The dialogue at the end of a run: who speaks in it, how it is spoken, and what the judges hear in it.

| file | what it is |
| --- | --- |
| `dialogue.wav` | all of it |
| `clips/dialogue/`, `verdicts/dialogue/` | each turn by itself, and what the judges heard in it |
| `dialogue.html` | its part of the report |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from csm_components.evaluate.clips import commit_clip, read_clip
from csm_components.evaluate.figures import Figures, JudgedSentence, figures_of
from csm_components.evaluate.judging import judged_rows
from csm_components.evaluate.knobs import EvaluateSettings
from csm_components.evaluate.report_dialogue import dialogue_section
from csm_components.evaluate.sentences import Sentence
from csm_components.evaluate.work import Take, place_of, progress_bar
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.conversations import read_manifest as read_conversations_manifest
from csm_components.settings import worker_count
from csm_model.files import write_bytes
from csm_model.manifest import speakers_in
from csm_serving.client.dialogue import DialogueLine, SpokenLine, speak_dialogue
from csm_serving.client.speech import SpeechService

SERIES = "dialogue"
SOUND, PART = "dialogue.wav", "dialogue.html"


@dataclass(frozen=True, kw_only=True)
class HeardDialogue:
    """What came of a dialogue; JSON-able. Rates and shares are fractions."""

    speech: str
    """WAV of it all."""
    part: str
    """HTML for the report."""
    turns: int
    words: int
    wer: float
    """By the recogniser of the settings, turn by turn."""
    wer_interval: tuple[float, float]
    """95 %, by bootstrap over turns."""
    mos: float | None
    speaker_accuracy: float
    speaker_similarity: float
    unended: float
    """Turns that were cut because the model did not end them."""
    voices: dict[str, dict[str, Any]]
    """The same of each voice, by its name."""
    rows: list[dict[str, Any]]
    """Turn by turn: who, what was to be said, and what was heard."""


def voices_of(bundle: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[int, str]:
    """The voices of a run: the bundle's speakers that the corpus has, by number.

    Args:
        bundle: its manifest.
        dataset: the manifest of the conversations.
    """
    corpus = speakers_in(dataset)
    known = speakers_in(bundle) or corpus
    return {number: name for number, name in sorted(known.items()) if number in corpus}


def cast_dialogue(lines: Sequence[DialogueLine], voices: Mapping[int, str]) -> tuple[DialogueLine, ...]:
    """The turns with the numbers of their voices; who is none of them is spoken by one that nobody has taken, if any.

    So a dialogue that was written for other voices is spoken by those of the corpus.
    """
    numbers: dict[int | str, int] = {voices[number]: number for number in sorted(voices, reverse=True)}
    asked = list(dict.fromkeys(line.who for line in lines))
    known = {who: numbers.get(who, who) for who in asked if numbers.get(who, who) in voices}
    free = cycle([number for number in voices if number not in known.values()] or list(voices))
    cast = {who: known[who] if who in known else next(free) for who in asked}
    return tuple(replace(line, who=cast[line.who]) for line in lines)


def hold_dialogue(
    speech: SpeechService,
    lines: Sequence[DialogueLine],
    out: Path,
    *,
    manifest: Mapping[str, Any],
    seed: int,
    max_frames: int | None,
    say: Callable[[str], None],
) -> list[Take]:
    """Speaks the turns, each after those before it; commits each as a clip."""
    if not lines:
        return []
    takes: list[Take] = []

    def tell(said: SpokenLine) -> None:
        number = len(takes)
        sentence = Sentence(
            turn=f"{number:02}",
            conversation=SERIES,
            text=said.line.text,
            speaker=int(said.line.who),
            own=True,
            context=takes[-1].sentence.turn if takes else None,
        )
        place = place_of(
            out,
            SERIES,
            sentence,
            model=manifest["digest"],
            turns=[(line.who, line.text) for line in lines[: number + 1]],
            seed=seed,
            longest=max_frames,
        )
        commit_clip(place, np.asarray(said.audio), ended=said.spoken.ended)
        takes.append(Take(sentence=sentence, place=place))
        say(f"dialogue, turn {len(takes)} of {len(lines)}")

    speak_dialogue(
        speech,
        lines,
        path=out / SOUND,
        tell=tell,
        seed=seed,
        max_frames=max_frames,
    )
    return takes


def judge_dialogue(
    takes: Sequence[Take],
    conversations: Path,
    out: Path,
    *,
    names: Mapping[int, str],
    judging: EvaluateSettings,
    workers: int | None,
) -> HeardDialogue:
    """What the judges hear in the turns, and the part of the report that shows it."""
    asked = sorted({take.sentence.speaker for take in takes})
    dataset = read_conversations_manifest(conversations)
    with progress_bar(console=Console(stderr=True)) as progress:
        rows = judged_rows(
            {SERIES: takes},
            conversations,
            read_conversations(conversations, judging.split),
            out=out,
            dataset_digest=dataset["digest"],
            recogniser=judging.recogniser,
            mos=judging.mos,
            progress=progress,
            workers=worker_count(workers),
        )[SERIES]
    figures = figures_of(rows)
    of_voices = {voice: figures_of([row for row in rows if row.sentence.speaker == voice]) for voice in asked}
    sound = read_clip(out / SOUND)
    part = dialogue_section(rows, figures, of_voices, names, sound, recogniser=judging.recogniser)
    write_bytes(out / PART, part.encode())
    return HeardDialogue(
        speech=str(out / SOUND),
        part=str(out / PART),
        turns=len(rows),
        words=figures.words,
        wer_interval=figures.wer_interval,
        **_short(figures),
        voices={names[voice]: _short(its) for voice, its in of_voices.items()},
        rows=[_row(row, names) for row in rows],
    )


def _short(figures: Figures) -> dict[str, Any]:
    names = ("wer", "mos", "speaker_accuracy", "speaker_similarity", "unended")
    return {name: getattr(figures, name) for name in names}


def _row(row: JudgedSentence, names: Mapping[int, str]) -> dict[str, Any]:
    return {
        "voice": names[row.sentence.speaker],
        "text": row.sentence.text,
        "heard": row.verdict.heard,
        "word_errors": row.errors.total,
        "words": row.errors.words,
        "mos": row.verdict.mos,
        "speaker_similarity": row.similarity,
        "right_voice": row.right_voice,
        "ended": row.ended,
    }
