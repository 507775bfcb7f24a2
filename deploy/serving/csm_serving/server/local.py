"""Speech without a server: the model in this process, behind the same interface as the client."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path

from csm_model.bundle import load_bundle
from csm_model.inference.batch import SpeechBatch
from csm_model.inference.generator import SpokenFrames
from csm_model.inference.prefixes import PrefixCache
from csm_serving.client.speech import SpeechService, SpeechStream
from csm_serving.server.source import RequestReader
from csm_serving.server.stream import end_of
from csm_serving.server.voices import VoiceRegistry
from csm_serving.wire.protocol import Chunk, End, SpeechRequest


class LocalSpeech(SpeechService):
    """Speaks with the bundle in `folder`, one stream after another, unmarked.

    Args:
        folder: of the bundle.
        codec_folder: of the codec, for a bundle that carries none.
        any_speaker: whether numbers may speak that the bundle has not learnt.
    """

    def __init__(self, folder: Path, *, codec_folder: Path | None = None, any_speaker: bool = False) -> None:
        self._bundle = load_bundle(folder, codec_folder=codec_folder)
        voices = VoiceRegistry(speakers={} if any_speaker else self._bundle.speakers)
        self._reader = RequestReader(self._bundle, voices=voices, client_voices="allow")
        for _ in self.open(self._reader.warm_up_request()):
            pass

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        """The stream that answers `request`, whose text `parts` continue as they come; the model works meanwhile.

        With `parts` the text is of any length and spoken sentence by sentence, as one sound.
        """
        return SpeechStream(self._speak(request, parts))

    def _speak(self, request: SpeechRequest, parts: Iterable[str] | None) -> Generator[Chunk | End, None, None]:
        asked = self._reader.read(request)
        utterance = replace(asked.utterance, more=parts is not None)
        guided = utterance.sampling.guidance != 1.0
        batch = SpeechBatch(self._bundle, slots=1, guided=guided, prefixes=PrefixCache(0))
        stream = SpokenFrames(batch, utterance, parts or ())
        for frame in stream:
            yield asked.chunk(frame)
        assert stream.reason is not None
        yield end_of(stream.reason, ended=stream.ended, dropped=stream.dropped, left_out=stream.left_out)
