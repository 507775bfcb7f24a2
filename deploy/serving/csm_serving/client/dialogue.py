"""A dialogue: turns one after another, each of which hears those before it as they were spoken, in one sound.

A dialogue is a text file with a turn a line, `WHO: TEXT`, where WHO is the number of a speaker or its name; empty lines
and lines that begin with `#` are passed over. Or it is JSON: a list of objects with speaker and text.

Shapes: K codebooks, F frames, S samples.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from csm_model.errors import InputError, quoted
from csm_model.files import read_json
from csm_model.frames import SAMPLE_RATE, frames_of
from csm_serving.client.audio import Listener, sound_writer
from csm_serving.client.speech import SpeechOptions, SpeechService, Spoken, Taking, request_of, texts_of_streams
from csm_serving.wire.protocol import (
    MAX_CONTEXT_FRAMES,
    MAX_CONTEXT_TURNS,
    MAX_TEXT_CHARACTERS,
    Turn,
    may_be_said,
)
from csm_serving.wire.tensors import Array, Samples

Said = tuple[int | str, str]
"""Whose voice, by number or by name, and what it says."""
MAX_TURNS = MAX_CONTEXT_TURNS + 1
"""Of a dialogue: the last one has all others before it."""
PAUSE_S = 0.24
"""Silence between two turns: the three frames that the demo's corpus has there."""
MAX_PAUSE_S = 10.0
_FORM = 'write who speaks, a colon, and what is said, such as "1: Good morning."'
_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class DialogueLine:
    """A turn that is to be spoken."""

    place: str
    """Where it stands, for whoever wrote it: `talk.txt, line 3`."""
    who: int | str
    """Whose voice: the number of a speaker, or a name."""
    text: str

    @property
    def number(self) -> int | None:
        """The number of the speaker, where it is given by number."""
        return self.who if isinstance(self.who, int) else None

    @property
    def name(self) -> str | None:
        """The voice's name, where it is given by name."""
        return self.who if isinstance(self.who, str) else None


@dataclass(frozen=True, kw_only=True)
class SpokenLine:
    """A turn that was spoken."""

    line: DialogueLine
    spoken: Spoken
    """Its figures."""
    begin_s: float
    """Where it begins in the whole sound."""
    audio: Samples
    """`[S]`."""
    heard: int
    """Turns before it that it heard."""
    dropped: int
    """Older ones that it did not hear: there was no room for them, or the model was trained with fewer."""


@dataclass(frozen=True, kw_only=True)
class SpokenDialogue:
    """What came of a dialogue."""

    path: Path | None
    """The sound file, where one was asked for."""
    lines: tuple[SpokenLine, ...]
    seconds: float
    """Of sound, pauses among it."""

    @property
    def ended(self) -> bool:
        """Whether every turn was ended by its speaker."""
        return all(line.spoken.ended for line in self.lines)

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of speech."""
        seconds = sum(line.spoken.seconds for line in self.lines)
        return sum(line.spoken.real_time_factor * line.spoken.seconds for line in self.lines) / seconds


def read_dialogue(path: Path, *, go_on: bool = False) -> tuple[DialogueLine, ...]:
    """The turns in the file at `path`.

    Args:
        path: of a text file, or of JSON where its name ends so.
        go_on: whether a turn that is too long for a request becomes several of the same speaker.

    Raises:
        InputError: no such file, a line of another form, or too many turns; with the line's number.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a text with a turn a line: {_FORM}")
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _text_rows(path)
    lines = [line for place, who, text in rows for line in _lines_of(place, who, text, go_on=go_on)]
    if not lines:
        raise InputError(f"{path}: has no turn; {_FORM}")
    if len(lines) > MAX_TURNS:
        raise InputError(
            f"{lines[MAX_TURNS].place}: this is turn {MAX_TURNS + 1}; a dialogue has at most {MAX_TURNS}, as a request "
            f"takes {MAX_CONTEXT_TURNS} turns before the last: end it before this line"
        )
    return tuple(lines)


