"""The offline generator: text to frames of codes to sound, one frame after another.

A stream is a pure function of the model, the text, the context and the seed: whoever calls it, here or behind a server,
gets the same codes and the same sound. It stops where the model ends it or a watch stops it, and says why.

Shapes: K codebooks, T rows, F frames, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from csm_model.bundle import Bundle
from csm_model.codec.base import StreamingDecoder
from csm_model.inference.context import ContextTurn, Layout, VoicePrompt, lay_out
from csm_model.inference.decoding import FrameDecoder
from csm_model.inference.safety import MIN_FRAMES, Bounds, Reason, Watch
from csm_model.inference.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Speech:
    """A finished utterance."""

    audio: npt.NDArray[np.float32]
    """float32 `[S]`, 24 kHz."""
    codes: Tensor
    """int64 `[K, F]`."""
    reason: Reason
    """Why it stopped."""
    dropped: int = 0
    """Turns said before that there was no room for: so many of the oldest."""

    @property
    def ended(self) -> bool:
        """Whether the model ended it."""
        return self.reason is Reason.ENDED


class Frame(NamedTuple):
    """80 ms of speech."""

    codes: Tensor  # int64 [K]
    audio: npt.NDArray[np.float32]  # float32 [1920]


class SpeechStream(Iterator[Frame]):
    """The frames of one utterance, each made when it is asked for."""

    def __init__(self, decoder: FrameDecoder, layout: Layout, sound: StreamingDecoder, bounds: Bounds) -> None:
        self._decoder = decoder
        self._layout = layout
        self._sound = sound
        self._watch = Watch(bounds)
        self._made = 0
        self.reason: Reason | None = None
        """Why it stopped; None until it has."""

    @property
    def ended(self) -> bool:
        """Whether the model ended it."""
        return self.reason is Reason.ENDED

    @property
    def dropped(self) -> int:
        """Turns said before that there was no room for: so many of the oldest."""
        return self._layout.dropped

    def __next__(self) -> Frame:
        if self.reason is not None:
            raise StopIteration
        if self._made == 0:
            self._decoder.read([self._layout.prompt])
        drawn = self._decoder.step([self._made >= MIN_FRAMES])
        if bool(drawn.ended):
            self.reason = Reason.ENDED
            raise StopIteration
        self._made += 1
        codes = drawn.codes[0]
        audio = self._sound.step(codes[None, :, None])[0, 0].numpy()
        self.reason = self._watch.see(codes, audio)
        if self.reason is None and self._made >= self._layout.limit:
            self.reason = Reason.CUT
        if self.reason is None:
            self._decoder.feed(drawn.codes)
        return Frame(codes, audio)


class Generator:
    """Speaks with a bundle, one stream at a time; several streams may be alive."""

    def __init__(self, bundle: Bundle, *, sampling: Sampling | None = None, bounds: Bounds | None = None) -> None:
        self.bundle = bundle
        self.model = bundle.model
        self.config = bundle.model.config
        self.sampling = sampling or bundle.sampling
        self.bounds = bounds or Bounds()

    def stream(
        self,
        text: str,
        speaker: int,
        *,
        context: Sequence[ContextTurn] = (),
        voice: VoicePrompt | None = None,
        sampling: Sampling | None = None,
        max_frames: int | None = None,
        sound: StreamingDecoder | None = None,
    ) -> SpeechStream:
        """Each frame as it is made, until speech ends, is no speech any more, or `max_frames` are made.

        Args:
            text: what to say.
            speaker: who says it.
            context: turns said before, oldest first; the oldest are dropped where there is no room for them.
            voice: whose voice is taken up.
            sampling: how codes are drawn; the generator's own without it.
            max_frames: the most frames, where that is less than the text allows.
            sound: the codec's state to go on from; a fresh one without it.

        Raises:
            InputError: nothing to say, an unknown speaker, codes of another codec, or a text and a voice too long.
        """
        layout = lay_out(
            text,
            speaker,
            tokenizer=self.bundle.tokenizer,
            config=self.config,
            context=context,
            voice=voice,
            max_frames=max_frames,
        )
        decoder = FrameDecoder(self.model, [sampling or self.sampling], rows=len(layout.prompt.rows) + layout.limit)
        return SpeechStream(decoder, layout, sound or self.bundle.codec.streaming_decoder(), self.bounds)

    def speak(
        self,
        text: str,
        speaker: int,
        *,
        context: Sequence[ContextTurn] = (),
        voice: VoicePrompt | None = None,
        sampling: Sampling | None = None,
        max_frames: int | None = None,
    ) -> Speech:
        """The whole utterance; takes and raises what `stream` does."""
        stream = self.stream(text, speaker, context=context, voice=voice, sampling=sampling, max_frames=max_frames)
        frames = list(stream)
        assert stream.reason is not None
        return Speech(
            audio=np.concatenate([frame.audio for frame in frames]),
            codes=torch.stack([frame.codes for frame in frames], dim=1),
            reason=stream.reason,
            dropped=stream.dropped,
        )
