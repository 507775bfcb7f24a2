"""Hearing: what a sample of the corpus loses in the codec, before anything is made of its codes.

A model speaks no better than its codec: words and voices that are lost in the codes come back in no training. So judges
hear some turns of every voice before and after the codec, and one that cannot carry a voice is refused at once.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from csm_components.evaluate.codec import Judged, JudgedClip, by_voice, figures_of, judge_clips
from csm_components.evaluate.figures import Interval
from csm_components.evaluate.judges import Size
from csm_components.evaluate.verdicts import JUDGES_VERSION
from csm_components.evaluate.wer import bootstrap_interval
from csm_components.events import progress as tell
from csm_components.ingest.conversations import Conversation, RecordedTurn
from csm_components.tokenise.knobs import HearingSettings
from csm_components.tokenise.shard import one_thread
from csm_model.codec import AudioCodec
from csm_model.errors import ArtifactError
from csm_model.files import digest_of, known_json, write_json

FILE = "heard.json"
RECOGNISER: Size = "base"
SHORTEST_S, LONGEST_S = 1.0, 14.0  # turns that are taken first: long enough to know a voice by, and read in one window
READABLE = 0.3  # word error rate of recordings beyond which the recogniser does not know the language
ENOUGH = 4  # turns of a voice that say something of it


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What turns lose in the codec. Intervals are of 95 %, by bootstrap over turns."""

    turns: int
    wer_added: float | None
    """Word error rate after the codec minus that of the recordings; none where they cannot be read."""
    wer_added_interval: Interval | None
    likeness: float
    """Cosine of what is decoded to the recording."""
    likeness_interval: Interval
    mos: float
    """Opinion score (distillMOS) of what is decoded."""
    mos_recorded: float

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Loss:
        """Over clips."""
        figures = figures_of(judged)
        readable = figures.wer_original.get(RECOGNISER, 1.0) <= READABLE
        added = [clip.after[RECOGNISER].total - clip.before[RECOGNISER].total for clip in judged] if readable else []
        words = [clip.before[RECOGNISER].words for clip in judged] if readable else []
        return cls(
            turns=len(judged),
            wer_added=sum(added) / sum(words) if readable else None,
            wer_added_interval=bootstrap_interval(added, words) if readable else None,
            likeness=figures.similarity,
            likeness_interval=bootstrap_interval([clip.similarity for clip in judged]),
            mos=figures.mos_decoded,
            mos_recorded=figures.mos_original,
        )

    @property
    def words(self) -> str:
        """In a line."""
        read = "words not read" if self.wer_added is None else f"{100 * self.wer_added:+.1f} points of word errors"
        return f"{read}, likeness {self.likeness:.2f}, distillMOS {self.mos_recorded:.1f} to {self.mos:.1f}"


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """What a codec makes of a corpus."""

    key: str
    """`hearing_key`; the bounds may change."""
    total: Loss
    voices: Mapping[str, Loss]

    @classmethod
    def load(cls, folder: Path) -> Hearing | None:
        """Reads what `save` wrote into a folder; none where nobody has listened."""
        if (stored := known_json(folder / FILE)) is None:
            return None
        return cls(
            key=stored["key"],
            total=_loss(stored["total"]),
            voices={name: _loss(row) for name, row in stored["voices"].items()},
        )

    def save(self, folder: Path) -> None:
        """Writes what `load` reads."""
        write_json(folder / FILE, asdict(self))


def _loss(row: Mapping[str, Any]) -> Loss:
    intervals = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    return Loss(**{**row, **intervals})


def hearing_key(codec: AudioCodec, dataset_digest: str, settings: HearingSettings) -> str:
    """What a verdict depends on."""
    return digest_of([codec.digest, dataset_digest, settings.heard_turns, JUDGES_VERSION])


