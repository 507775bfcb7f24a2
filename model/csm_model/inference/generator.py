"""The offline generator: a batch of one stream, each frame made when it is asked for.

A stream is a pure function of the model, the text, the context and the seed: whoever calls it, here or behind a server,
gets the same codes and the same sound. It stops where the model ends it or a watch stops it, and says why.

Shapes: K codebooks, F frames, S samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from csm_model.bundle import Bundle
from csm_model.inference.batch import Frame, SpeechBatch
from csm_model.inference.context import ContextTurn, VoicePrompt
from csm_model.inference.narration import SpokenSentence, Utterance
from csm_model.inference.prefixes import PrefixCache
from csm_model.inference.safety import Bounds, Reason
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
    """Turns said before that were not heard: so many of the oldest."""
    left_out: str = ""
    """Signs of the text that could not be said."""

    @property
    def ended(self) -> bool:
        """Whether the model ended it."""
        return self.reason is Reason.ENDED


class SpokenFrames(Iterator[Frame]):
    """The frames of one stream; asking for one waits for the text that it needs.

    Args:
        batch: of one slot, free.
        asked: what to say.
        parts: the parts of the text that come after `asked.text`, where it says that more follows.
    """

    def __init__(self, batch: SpeechBatch, asked: Utterance, parts: Iterable[str] = ()) -> None:
        batch.open(0, asked)
        self._batch = batch
        self._parts = iter(parts)
        self._narration = batch.narration(0)
        self._made: Frame | None = None

    @property
    def reason(self) -> Reason | None:
        """Why it stopped; None until it has."""
        return self._narration.reason

    @property
    def ended(self) -> bool:
        """Whether the model ended every sentence itself, up to now, or all of it."""
        return all(sentence.reason is Reason.ENDED for sentence in self.sentences)

    @property
    def dropped(self) -> int:
        """Turns said before that were not heard: so many of the oldest."""
        return self._narration.dropped

    @property
    def left_out(self) -> str:
        """Signs of the text so far that could not be said."""
        return self._narration.left_out

    @property
    def sentences(self) -> list[SpokenSentence]:
        """Those that are over, in order; a short text is one."""
        return self._narration.sentences

    def __next__(self) -> Frame:
        batch = self._batch
        self._made = None
        while self._made is None:
            over = batch.over(0)
            if isinstance(over, Exception):
                raise over
            if over is not None:
                raise StopIteration
            if batch.waits(0):
                part = next(self._parts, None)
                batch.add(0, part or "", more=part is not None)
            elif batch.sounds(0):
                batch.step([0], self._take)
            else:
                batch.prefill(0)
        return self._made

    def _take(self, slot: int, frame: Frame) -> None:
        self._made = frame


class Generator:
    """Speaks with a bundle; several streams may be alive.

    Args:
        bundle: what speaks.
        sampling: how codes are drawn; what the bundle recommends without it.
        bounds: of the watches.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        sampling: Sampling | None = None,
        bounds: Bounds | None = None,
    ) -> None:
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
    ) -> SpokenFrames:
        """Each frame of one turn as it is made, until speech ends, is no speech any more, or `max_frames` are made.

        Args:
            text: what to say, as one turn however long it is.
            speaker: who says it.
            context: turns said before, oldest first; the oldest are dropped where there is no room for them, or where
                they are more than the model was trained with.
            voice: whose voice is taken up.
            sampling: how codes are drawn; the generator's own without it.
            max_frames: the most frames, where that is less than the text allows.

        Raises:
            InputError: nothing to say, an unknown speaker, codes of another codec, or a text and a voice too long.
        """
        asked = Utterance(
            text=text,
            speaker=speaker,
            context=tuple(context),
            voice=voice,
            sampling=sampling or self.sampling,
            max_frames=max_frames,
            sentences=False,
        )
        return SpokenFrames(self._batch(asked), asked)

    def narrate(
        self,
        text: str | Iterable[str],
        speaker: int,
        *,
        context: Sequence[ContextTurn] = (),
        voice: VoicePrompt | None = None,
        sampling: Sampling | None = None,
        turns: int | None = None,
    ) -> SpokenFrames:
        """A text of any length, whole or in parts as they come, spoken sentence by sentence as one sound.

        Args:
            text: the whole text, or its parts.
            speaker: who says it.
            context: turns said before, oldest first.
            voice: whose voice is taken up by every sentence.
            sampling: how codes are drawn; the generator's own without it.
            turns: see `Utterance`.

        Raises:
            InputError: as `stream` does; for what comes later, on the frame that comes to it.
        """
        parts = iter([text] if isinstance(text, str) else text)
        asked = Utterance(
            text="",
            more=True,
            speaker=speaker,
            context=tuple(context),
            voice=voice,
            sampling=sampling or self.sampling,
            turns=turns,
        )
        return SpokenFrames(self._batch(asked), asked, parts)

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
        return speech_of(
            self.stream(text, speaker, context=context, voice=voice, sampling=sampling, max_frames=max_frames)
        )

    def _batch(self, asked: Utterance) -> SpeechBatch:
        return SpeechBatch(
            self.bundle,
            slots=1,
            bounds=self.bounds,
            guided=asked.sampling.guidance != 1.0,
            prefixes=PrefixCache(0),
        )


def speech_of(stream: SpokenFrames) -> Speech:
    """All of a stream."""
    frames = list(stream)
    assert stream.reason is not None
    return Speech(
        audio=np.concatenate([frame.audio for frame in frames]),
        codes=torch.stack([frame.codes for frame in frames], dim=1),
        reason=stream.reason,
        dropped=stream.dropped,
        left_out=stream.left_out,
    )
