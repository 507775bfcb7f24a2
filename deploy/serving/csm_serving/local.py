"""Speech without a server: the model in this process, behind the same interface as the client."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

from csm_serving.protocol import Chunk, End, SpeechRequest
from csm_serving.source import BundleSource
from csm_serving.speech import SpeechService, SpeechStream


class LocalSpeech(SpeechService):
    """Speaks with the bundle in `folder`; one stream after another; `codec_folder` is for one that carries no codec."""

    def __init__(self, folder: Path, *, codec_folder: Path | None = None) -> None:
        self._source = BundleSource.load(folder, codec_folder=codec_folder)
        for _ in self._source(self._source.warm_up_request()):
            pass

    def open(self, request: SpeechRequest) -> SpeechStream:
        """The stream that answers `request`; the model works while one iterates."""
        return SpeechStream(_with_end(self._source(request)))

    def read_aloud(self, text: str | Iterable[str], speaker: int = 0, *, seed: int = 0) -> SpeechStream:
        """A text of any length, whole or in parts as they come, spoken sentence by sentence as one sound."""
        return SpeechStream(_with_end(self._source.read_aloud(text, speaker, seed=seed)))


def _with_end(chunks: Generator[Chunk, None, End]) -> Generator[Chunk | End, None, None]:
    end = yield from chunks
    yield end