def dialogue_of(turns: Iterable[Said], *, source: str) -> tuple[DialogueLine, ...]:
    """The turns of a dialogue that stands in a program: who speaks, and what."""
    return tuple(
        DialogueLine(place=f"{source}, turn {number}", who=who, text=text)
        for number, (who, text) in enumerate(turns, 1)
    )


def _text_rows(path: Path) -> Iterable[tuple[str, int | str, str]]:
    """Place, voice and text of each line that holds a turn."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; encode the text as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a text file") from None
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = f"{path}, line {number}"
        who, colon, text = line.partition(":")
        if not colon:
            raise InputError(f"{place}: {quoted(line.strip()[:_SHOWN])} has no colon; {_FORM}")
        if not who.strip():
            raise InputError(f"{place}: nobody is named before the colon; {_FORM}")
        yield place, _who(who.strip()), text.strip()


def _json_rows(path: Path) -> Iterable[tuple[str, int | str, str]]:
    """The same of each object of a list."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: must be a list of turns with speaker and text")
    for number, row in enumerate(rows, 1):
        place = f"{path}, turn {number}"
        if not _is_turn(row):
            raise InputError(f"{place}: must have speaker, a number or a name, and text, and nothing else")
        yield place, row["speaker"], row["text"].strip()


def _is_turn(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() == {"speaker", "text"}
        and type(row["speaker"]) in (int, str)
        and isinstance(row["text"], str)
    )


def _who(written: str) -> int | str:
    return int(written) if written.isascii() and written.isdigit() else written


def _lines_of(place: str, who: int | str, text: str, *, go_on: bool) -> list[DialogueLine]:
    """A turn as it is spoken: as one, or where it is too long and may go on, as several."""
    if not may_be_said(text):
        told = quoted(text[:_SHOWN]) if text else "the turn is empty"
        raise InputError(f"{place}: {told}: nothing to say; give at least one word, or leave the line out")
    if len(text) > MAX_TEXT_CHARACTERS and not go_on:
        raise InputError(
            f"{place}: a turn of {len(text)} characters; at most {MAX_TEXT_CHARACTERS} are one turn: split it, or "
            "let it go on as several with --go-on"
        )
    texts = texts_of_streams(text, longest=MAX_TEXT_CHARACTERS)
    return [DialogueLine(place=place, who=who, text=part.strip()) for part in texts]


def check_dialogue(service: SpeechService, lines: Sequence[DialogueLine], **asked: Unpack[SpeechOptions]) -> None:
    """Asks whether every turn could be spoken, so that what is refused is refused before anything is spoken.

    Raises:
        InputError: what `service` refuses, with the line's number.
        CsmError: what else its streams raise.
    """
    for number, line in enumerate(lines):
        try:
            request = request_of(line.text, line.number, _of_turn(asked, line, number, ()))
            with contextlib.closing(service.open(replace(request, check=True))) as stream:
                for _ in stream:
                    pass
        except InputError as error:
            raise InputError(f"{line.place}: {error}") from None


def check_pause(pause_s: float, hears: int | None) -> None:
    """Raises `InputError` for a pause, or a number of turns that are heard, that cannot be."""
    if not 0 <= pause_s <= MAX_PAUSE_S:  # also refuses NaN
        raise InputError(f"pause {pause_s}: must be 0 to {MAX_PAUSE_S:g} seconds")
    if hears is not None and hears < 0:
        raise InputError(f"hears {hears}: must be 0 (each turn by itself) or more")


