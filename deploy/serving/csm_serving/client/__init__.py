"""The client of a served model: `SpeechClient` for threads, `AsyncSpeechClient` for asyncio. It needs no torch."""

from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.client.sync import SpeechClient

__all__ = ["AsyncSpeechClient", "SpeechClient"]
