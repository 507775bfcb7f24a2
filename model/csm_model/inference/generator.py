"""The offline generator: text to frames of codes to sound, one frame after another.

A stream is a pure function of the model, the text, the context and the seed: whoever calls it, here or behind a server,
gets the same codes and the same sound.

Shapes: K codebooks, T rows, F frames, S samples.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from csm_model.bundle import Bundle
from csm_model.codec.base import StreamingDecoder
from csm_model.errors import InputError
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.prompt import audio_rows, text_rows
from csm_model.inference.sampling import Sampling

MIN_FRAMES = 3  # speech never ends before; nothing can be said in less
FRAMES_PER_SOUND = 1.5  # nobody needs more frames a phoneme: twice the slowest training speech
SPARE_FRAMES = 15


def frame_limit(sounds: int, max_frames: int | None = None) -> int:
    """The most frames that speech of so many phonemes and pauses may take; `max_frames` can only lower it."""
    limit = int(sounds * FRAMES_PER_SOUND) + SPARE_FRAMES
    if max_frames is None:
        return limit
    if max_frames < 1:
        raise InputError(f"max_frames {max_frames}: must be at least 1")
    return min(limit, max_frames)


@dataclass(frozen=True, kw_only=True)
class ContextTurn:
    """A turn that was said before: its text and, where known, its codes `[K, F]`."""

    speaker: int
    text: str
    codes: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Speech:
    """A finished utterance."""

    audio: npt.NDArray[np.float32]
    """float32 `[S]`, 24 kHz."""
    codes: Tensor
    """int64 `[K, F]`."""
    ended: bool
    """Whether the model ended it; False: it was cut at the most frames allowed."""


class Frame(NamedTuple):
    """80 ms of speech."""

    codes: Tensor  # int64 [K]
    audio: npt.NDArray[np.float32]  # float32 [1920]


class SpeechStream(Iterator[Frame]):
    """The frames of one utterance, each made when it is asked for."""

    def __init__(self, codes: Iterator[Tensor], decoder: StreamingDecoder) -> None:
        self._codes = codes
        self._decoder = decoder
        self.ended = False
        """After the last frame: whether the model ended it; False: it was cut at the most frames allowed."""

    def __next__(self) -> Frame:
        try:
            codes = next(self._codes)
        except StopIteration as stop:
            self.ended = self.ended or bool(stop.value)
            raise
        return Frame(codes, self._decoder.step(codes[None, :, None])[0, 0].numpy())


class Generator:
    """Speaks with a bundle, one stream at a time; several streams may be alive."""

    def __init__(self, bundle: Bundle, *, sampling: Sampling | None = None) -> None:
        self.bundle = bundle
        self.model = bundle.model
        self.config = bundle.model.config
        self.sampling = sampling or bundle.sampling

    def stream(
        self,
        text: str,
        speaker: int,
        *,
        context: Sequence[ContextTurn] = (),
        sampling: Sampling | None = None,
        max_frames: int | None = None,
    ) -> SpeechStream:
        """Each frame as it is made, until speech ends or `max_frames` are made.

        Raises:
            InputError: nothing to say, an unknown speaker, codes of another codec, or a context too long.
        """
        ids = self.bundle.tokenizer.encode(text, speaker)
        limit = frame_limit(self.bundle.tokenizer.sounds(ids), max_frames)
        prompt = self._prompt(ids, context)
        if len(prompt.rows) + limit > self.config.max_rows:
            raise InputError(
                f"context and text fill {len(prompt.rows)} rows and speech may need {limit}: "
                f"the model holds {self.config.max_rows}; give fewer context turns"
            )
        codes = self._run(prompt, sampling or self.sampling, limit)
        return SpeechStream(codes, self.bundle.codec.streaming_decoder())

    def speak(
        self,
        text: str,
        speaker: int,
        *,
        context: Sequence[ContextTurn] = (),
        sampling: Sampling | None = None,
        max_frames: int | None = None,
    ) -> Speech:
        """The whole utterance; raises as `stream` does."""
        stream = self.stream(text, speaker, context=context, sampling=sampling, max_frames=max_frames)
        frames = list(stream)
        return Speech(
            audio=np.concatenate([frame.audio for frame in frames]),
            codes=torch.stack([frame.codes for frame in frames], dim=1),
            ended=stream.ended,
        )

    def _prompt(self, ids: list[int], context: Sequence[ContextTurn]) -> Prompt:
        parts = []
        for turn in context:
            parts.append(text_rows(self.bundle.tokenizer.encode(turn.text, turn.speaker), self.config))
            if turn.codes is not None:
                self._check_codes(turn.codes)
                parts.append(audio_rows(turn.codes, self.config, close=True))
        parts.append(text_rows(ids, self.config))
        rows, mask = (torch.cat(part) for part in zip(*parts, strict=True))
        # Guidance compares with a sequence that does not see what is to be said: only who says it.
        unread = torch.cat([mask[: -len(ids)], text_rows(ids, self.config, read=False)[1]])
        return Prompt(rows, mask, unread)

    def _check_codes(self, codes: Tensor) -> None:
        books, size = self.config.num_codebooks, self.config.codebook_size
        if codes.dim() != 2 or codes.shape[0] != books:
            raise InputError(f"context codes of shape {tuple(codes.shape)}: the model takes [{books}, frames]")
        if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < size):
            raise InputError(f"context codes must be from 0 to {size - 1}: were they made by another codec?")

    def _run(self, prompt: Prompt, settings: Sampling, limit: int) -> collections.abc.Generator[Tensor, None, bool]:
        """Yields the codes `[K]` of each frame; returns whether the model ended the speech."""
        decoder = FrameDecoder(self.model, [settings], rows=len(prompt.rows) + limit)
        decoder.read([prompt])
        for index in range(limit):
            frame = decoder.step([index >= MIN_FRAMES])
            if bool(frame.ended):
                return True
            yield frame.codes[0]
            decoder.feed(frame.codes)
        return False
