"""The long parts of evaluating, speaking and judging: in parallel, with progress, going on from what is committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from csm_components.evaluate.clips import (
    ClipPlace,
    SpeakTask,
    close_speaker,
    commit_clip,
    one_thread,
    speak_clip,
)
from csm_components.evaluate.judges import Audio, Size, SpeakerJudge
from csm_components.evaluate.sentences import Sentence
from csm_components.evaluate.sources import SpeechSource
from csm_components.evaluate.verdicts import JudgeTask, dismiss_panel, judge_clip
from csm_components.events import progress as tell
from csm_components.ingest.conversations import Conversation
from csm_components.ingest.convert import file_name
from csm_components.workers import run_parallel
from csm_model.codec import AudioCodec
from csm_model.errors import ArtifactError
from csm_model.files import digest_of
from csm_model.training.shards import TokenTurn
from csm_serving.wire.protocol import SamplingOptions, SpeechRequest, Turn

Task = TypeVar("Task")
REFERENCE_TURNS = 24
"""Training turns that make the reference of a voice."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """One clip of a series: what was to be said, and where the sound lies."""

    sentence: Sentence
    place: ClipPlace


def place_of(out: Path, series: str, sentence: Sentence, **parts: Any) -> ClipPlace:
    """Where a series keeps the clip of a sentence; `parts` is all that its sound depends on."""
    name = f"{file_name(sentence.id)}.wav"
    return ClipPlace(wav=out / "clips" / series / name, key=digest_of({"series": series, "id": sentence.id, **parts}))


def progress_bar(*, console: Console | None = None) -> Progress:
    """A bar with counts and times; nothing where there is no terminal, whose readers get `csm_components.events`."""
    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _run(
    progress: Progress,
    label: str,
    function: Callable[[Task], object],
    tasks: Sequence[Task],
    *,
    done: int,
    workers: int,
) -> None:
    bar = progress.add_task(label, total=done + len(tasks), completed=done)
    for _ in run_parallel(function, tasks, workers=min(workers, len(tasks)), initializer=one_thread):
        progress.advance(bar)
        done += 1
        tell(f"{label}, {done} of {progress.tasks[bar].total:.0f}")


def speak_all(
    sentences: Sequence[Sentence],
    source: SpeechSource,
    *,
    series: str,
    out: Path,
    tokens: Mapping[str, TokenTurn],
    tokens_digest: str,
    seeds: Mapping[str, int],
    max_frames: int | None,
    progress: Progress,
    workers: int,
    sampling: SamplingOptions | None = None,
) -> list[Take]:
    """Speaks every sentence after the turn before it (its text and its original's codes); commits each by itself.

    `seeds` are those of the sentences, by their ids: of any series the same, also where it speaks fewer of them. The
    bundle's own `sampling` is taken without one.
    """
    takes, tasks = [], []
    for sentence in sentences:
        before = tokens[sentence.context] if sentence.context else None
        context = (Turn(speaker=before.speaker, text=before.text, codes=before.codes),) if before else ()
        request = SpeechRequest(
            text=sentence.text,
            speaker=sentence.speaker,
            context=context,
            sampling=sampling or SamplingOptions(),
            seed=seeds[sentence.id],
            max_frames=max_frames,
        )
        place = place_of(
            out,
            series,
            sentence,
            model=source.digest,
            via=type(source).__name__,
            tokens=tokens_digest,
            seed=request.seed,
            longest=max_frames,
            **({"sampling": asdict(sampling)} if sampling else {}),
        )
        takes.append(Take(sentence=sentence, place=place))
        if not place.committed:
            tasks.append(SpeakTask(source=source, request=request, place=place))
    try:
        _run(progress, f"speak: {series}", speak_clip, tasks, done=len(takes) - len(tasks), workers=workers)
    finally:
        close_speaker()
    return takes


@torch.inference_mode()
def baseline_takes(
    sentences: Iterable[Sentence],
    conversations: Mapping[str, Conversation],
    tokens: Mapping[str, TokenTurn],
    codec: AudioCodec,
    *,
    out: Path,
    dataset_digest: str,
) -> dict[str, list[Take]]:
    """The same turns as they were recorded (`original`), and as the codec gives them back (`reconstruction`)."""
    takes: dict[str, list[Take]] = {"original": [], "reconstruction": []}
    for sentence in sentences:
        conversation = conversations[sentence.conversation]
        places = {
            "original": place_of(out, "original", sentence, dataset=dataset_digest),
            "reconstruction": place_of(out, "reconstruction", sentence, dataset=dataset_digest, codec=codec.digest),
        }
        if not places["original"].committed:
            turn = next(turn for turn in conversation.turns if turn.id == sentence.turn)
            commit_clip(places["original"], conversation.audio(turn), ended=True)
        if not places["reconstruction"].committed:
            codes = torch.from_numpy(tokens[sentence.turn].codes.astype(np.int64))
            sound: Audio = codec.decode(codes[None])[0, 0].float().numpy()
            commit_clip(places["reconstruction"], sound, ended=True)
        for series, place in places.items():
            takes[series].append(Take(sentence=sentence, place=place))
    return takes


def voice_references(
    conversations: Iterable[Conversation], speakers: Sequence[int], fallback: Iterable[Conversation]
) -> dict[int, NDArray[np.float32]]:
    """A reference for every voice from its first turns in `conversations`, or in `fallback` where it has none there."""
    judge = SpeakerJudge()
    sounds: dict[int, list[Audio]] = {speaker: [] for speaker in speakers}
    for source in (conversations, fallback):
        missing = {speaker for speaker in speakers if not sounds[speaker]}
        for conversation in source:
            wanted = {speaker for speaker in missing if len(sounds[speaker]) < REFERENCE_TURNS}
            if not wanted:
                break
            if any(turn.speaker in wanted for turn in conversation.turns):
                for turn, audio in zip(conversation.turns, conversation.turn_audios(), strict=True):
                    if turn.speaker in wanted and len(sounds[turn.speaker]) < REFERENCE_TURNS:
                        sounds[turn.speaker].append(audio)
    lost = [speaker for speaker in speakers if not sounds[speaker]]
    if lost:
        raise ArtifactError(f"no recording of speaker {lost[0]} to compare with: name only speakers of the corpus")
    return {speaker: judge.centroid(kept) for speaker, kept in sounds.items()}


def judge_all(
    takes: Mapping[str, Sequence[Take]],
    references: Mapping[int, NDArray[np.float32]],
    *,
    out: Path,
    recogniser: Size,
    references_key: str,
    mos: bool,
    progress: Progress,
    workers: int,
) -> dict[str, list[Path]]:
    """Judges every clip of every series; returns the paths of the verdicts, in the order of the takes."""
    tasks = {
        series: [
            JudgeTask(
                clip=take.place,
                path=out / "verdicts" / series / take.place.note.name,
                recogniser=recogniser,
                references=references,
                references_key=references_key,
                mos=mos,
            )
            for take in kept
        ]
        for series, kept in takes.items()
    }
    flat = [task for row in tasks.values() for task in row]
    todo = [task for task in flat if not task.committed]
    try:
        _run(progress, "judge", judge_clip, todo, done=len(flat) - len(todo), workers=workers)
    finally:
        dismiss_panel()
    return {series: [task.path for task in row] for series, row in tasks.items()}