def sample(conversations: Sequence[Conversation], turns: int) -> Iterator[tuple[Conversation, RecordedTurn]]:
    """So many turns, the same for the same corpus: one of each voice, then another of each, and so on.

    Of more voices than turns some are taken, evenly in the order of their numbers.
    """
    voices: dict[tuple[str, int], list[tuple[Conversation, RecordedTurn]]] = {}
    for item in conversations:
        for turn in item.turns:
            who = ("", turn.speaker) if turn.person is None else (turn.person, 0)
            voices.setdefault(who, []).append((item, turn))
    numbers = sorted(voices)
    if len(numbers) > turns:
        numbers = [numbers[place] for place in np.linspace(0, len(numbers) - 1, turns).round().astype(int)]
    for number in numbers:
        voices[number].sort(key=lambda pair: _preference(pair[1]))
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*(voices[number] for number in numbers)))
    return itertools.islice((pair for pair in rounds if pair is not None), turns)


def _preference(turn: RecordedTurn) -> tuple[bool, bytes]:
    return not SHORTEST_S <= turn.duration <= LONGEST_S, hashlib.sha256(turn.id.encode()).digest()


def hear(
    codec: AudioCodec,
    conversations: Sequence[Conversation],
    settings: HearingSettings,
    out: Path,
    *,
    called: Path,
    dataset_digest: str,
    workers: int,
    console: Console,
) -> Hearing | None:
    """Has a sample judged before and after the codec, says what came of it, and writes it to `out`.

    What was heard there of the same is not heard again. None where nobody is to listen.

    Args:
        codec: the codec.
        conversations: all of the corpus.
        settings: how many turns, and what they may lose.
        out: folder for the verdict.
        called: the codec's folder.
        dataset_digest: of the conversations.
        workers: processes.
        console: where it is said.

    Raises:
        ArtifactError: a voice, or all of them together, loses more than the settings allow, beyond doubt.
    """
    if not settings.heard_turns:
        (out / FILE).unlink(missing_ok=True)
        return None
    key = hearing_key(codec, dataset_digest, settings)
    heard = Hearing.load(out)
    if heard is None or heard.key != key:
        heard = _judged(codec, sample(conversations, settings.heard_turns), key, workers)
        heard.save(out)
    for name, loss in heard.voices.items():
        console.print(f"Through the codec, {name} ({loss.turns} turns): {loss.words}", markup=False)
    for name, loss in {**heard.voices, "all voices": heard.total}.items():
        if loss.turns >= ENOUGH and (why := _refusal(loss, settings)):
            raise ArtifactError(
                f"{called}: the codec cannot carry {name}: {why}; give a codec that knows such voices, such as Mimi "
                "or one that csm codec train makes of them, with --set data.codec=FOLDER"
            )
    return heard


def _judged(codec: AudioCodec, chosen: Iterator[tuple[Conversation, RecordedTurn]], key: str, workers: int) -> Hearing:
    clips = [JudgedClip(text=turn.text, speaker=turn.named, audio=item.audio(turn)) for item, turn in chosen]
    done = itertools.count(1)
    with one_thread():
        judged = judge_clips(
            codec,
            clips,
            recognisers=(RECOGNISER,),
            workers=workers,
            on_clip=lambda: tell(f"hear the codec, {next(done)} of {len(clips)} turns"),
        )
    voices = {name: Loss.of(own) for name, own in by_voice(judged).items()}
    return Hearing(key=key, total=Loss.of(judged), voices=voices)


def _refusal(loss: Loss, settings: HearingSettings) -> str:
    """Why a loss is too great, if it is so with its whole interval; else empty."""
    most, least = settings.max_codec_wer_added, settings.min_codec_likeness
    if least is not None and not loss.likeness_interval[1] >= least:  # NaN is a miss
        return f"likeness to the recordings {loss.likeness:.2f}, at least {least:.2f} is needed"
    if (
        most is not None
        and loss.wer_added is not None
        and loss.wer_added_interval is not None
        and not loss.wer_added_interval[0] <= most
    ):
        return f"{100 * loss.wer_added:.0f} points more word errors than in the recordings, at most {100 * most:g}"
    return ""
