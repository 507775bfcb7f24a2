"""What every way to be spoken to offers: `stream` for chunks as they come, `say` for a file and its figures."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

import numpy as np

from csm_model.frames import seconds_of
from csm_serving.client.audio import Listener, sound_writer
from csm_serving.wire.protocol import (
    MAX_LEFT_OUT_TEXT,
    MAX_STREAM_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    Chunk,
    Encoding,
    End,
    Reason,
    SamplingOptions,
    SpeechRequest,
    Turn,
    may_be_said,
)

_SENTENCE_END = re.compile(r"[.!?][\"')\u201d\u2019]*\s+")


class SpeechOptions(TypedDict, total=False):
    """What may be asked for beside text and speaker; `csm_serving.wire.protocol.SpeechRequest` says what each means."""

    voice: str | None
    context: Sequence[Turn]
    sampling: SamplingOptions
    seed: int
    max_frames: int | None
    deadline_s: float | None
    max_wait_s: float
    priority: int
    encoding: Encoding


def request_of(text: str, speaker: int | None, asked: SpeechOptions) -> SpeechRequest:
    """The request for `text`; raises `InputError` for what cannot be said."""
    return SpeechRequest(
        text=text,
        speaker=speaker,
        **{**asked, "context": tuple(asked.get("context", ()))},  # type: ignore[arg-type]
    )


def cut_text(text: str) -> tuple[str, tuple[str, ...]]:
    """What of `text` goes into the first request, and the rest; a cut makes no difference to what is heard."""
    rest = text[MAX_TEXT_CHARACTERS:]
    return text[:MAX_TEXT_CHARACTERS], (rest,) if rest else ()


def whole_request(text: str, speaker: int | None, asked: SpeechOptions) -> tuple[SpeechRequest, tuple[str, ...]]:
    """The request for a text that is all there, and what of it comes in parts.

    The server is told its length, so that one that is too long is refused before its first sound.
    """
    first, rest = cut_text(text)
    request = request_of(first, speaker, asked)
    return (replace(request, text_length=len(text)) if rest else request), rest


def texts_of_streams(text: str, *, longest: int = MAX_STREAM_CHARACTERS) -> list[str]:
    """A text as those of one stream or more, cut between paragraphs, sentences or words."""
    texts = []
    while len(text) > longest:
        head = text[:longest]
        ends = [
            *(head.rfind(mark) + len(mark) for mark in ("\n\n", "\n")),
            *(m.end() for m in _SENTENCE_END.finditer(head)),
        ]
        place = max((end for end in ends if end > longest // 2), default=head.rfind(" ") + 1) or longest
        texts.append(text[:place])
        text = text[place:]
    return [part for part in (*texts, text) if may_be_said(part)] or [text]


def first_words(parts: Iterable[str]) -> tuple[str, Iterator[str]]:
    """What of a text that comes in parts goes into the first request, and the rest; waits for the first word."""
    source, text = iter(parts), ""
    for part in source:
        text += part
        if may_be_said(text):
            break
    first, rest = cut_text(text)
    return first, itertools.chain(rest, source)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What came of a stream, as its caller saw it."""

    path: Path | None
    """The sound file, where one was asked for."""
    frames: int
    seconds: float
    """Of sound."""
    first_audio_ms: float
    """From the request to the first chunk, in milliseconds."""
    real_time_factor: float
    """Seconds from the request to the last response, for a second of sound."""
    ended: bool
    """True when the speaker finished, False when the turn was cut: too long, or no speech any more."""
    reason: Reason = "ended"
    """How it ended, exactly."""
    retries: int = 0
    """Times that the stream was asked for again."""
    left_out: int = 0
    """Characters of the text that could not be said."""
    left_out_text: str = ""
    """The first of them."""
    dropped: int = 0
    """Turns of the context that were not heard; see `csm_serving.wire.protocol.End`."""


class SpeechStream:
    """An iterator over a stream's chunks. The request goes out with the first `next`; `close` cancels what is left.

    Args:
        responses: the chunks, then the end.
        cancel: ends `responses` from any thread.
        retries: times that the stream was asked for again.
    """

    def __init__(
        self,
        responses: Generator[Chunk | End, None, None],
        *,
        cancel: Callable[[], None] = lambda: None,
        retries: Callable[[], int] = lambda: 0,
    ) -> None:
        self._responses = responses
        self._cancel = cancel
        self._retries = retries
        self.end: End | None = None
        """How the stream ended; None until it has."""

    @property
    def retries(self) -> int:
        """Times that the stream was asked for again."""
        return self._retries()

    def __iter__(self) -> SpeechStream:
        return self

    def __next__(self) -> Chunk:
        item = next(self._responses)
        if isinstance(item, End):
            self.end = item
            self.close()
            raise StopIteration
        return item

    def close(self) -> None:
        """Cancels the stream if it still runs; a `next` that waits in another thread ends the iteration."""
        self._cancel()
        with contextlib.suppress(ValueError):  # another thread iterates: it finds out by itself
            self._responses.close()


