"""Best of N: a text is spoken several times with other seeds, and the take that a recogniser reads best is kept.

The recogniser is Whisper tiny. Those by which the gate decides are Whisper base, a speaker encoder and an opinion
score, so that no take is chosen by what it is judged by afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from csm_components.evaluate.judges import Recogniser
from csm_components.evaluate.wer import word_errors
from csm_model.errors import InputError
from csm_serving.client.speech import SpeechService, SpeechStream
from csm_serving.wire.protocol import Chunk, End, SpeechRequest

MAX_TAKES = 16


def check_takes(takes: int) -> None:
    """Raises `InputError` for a number of takes that cannot be."""
    if not 1 <= takes <= MAX_TAKES:
        raise InputError(f"takes {takes}: must be 1 to {MAX_TAKES}")


@dataclass(frozen=True, kw_only=True)
class KeptTake:
    """Which take was kept, and why."""

    number: int
    """From 1."""
    drawn: int
    """Takes that were drawn: fewer than asked for where one had no fault."""
    word_errors: int
    """Words of it that the recogniser misheard."""
    words: int


class BestOf(SpeechService):
    """Speaks through another service, each request up to `takes` times, and hands on the best take.

    A take is better that its speaker ended, then that has fewer words misheard, then that came earlier. The first one
    is what `service` says by itself; one without a fault is the last. Nothing is handed on before the choice is made.

    Args:
        service: what speaks.
        takes: the most takes of a request.
        tell: called with each choice.

    Raises:
        InputError: a number of takes that cannot be.
        MissingDependencyError: the recogniser is not installed.
    """

    def __init__(
        self, service: SpeechService, takes: int, *, tell: Callable[[KeptTake], None] = lambda kept: None
    ) -> None:
        check_takes(takes)
        self._service = service
        self._takes = takes
        self._tell = tell
        self._recogniser = Recogniser("tiny")

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        """The best of the streams that answer `request`, which waits for all its text."""
        return SpeechStream(self._best(request, None if parts is None else list(parts)))

    def _best(self, request: SpeechRequest, parts: Sequence[str] | None) -> Generator[Chunk | End, None, None]:
        text = request.text + "".join(parts or ())
        best: tuple[tuple[bool, int], KeptTake, list[Chunk], End] | None = None
        for number in range(1, self._takes + 1):
            with contextlib.closing(
                self._service.open(replace(request, seed=take_seed(request.seed, number)), parts)
            ) as stream:
                chunks = list(stream)
            assert stream.end is not None
            sound = np.concatenate([*(chunk.audio for chunk in chunks), stream.end.audio])
            errors = word_errors(text, self._recogniser.transcribe(sound))
            faults = (not stream.end.ended, errors.total)
            if best is None or faults < best[0]:
                kept = KeptTake(number=number, drawn=number, word_errors=errors.total, words=errors.words)
                best = faults, kept, chunks, stream.end
            if faults == (False, 0):
                break
        assert best is not None
        _, kept, chunks, end = best
        self._tell(replace(kept, drawn=number))
        yield from chunks
        yield end


def take_seed(seed: int, number: int) -> int:
    """Seed of a take: that of the request for the first, and one that follows from it for each other."""
    if number == 1:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}, take {number}".encode()).digest()[:8], "big") >> 1
