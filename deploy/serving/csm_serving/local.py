"""Speech without a server: the model in this process, behind the same interface as the client."""

from __future__ import annotations

import itertools
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

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        """The stream that answers `request`, whose text `parts` continue as they come; the model works meanwhile.

        With `parts` the text is of any length and spoken sentence by sentence, as one sound.
        """
        if parts is None:
            return SpeechStream(_with_end(self._source(request)))
        text = itertools.chain([request.text], parts)
        return SpeechStream(_with_end(self._source.read_aloud(text, request.speaker or 0, seed=request.seed)))


def _with_end(chunks: Generator[Chunk, None, End]) -> Generator[Chunk | End, None, None]:
    end = yield from chunks
    yield end