class SpeechService(ABC):
    """Something that speaks: a served model, or one in this process."""

    @abstractmethod
    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        """The stream that answers `request`, whose text `parts` continue as they come."""

    def stream(
        self,
        text: str | Iterable[str],
        speaker: int | None = None,
        *,
        go_on: bool = False,
        **asked: Unpack[SpeechOptions],
    ) -> SpeechStream:
        """Speaks `text` in the voice of `speaker`, chunk by chunk; raises `InputError` at once for what cannot be said.

        Text may be whole, or come in parts, from a language model for instance: then this waits for its first word, and
        speech goes out while more text comes. A whole text that is too long for one stream is refused before its first
        sound, or with `go_on` spoken in several, one after another. Iterating raises `CsmError`s, those that
        `csm_serving.wire.messages` lists.
        """
        if not isinstance(text, str):
            first, parts = first_words(text)
            return self.open(request_of(first, speaker, asked), parts)
        texts = texts_of_streams(text) if go_on else [text]
        requests = [whole_request(one, speaker, asked) for one in texts]
        if len(requests) == 1:
            request, rest = requests[0]
            return self.open(request, rest or None)
        return in_turn([functools.partial(self.open, request, rest or None) for request, rest in requests])

    def say(
        self,
        text: str | Iterable[str],
        speaker: int | None = None,
        *,
        path: Path | None = None,
        listener: Listener | None = None,
        go_on: bool = False,
        **asked: Unpack[SpeechOptions],
    ) -> Spoken:
        """Speaks as `stream` does, to `listener` and into a file at `path` (.wav or .opus), there when complete."""
        stream = self.stream(text, speaker, go_on=go_on, **asked)
        return receive(stream, path, listener)


class Joined:
    """Several streams as one: frames and sentences go on counting, the last end tells of all."""

    def __init__(self) -> None:
        self.end: End | None = None
        self._frames = self._sentences = 0
        self._next = (0, 0)
        self._tail = End(ended=True)  # sound of a stream that is over, which goes with the next one's first chunk

    def chunk(self, chunk: Chunk) -> Chunk:
        """A stream's chunk as one of the whole."""
        sentence = chunk.sentence if chunk.sentence < 0 else self._sentences + chunk.sentence
        joined = replace(chunk, frame_index=self._frames + chunk.frame_index, sentence=sentence)
        if self._tail.audio.size or self._tail.encoded:
            audio = np.concatenate([self._tail.audio, chunk.audio])
            joined = replace(joined, audio=audio, encoded=self._tail.encoded + chunk.encoded)
            self._tail = End(ended=True)
        self._next = (joined.frame_index + 1, max(self._next[1], sentence + 1))
        return joined

    def over(self, end: End | None) -> None:
        """A stream is over."""
        self._frames, self._sentences = self._next
        if end is None:
            return
        before, self._tail = self.end, end
        self.end = (
            end
            if before is None
            else replace(
                end,
                ended=before.ended and end.ended,
                reason=end.reason if before.ended else before.reason,
                dropped=before.dropped,
                left_out=before.left_out + end.left_out,
                left_out_text=(before.left_out_text + end.left_out_text)[:MAX_LEFT_OUT_TEXT],
            )
        )


def in_turn(opened: Sequence[Callable[[], SpeechStream]]) -> SpeechStream:
    """Streams one after another as one, each opened when its turn comes."""
    streams: list[SpeechStream] = []
    joined = Joined()

    def responses() -> Generator[Chunk | End, None, None]:
        for open_next in opened:
            stream = open_next()
            streams.append(stream)
            with contextlib.closing(stream):
                for chunk in stream:
                    yield joined.chunk(chunk)
                end = stream.end
                joined.over(end)
                if end is None:
                    return
        assert joined.end is not None
        yield joined.end

    def cancel() -> None:
        for stream in streams[-1:]:
            stream.close()

    return SpeechStream(responses(), cancel=cancel, retries=lambda: sum(stream.retries for stream in streams))


def receive(stream: SpeechStream, path: Path | None, listener: Listener | None) -> Spoken:
    """Takes a stream to its end, to `listener` and into a file at `path` (.wav or .opus), there when complete."""
    with contextlib.closing(stream), Taking(path, listener) as taking:
        for chunk in stream:
            taking.chunk(chunk)
        taking.end(stream.end)
    return taking.spoken(stream.retries)


class Taking:
    """Takes a stream's chunks down as they come; the file appears, complete, when its block ends well."""

    def __init__(self, path: Path | None, listener: Listener | None) -> None:
        self._path = path
        self._listener = listener
        self._frames = 0
        self._end: End | None = None
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._began = self._first = time.perf_counter()
        self._write = None if self._path is None else self._files.enter_context(sound_writer(self._path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._took = time.perf_counter() - self._began
        self._files.__exit__(kind, error, trace)

    def chunk(self, chunk: Chunk) -> None:
        """Takes the next chunk."""
        if self._frames == 0:
            self._first = time.perf_counter()
        self._frames += 1
        self._take(chunk)

    def end(self, end: End | None) -> None:
        """Takes the end, and what sound it still brings."""
        self._end = end
        if end is not None and (end.audio.size or end.encoded):
            self._take(end)

    def spoken(self, retries: int) -> Spoken:
        """The figures of the stream."""
        seconds = seconds_of(self._frames)
        return Spoken(
            path=self._path,
            frames=self._frames,
            seconds=seconds,
            first_audio_ms=(self._first - self._began) * 1000,
            real_time_factor=self._took / seconds if seconds else 0.0,
            ended=self._end is not None and self._end.ended,
            reason="cut" if self._end is None else self._end.reason,
            retries=retries,
            left_out=0 if self._end is None else self._end.left_out,
            left_out_text="" if self._end is None else self._end.left_out_text,
            dropped=0 if self._end is None else self._end.dropped,
        )

    def _take(self, sound: Chunk | End) -> None:
        if self._write is not None:
            self._write(sound.audio, sound.encoded)
        if self._listener is not None and sound.audio.size:
            self._listener(sound.audio)
