"""Well-behaved listeners: what they ask for, and what they had of it.

A player begins with the first chunk and has no other buffer: a chunk that is not there when the one before it has been
played is an underrun. Listeners ask for the next stream as soon as one is complete, which is sooner than it has been
played: so slots are in use all the time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from csm_model.errors import CsmError, InputError
from csm_serving.client.access import Access
from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.client.load import Listened
from csm_serving.client.retry import NEVER
from csm_serving.client.sync import SpeechClient
from csm_serving.wire.errors import BusyError
from csm_serving.wire.protocol import Chunk, End, Resume, SpeechRequest

TEXTS = (
    "Good morning, how are you?",
    "The train to the lake leaves at nine fifteen.",
    "Would you like some more tea, or shall we go for a walk?",
    "It is cold and windy today, so take the red scarf with you.",
    "I think we should ask her before we decide.",
    "That sounds like a good plan. Let me know when you are ready to leave.",
    "He has been waiting at the station since half past seven, and nobody has told him that the train is late.",
)
STORY = " ".join(TEXTS) + " " + " ".join(reversed(TEXTS))
"""About 50 seconds of speech."""
_NOBODY = 2**31 - 1


@dataclass(kw_only=True)
class Taken(Listened):
    """A stream as its listener had it, with what was said."""

    request: SpeechRequest
    codes: list[np.ndarray] = field(default_factory=list)
    sentences: list[int] = field(default_factory=list)
    token: bytes = b""
    end: End | None = None
    failure: CsmError | None = None
    retries: int = 0

    def take(self, chunk: Chunk, now: float) -> None:
        """A chunk has come."""
        self.hear(now, 0.0)
        self.codes.append(chunk.codes)
        self.sentences.append(chunk.sentence)
        self.token = chunk.token

    @property
    def busy(self) -> bool:
        """Whether it was refused for lack of capacity."""
        return isinstance(self.failure, BusyError) and not self.arrived

    @property
    def took_ms(self) -> float:
        """From asking to the end or the error."""
        return (self.over - self.asked) * 1e3

    @property
    def first_ms(self) -> float:
        """From asking to the first chunk."""
        return (self.arrived[0] - self.asked) * 1e3

    @property
    def sound(self) -> bytes:
        """What was said, to be compared."""
        return np.array(self.codes).tobytes()

    def heard(self, frames: int) -> Resume:
        """Its frames, to be given back to the server; the token fits where they are all."""
        codes = np.stack(self.codes[:frames], axis=1)
        return Resume(codes=codes, sentences=np.array(self.sentences[:frames], np.int32), token=self.token)


async def listen(client: AsyncSpeechClient, request: SpeechRequest, into: list[Taken] | None = None) -> Taken:
    """Hears one stream to its end, or its error."""
    taken = Taken(request=request, asked=time.perf_counter())
    if into is not None:
        into.append(taken)
    try:
        async with client.open(request) as stream:
            async for chunk in stream:
                taken.take(chunk, time.perf_counter())
            taken.end = stream.end
    except CsmError as error:
        taken.failure = error
    taken.over = time.perf_counter()
    return taken


def hear(client: SpeechClient, request: SpeechRequest) -> Taken:
    """`listen` for a thread."""
    taken = Taken(request=request, asked=time.perf_counter())
    stream = client.open(request)
    try:
        for chunk in stream:
            taken.take(chunk, time.perf_counter())
        taken.end = stream.end
    except CsmError as error:
        taken.failure = error
    taken.over, taken.retries = time.perf_counter(), stream.retries
    return taken


async def greet(client: AsyncSpeechClient) -> None:
    """Makes the connection, by a request that is refused at once: who asks first need not wait for it."""
    refused = await listen(client, SpeechRequest(text="Hello.", speaker=_NOBODY))
    assert isinstance(refused.failure, InputError), refused.failure


@asynccontextmanager
async def connected(url: str, access: Access | None = None) -> AsyncIterator[AsyncSpeechClient]:
    """A client with connections of its own that asks but once and decodes no sound."""
    async with AsyncSpeechClient(url, retry=NEVER, raw=True, **(access or Access()).arguments) as client:
        yield client


async def closed_loop(
    url: str,
    requests: Sequence[SpeechRequest],
    *,
    clients: int,
    seconds: float = float("inf"),
    enough: Callable[[], bool] = lambda: False,
    stagger_s: float = 0.3,
    seed: int = 0,
    into: list[Taken] | None = None,
    access: Access | None = None,
) -> list[Taken]:
    """Clients with a connection each that ask for stream after stream, `stagger_s` apart at first.

    One that is refused asks again when the server said, or after a second. No stream begins after `seconds`, or when it
    is `enough`. Seeds go up from `seed`.
    """
    taken = [] if into is None else into
    numbers = itertools.count(seed)
    end = time.perf_counter() + seconds

    async def one(client_number: int) -> None:
        await asyncio.sleep(client_number * stagger_s)
        async with connected(url, access) as client:
            await greet(client)
            for number in numbers:
                request = replace(requests[number % len(requests)], seed=number)
                last = await listen(client, request, taken)
                pause = 0.0
                if last.failure is not None:
                    after = last.failure.retry_after_s if isinstance(last.failure, BusyError) else None
                    pause = 1.0 if after is None else after
                if time.perf_counter() + pause >= end or enough():
                    return
                await asyncio.sleep(pause)

    await asyncio.gather(*(one(number) for number in range(clients)))
    return taken


def requests_of(speakers: Sequence[int], texts: Sequence[str] = TEXTS, **given: object) -> list[SpeechRequest]:
    """Every text by every speaker."""
    return [
        SpeechRequest(text=text, speaker=speaker, **given)  # type: ignore[arg-type]
        for speaker, text in itertools.product(speakers, texts)
    ]
