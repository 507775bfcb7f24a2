"""What every way to be spoken to offers: `stream` for chunks as they come, `say` for a file and its figures."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csm_model.frames import seconds_of
from csm_serving.audio import Listener, wav_writer
from csm_serving.protocol import Chunk, End, SamplingOptions, SpeechRequest, Turn

RECOMMENDED = SamplingOptions()
"""What the bundle recommends."""


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What came of a stream, as its caller saw it."""

    path: Path | None
    """The WAV file, where one was asked for."""
    frames: int
    seconds: float
    """Of sound."""
    first_audio_ms: float
    """From the request to the first chunk, in milliseconds."""
    real_time_factor: float
    """Seconds from the request to the last response, for a second of sound."""
    ended: bool
    """True when the speaker finished, False when the turn was cut: too long, or no speech any more."""


class SpeechStream:
    """An iterator over a stream's chunks. The request goes out with the first `next`; `close` cancels what is left."""

    def __init__(self, responses: Generator[Chunk | End, None, None]) -> None:
        self._responses = responses
        self.end: End | None = None
        """How the stream ended; None until it has."""

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
        """Cancels the stream if it still runs."""
        self._responses.close()


class SpeechService(ABC):
    """Something that speaks: a served model, or one in this process."""

    @abstractmethod
    def open(self, request: SpeechRequest) -> SpeechStream:
        """The stream that answers `request`."""

    def stream(
        self,
        text: str,
        speaker: int = 0,
        *,
        context: Sequence[Turn] = (),
        sampling: SamplingOptions = RECOMMENDED,
        seed: int = 0,
        max_frames: int | None = None,
    ) -> SpeechStream:
        """Speaks `text` in the voice of `speaker`, chunk by chunk; raises `InputError` at once for what cannot be said.

        Iterating raises `CsmError`s, those that `csm_serving.protocol` lists.
        """
        return self.open(
            SpeechRequest(
                text=text,
                speaker=speaker,
                context=tuple(context),
                sampling=sampling,
                seed=seed,
                max_frames=max_frames,
            )
        )

    def say(
        self,
        text: str,
        speaker: int = 0,
        *,
        path: Path | None = None,
        listener: Listener | None = None,
        context: Sequence[Turn] = (),
        sampling: SamplingOptions = RECOMMENDED,
        seed: int = 0,
        max_frames: int | None = None,
    ) -> Spoken:
        """Speaks as `stream` does, to `listener` and into a 16-bit WAV at `path`, which is there only when complete."""
        stream = self.stream(text, speaker, context=context, sampling=sampling, seed=seed, max_frames=max_frames)
        return receive(stream, path, listener)


def receive(stream: SpeechStream, path: Path | None, listener: Listener | None) -> Spoken:
    """Takes a stream to its end, to `listener` and into a 16-bit WAV at `path`, which is there only when complete."""
    began = time.perf_counter()
    first, frames = began, 0
    with contextlib.closing(stream), contextlib.ExitStack() as stack:
        write = stack.enter_context(wav_writer(path)) if path is not None else None
        for chunk in stream:
            if frames == 0:
                first = time.perf_counter()
            frames += 1
            if write is not None:
                write(chunk.audio)
            if listener is not None:
                listener(chunk.audio)
        took = time.perf_counter() - began
    seconds = seconds_of(frames)
    return Spoken(
        path=path,
        frames=frames,
        seconds=seconds,
        first_audio_ms=(first - began) * 1000,
        real_time_factor=took / seconds if seconds else 0.0,
        ended=stream.end is not None and stream.end.ended,
    )
