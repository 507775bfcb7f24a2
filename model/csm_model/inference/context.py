"""What is read before speech: a voice prompt, the turns said before, the text; and what is dropped if it is too much.

Of the model's rows, those of the text, of the voice prompt and of the longest speech that the text allows are set aside
first. The turns said before share the rest: the newest ones stay, and from the first one on that does not fit all are
dropped, whole. So it depends on the text, and not on the longest speech that anything might need, how much context
there is room for. Nor do more turns stay than are to be heard at most: a model that hears more of them than it was
trained with is lost.

A voice prompt is laid out in one of two ways:

    segment     prompt text | prompt sound | end | turns said before | text               | speech
    continue    turns said before | prompt text and text | prompt sound               | speech

As a segment (SesameAILabs/csm, generator.py) it is a turn like any other, which only is never dropped. Continued (as in
mlx-audio's sesame.py) its words and those to be said are one turn, of which the prompt's sound is the beginning: speech
goes on from it, in its voice and pace.

Shapes: T rows, K codebooks, F frames, L text ids. A row is `[K + 1]` ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from csm_model.config import ModelConfig
from csm_model.errors import CsmError, InputError
from csm_model.inference.decoding import Prompt
from csm_model.inference.faults import fault_of
from csm_model.inference.prompt import audio_rows, text_rows
from csm_model.inference.safety import frame_limit
from csm_model.text import Tokenizer

Style = Literal["segment", "continue"]
Rows = tuple[Tensor, Tensor]  # [T, K + 1] ids and their mask
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ContextTurn:
    """A turn that was said before: its text and, where known, its codes `[K, F]`."""

    speaker: int
    text: str
    codes: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class VoicePrompt:
    """Recorded speech whose voice is taken up: its text and its codes `[K, F]`."""

    speaker: int
    """Number under which the voice is known; with `continue` it must be the number that speaks."""
    text: str
    """What is said in it, word by word."""
    codes: Tensor
    style: Style = "segment"

    def __post_init__(self) -> None:
        if self.style not in ("segment", "continue"):
            raise InputError(f"style {self.style!r} of a voice prompt: must be segment or continue")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is read, and what may follow."""

    prompt: Prompt
    limit: int
    """The most frames of speech."""
    dropped: int
    """Turns said before that are not heard, being too many or having no room: so many of the oldest."""
    pinned: int
    """Rows at the beginning that are the voice prompt's, the same whatever is said."""


def lay_out(
    text: str,
    speaker: int,
    *,
    tokenizer: Tokenizer,
    config: ModelConfig,
    context: Sequence[ContextTurn] = (),
    turns: int | None = None,
    voice: VoicePrompt | None = None,
    max_frames: int | None = None,
) -> Layout:
    """Lays out the rows to be read before `text` is spoken.

    Args:
        text: what to say.
        speaker: who says it.
        tokenizer: the model's.
        config: the model's.
        context: turns said before, oldest first; those that do not fit are dropped.
        turns: the most of them that are heard; None for all that fit.
        voice: whose voice is taken up; it is never dropped.
        max_frames: the most frames of speech, where that is less than the text allows.

    Raises:
        InputError: nothing to say, an unknown speaker, codes of another codec, or a text and a voice prompt that do not
            fit even without the turns said before.
    """
    ids = text_ids(text, speaker, tokenizer)
    limit = frame_limit(tokenizer.sounds(ids), max_frames)
    pinned: list[Rows] = []
    after: list[Rows] = []
    if voice is None:
        target = ids
    else:
        check_codes(voice.codes, config, "voice prompt")
        if voice.style == "segment":
            target = ids
            pinned = _turn_rows(voice, tokenizer, config)
        else:
            if voice.speaker != speaker:
                raise InputError(
                    f"voice prompt of speaker {voice.speaker} cannot be continued by speaker {speaker}: "
                    "ask for the prompt's speaker, or take the style segment"
                )
            target = text_ids(f"{voice.text.strip()} {text.lstrip()}", speaker, tokenizer)
            after = [audio_rows(voice.codes, config, close=False)]
    needed = _count(pinned) + len(target) + _count(after) + limit
    if needed > config.max_rows:
        prompt = _count(pinned) + _count(after)
        raise InputError(
            f"{needed} rows are needed, {prompt} for the voice prompt, {len(target)} for the text and {limit} for the "
            f"speech: the model holds {config.max_rows}; give a shorter text or voice prompt"
        )
    for number, turn in enumerate(context):
        if turn.codes is not None:
            check_codes(turn.codes, config, f"context turn {number}")
    kept = _kept(newest(context, turns), config.max_rows - needed, tokenizer, config)
    before = pinned + [part for rows in kept for part in rows]
    rows, mask = (torch.cat(part) for part in zip(*before, text_rows(target, config), *after, strict=True))
    # Guidance compares with a sequence that does not see what is to be said: only who says it.
    begin = _count(before)
    unread = mask.clone()
    unread[begin : begin + len(target)] = text_rows(target, config, read=False)[1]
    return Layout(
        prompt=Prompt(rows, mask, unread), limit=limit, dropped=len(context) - len(kept), pinned=_count(pinned)
    )


