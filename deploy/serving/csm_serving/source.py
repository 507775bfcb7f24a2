"""A bundle as a source of streams: the offline generator, asked frame by frame."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csm_model.bundle import Bundle, load_bundle
from csm_model.errors import InputError
from csm_model.inference.context import ContextTurn
from csm_model.inference.generator import Generator as SpeechGenerator
from csm_model.inference.long_speech import LongSpeech
from csm_serving.protocol import Chunk, End, SpeechRequest, Turn

_WARM_UP_TEXT = "Good morning, how are you?"
_WARM_UP_FRAMES = 8


class BundleSource:
    """Turns requests into frames with one bundle; several streams may be alive, one thread steps them."""

    def __init__(self, bundle: Bundle, *, max_frames: int | None = None) -> None:
        self._bundle = bundle
        self._generator = SpeechGenerator(bundle)
        self._max_frames = max_frames

    @classmethod
    def load(cls, folder: Path, *, codec_folder: Path | None = None, max_frames: int | None = None) -> BundleSource:
        """Loads the bundle in `folder`, every digest checked; `max_frames` cuts every turn, whatever is asked."""
        return cls(load_bundle(folder, codec_folder=codec_folder), max_frames=max_frames)

    def __call__(self, request: SpeechRequest) -> Generator[Chunk, None, End]:
        """Yields the chunks of one turn and returns how it ended; raises `InputError` on the first step."""
        if request.speaker is None:
            raise InputError(f"voice {request.voice}: this server has no registry of voices; name a speaker")
        self._check_speaker(request.speaker)
        limits = [limit for limit in (request.max_frames, self._max_frames) if limit is not None]
        stream = self._generator.stream(
            request.text,
            request.speaker,
            context=[_context_turn(turn) for turn in request.context],
            sampling=replace(self._bundle.sampling, **_asked(request)),
            max_frames=min(limits, default=None),
        )
        for index, frame in enumerate(stream):
            yield Chunk(audio=frame.audio, frame_index=index, codes=frame.codes.numpy().astype(np.int32))
        return End(ended=stream.ended)

    def read_aloud(self, text: str | Iterable[str], speaker: int, *, seed: int = 0) -> Generator[Chunk, None, End]:
        """Yields the chunks of a text of any length, whole or in parts as they come, spoken sentence by sentence."""
        self._check_speaker(speaker)
        speech = LongSpeech(self._generator, text, speaker, sampling=replace(self._bundle.sampling, seed=seed))
        for index, frame in enumerate(speech):
            yield Chunk(audio=frame.audio, frame_index=index, codes=frame.codes.numpy().astype(np.int32))
        return End(ended=speech.ended)

    def warm_up_request(self) -> SpeechRequest:
        """A short turn that touches everything a first caller would otherwise wait for."""
        return SpeechRequest(
            text=_WARM_UP_TEXT, speaker=min(self._bundle.speakers, default=0), max_frames=_WARM_UP_FRAMES
        )

    def _check_speaker(self, speaker: int) -> None:
        known = self._bundle.speakers
        if known and speaker not in known:
            names = ", ".join(f"{number} ({name})" for number, name in sorted(known.items()))
            raise InputError(f"speaker {speaker} is unknown: this bundle speaks as {names}")


def _asked(request: SpeechRequest) -> dict[str, Any]:
    """The sampling values that the request gives; the bundle keeps its own for the others."""
    values = asdict(request.sampling) | {"seed": request.seed}
    return {name: value for name, value in values.items() if value is not None}


def _context_turn(turn: Turn) -> ContextTurn:
    codes = None if turn.codes is None else torch.from_numpy(turn.codes.astype(np.int64))
    return ContextTurn(speaker=turn.speaker, text=turn.text, codes=codes)
