"""The client of a served model: `SpeechClient` for threads, `AsyncSpeechClient` for asyncio. It needs no torch."""

from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.client.retry import NEVER, Retry
from csm_serving.client.speech import SpeechOptions, Spoken
from csm_serving.client.sync import SpeechClient
from csm_serving.wire.errors import (
    AccessError,
    BusyError,
    DeadlineError,
    QuotaError,
    ServingError,
    UnavailableError,
)
from csm_serving.wire.protocol import Chunk, End, SamplingOptions, SpeechRequest, Turn

__all__ = [
    "NEVER",
    "AccessError",
    "AsyncSpeechClient",
    "BusyError",
    "Chunk",
    "DeadlineError",
    "End",
    "QuotaError",
    "Retry",
    "SamplingOptions",
    "ServingError",
    "SpeechClient",
    "SpeechOptions",
    "SpeechRequest",
    "Spoken",
    "Turn",
    "UnavailableError",
]
