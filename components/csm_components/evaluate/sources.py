"""Where speech to be judged comes from: a bundle in this process, or a server that streams it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from csm_components.evaluate.judges import Audio
from csm_model.errors import CsmError, MissingDependencyError
from csm_model.files import read_json
from csm_serving.client.speech import SpeechService
from csm_serving.wire.protocol import SpeechRequest

_WAITS_S = 30.0
"""For room on a server: nobody listens to what is judged."""


@dataclass(frozen=True, kw_only=True)
class SpokenUtterance:
    """One utterance as its caller got it."""

    audio: Audio
    """float32 `[S]`, 24 kHz."""
    ended: bool
    """False: cut at the most frames allowed."""
    seconds: float
    """From the request to the last frame."""


class Speaker(Protocol):
    """Speaks one request after another."""

    def __call__(self, request: SpeechRequest) -> SpokenUtterance:
        """The whole utterance."""
        ...


class SpeechSource(Protocol):
    """A place to get a `Speaker` from; small enough to be sent to a worker process, and hashable."""

    @property
    def digest(self) -> str:
        """Names the model, so that speech of another one is never taken for this one's."""
        ...

    def open(self) -> contextlib.AbstractContextManager[Speaker]:
        """Loads or connects."""
        ...


@dataclass(frozen=True, kw_only=True)
class FromBundle:
    """The offline generator over a bundle's folder.

    Unlike a server it speaks as any number that the tokenizer holds, also one that the bundle never learnt: that is how
    a base model's figures for a new voice are measured.
    """

    folder: Path
    codec_folder: Path | None = None
    """For a bundle that carries no codec."""

    @property
    def digest(self) -> str:
        """The bundle's."""
        return str(read_json(self.folder / "manifest.json")["digest"])

    @contextlib.contextmanager
    def open(self) -> Iterator[Speaker]:
        """Loads the bundle."""
        from csm_serving.server.local import LocalSpeech

        yield speaker_of(LocalSpeech(self.folder, codec_folder=self.codec_folder, any_speaker=True), str(self.folder))


@dataclass(frozen=True, kw_only=True)
class FromServer:
    """A server that streams, reached over gRPC; what it plays is judged, joined."""

    url: str
    """`host:port` of its gRPC."""
    digest: str
    """Of the bundle that it serves."""
    options: tuple[tuple[str, Any], ...] = field(default=())
    """More for `csm_serving.client.SpeechClient`."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Speaker]:
        """Connects; a server that is not there fails the first request, for room on one it waits a while."""
        from csm_serving.client import SpeechClient

        with SpeechClient(self.url, **dict(self.options)) as client:
            speak = speaker_of(client, self.url)
            yield lambda request: speak(replace(request, max_wait_s=max(request.max_wait_s, _WAITS_S)))


def speaker_of(service: SpeechService, name: str) -> Speaker:
    """What `service` says, whole."""

    def speak(request: SpeechRequest) -> SpokenUtterance:
        began = time.perf_counter()
        with contextlib.closing(service.open(request)) as stream:
            chunks = [chunk.audio for chunk in stream]
            end = stream.end
        if end is None or not chunks:
            raise CsmError(f"{name} made no speech for {request.text[:40]!r}; look into the server's log")
        return SpokenUtterance(audio=np.concatenate(chunks), ended=end.ended, seconds=time.perf_counter() - began)

    return speak


@dataclass(frozen=True, kw_only=True)
class FromTriton:
    """A Triton on this machine that serves a bundle's folder, started when speech is wanted and stopped after it."""

    folder: Path

    @property
    def digest(self) -> str:
        """The bundle's."""
        return str(read_json(self.folder / "manifest.json")["digest"])

    @contextlib.contextmanager
    def started(self) -> Iterator[FromServer]:
        """Starts it; yields where to find it."""
        from csm_serving.launcher.triton import LocalTriton
        from csm_serving.settings import load_settings

        # The turns before are recordings of whoever speaks, which others refuse; and nobody listens as it speaks.
        settings = load_settings(grpc_port=0, http_port=0, metrics_port=0, client_voices="allow", lead_s=0)
        with LocalTriton(self.folder, settings=settings.unguarded()) as triton:
            yield FromServer(url=triton.url, digest=self.digest)

    @contextlib.contextmanager
    def open(self) -> Iterator[Speaker]:
        """Starts one for a single caller."""
        with self.started() as server, server.open() as speaker:
            yield speaker


def best_source(folder: Path) -> SpeechSource | None:
    """Triton where this machine has one; None, which is the offline generator, where it has none."""
    from csm_serving.launcher.installation import find_installation
    from csm_serving.settings import load_settings

    try:
        find_installation(load_settings().triton)
    except MissingDependencyError:
        return None
    return FromTriton(folder=folder)