def newest(context: Sequence[T], most: int | None) -> Sequence[T]:
    """The newest turns of a context, oldest first: `most` of them, or all for None."""
    return context if most is None else context[max(0, len(context) - most) :]


def _kept(context: Sequence[ContextTurn], room: int, tokenizer: Tokenizer, config: ModelConfig) -> list[list[Rows]]:
    """The rows of each of the newest turns that fit into `room` rows, oldest first."""
    kept: list[list[Rows]] = []
    for turn in reversed(context):
        rows = _turn_rows(turn, tokenizer, config)
        if _count(rows) > room:
            break
        kept.append(rows)
        room -= _count(rows)
    return kept[::-1]


def turns_that_fit(
    turns: Sequence[tuple[str, int, int]], room: int, tokenizer: Tokenizer, *, most: int | None = None
) -> int:
    """How many of the newest turns `lay_out` keeps where there are `room` rows for them.

    Args:
        turns: text, speaker and frames of sound of each, oldest first; 0 frames where it has none.
        room: rows.
        tokenizer: the model's.
        most: the most turns that are heard; None for all that fit.
    """
    fitting = 0
    for text, speaker, frames in reversed(newest(turns, most)):
        sound = frames + 1 if frames else 0  # and the row that closes it
        if sound < room:  # else its text does not matter
            sound += len(text_ids(text, speaker, tokenizer))
        if sound > room:
            break
        room -= sound
        fitting += 1
    return fitting


def _turn_rows(turn: ContextTurn | VoicePrompt, tokenizer: Tokenizer, config: ModelConfig) -> list[Rows]:
    """A turn as a segment: text rows and, where its codes are known, audio rows and the row that closes them."""
    rows = [text_rows(text_ids(turn.text, turn.speaker, tokenizer), config)]
    return rows if turn.codes is None else [*rows, audio_rows(turn.codes, config, close=True)]


def _count(parts: Sequence[Rows]) -> int:
    return sum(len(rows) for rows, _ in parts)


def text_ids(text: str, speaker: int, tokenizer: Tokenizer) -> list[int]:
    """The ids of a turn's text. Whatever the tokenizer raises, it is the text that it could not read.

    Raises:
        InputError: the text cannot be said, or not be read.
        MemoryError, OSError: which no text is to blame for.
    """
    with reading(text):
        return tokenizer.encode(text, speaker)


@contextmanager
def reading(text: str) -> Iterator[None]:
    """Around all that reads a text: whatever that raises, it is the text that could not be read, its caller's error.

    Raises:
        InputError: what was raised, as one line.
        MemoryError, OSError: which no text is to blame for.
    """
    try:
        yield
    except (CsmError, MemoryError, OSError):
        raise
    except BaseException as error:
        kind = type(fault_of(error)).__name__
        raise InputError(f"text {text[:40]!r} cannot be read ({kind}): say it in other words") from error


def sounds_in(text: str, tokenizer: Tokenizer) -> int:
    """How many phonemes and pauses of a text are said; raises `InputError` where it cannot be read."""
    with reading(text):
        return sum(tokenizer.sounds_in(passage.words) for passage in tokenizer.read(text).passages)


def check_codes(codes: Tensor, config: ModelConfig, what: str) -> None:
    """Raises `InputError` where codes are not `[K, F]` of the model's codec."""
    books, size = config.num_codebooks, config.codebook_size
    if codes.dim() != 2 or codes.shape[0] != books:
        raise InputError(f"{what}: codes of shape {tuple(codes.shape)}; the model takes [{books}, frames]")
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < size):
        raise InputError(f"{what}: codes must be from 0 to {size - 1}; were they made by another codec?")