def speak_dialogue(
    service: SpeechService,
    lines: Sequence[DialogueLine],
    *,
    path: Path | None = None,
    listener: Listener | None = None,
    pause_s: float = PAUSE_S,
    hears: int | None = None,
    tell: Callable[[SpokenLine], None] = lambda line: None,
    **asked: Unpack[SpeechOptions],
) -> SpokenDialogue:
    """Speaks the turns one after another, to `listener` and into a file at `path`, there when complete.

    Each turn is drawn with the seed of the whole and its number, and hears the turns before it with the codes that they
    were spoken with; one that its speaker did not end is not heard by the next.

    Args:
        service: what speaks.
        lines: the turns.
        path: of the sound file, .wav or .opus.
        listener: hears each chunk as it arrives, and the silence between the turns.
        pause_s: seconds of silence between two turns.
        hears: the most turns before it that a turn hears; None for as many as the model was trained with, and that
            there is room for: it never hears more.
        tell: called with each turn when it is over.
        asked: for each turn; the turns of `context` come before the first one.

    Raises:
        InputError: a pause or a number out of range, or what the service refuses.
        CsmError: what its streams raise.
    """
    check_pause(pause_s, hears)
    silence = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    before = list(asked.get("context", ()))
    said: list[SpokenLine] = []
    samples = 0
    with contextlib.ExitStack() as files:
        write = None if path is None else files.enter_context(sound_writer(path))

        def hear(audio: Samples) -> None:
            nonlocal samples
            samples += audio.size
            if write is not None:
                write(audio, b"")
            if listener is not None:
                listener(audio)

        for number, line in enumerate(lines):
            if number and silence.size:
                hear(silence)
            wanted = before if hears is None else before[len(before) - min(hears, len(before)) :]
            context = _newest(wanted)
            begin_s = samples / SAMPLE_RATE
            spoken, turn, audio = _speak(service, line, number, context, hear, asked)
            dropped = spoken.dropped + len(wanted) - len(context)
            said.append(
                SpokenLine(
                    line=line,
                    spoken=spoken,
                    begin_s=begin_s,
                    audio=audio,
                    heard=len(wanted) - dropped,
                    dropped=dropped,
                )
            )
            if spoken.ended:
                before.append(turn)
            tell(said[-1])
    return SpokenDialogue(path=path, lines=tuple(said), seconds=samples / SAMPLE_RATE)


def _speak(
    service: SpeechService,
    line: DialogueLine,
    number: int,
    context: Sequence[Turn],
    listener: Listener,
    asked: SpeechOptions,
) -> tuple[Spoken, Turn, Samples]:
    """Speaks a turn: its figures, the turn as the next one hears it, its sound."""
    codes: list[Array] = []
    heard: list[Samples] = []
    token = b""

    def hear(audio: Samples) -> None:
        heard.append(audio)
        listener(audio)

    stream = service.stream(line.text, line.number, **_of_turn(asked, line, number, context))
    with contextlib.closing(stream), Taking(None, hear) as taking:
        for chunk in stream:
            codes.append(chunk.codes)
            token = chunk.token
            taking.chunk(chunk)
        taking.end(stream.end)
    turn = Turn(text=line.text, speaker=line.number or 0, voice=line.name, codes=np.stack(codes, axis=1), token=token)
    return taking.spoken(stream.retries), turn, np.concatenate(heard)


def _of_turn(asked: SpeechOptions, line: DialogueLine, number: int, context: Sequence[Turn]) -> SpeechOptions:
    """What is asked for the turn of that number, from 0."""
    return {**asked, "voice": line.name, "context": context, "seed": asked.get("seed", 0) + number}


def _newest(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The newest of the turns, as many as a request takes."""
    kept = turns[max(0, len(turns) - MAX_CONTEXT_TURNS) :]
    frames = itertools.accumulate(_frames(turn) for turn in reversed(kept))
    room = sum(1 for _ in itertools.takewhile(lambda total: total <= MAX_CONTEXT_FRAMES, frames))
    return kept[len(kept) - room :]


def _frames(turn: Turn) -> int:
    """Frames of a turn's sound."""
    if turn.codes is not None:
        return turn.codes.shape[1]
    return 0 if turn.audio is None else frames_of(turn.audio.size)
