"""Speech without a server: the model in this process, behind the same interface as the client."""

from __future__ import annotations

from collections.abc import Generator
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
        return SpeechStream(self._responses(request))

    def _responses(self, request: SpeechRequest) -> Generator[Chunk | End, None, None]:
        end = yield from self._source(request)
        yield end
