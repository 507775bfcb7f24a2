"""Long text spoken sentence by sentence, as one unbroken sound, while the text still comes in.

Each sentence is a turn of its own, that hears the ones before it. All of them, and the pauses between them, go through
one state of the codec's decoder: the sound equals the whole decode of all codes joined, so that nothing clicks.

Shapes: K codebooks, F frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from csm_model.codec.base import AudioCodec
from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_model.inference.context import ContextTurn, VoicePrompt
from csm_model.inference.generator import Frame, Generator
from csm_model.inference.safety import Reason
from csm_model.inference.sampling import Sampling
from csm_model.inference.sentences import LONGEST, Piece, split_parts

_SETTLED = 25
"""Frames (2 s) of silence after which a codec's code for silence is that of a long one."""


@dataclass(frozen=True, kw_only=True)
class SpokenSentence:
    """A sentence that was spoken."""

    piece: Piece
    begin: int
    """Frame of the whole at which it begins."""
    frames: int
    """Frames that it takes, without the pause after it."""
    reason: Reason
    """Why it stopped."""
    dropped: int
    """Turns before it that it had no room for."""


class LongSpeech(Iterator[Frame]):
    """The frames of a long text, each made when it is asked for.

    The first sentence is drawn with the seed of the sampling, so that a text of one sentence is what `Generator.stream`
    makes of it; the others with seeds that follow from it. A sentence that the model did not end itself is no context
    for the next one.

    Args:
        generator: what speaks.
        text: the whole text, or its parts as they come; asking for a frame waits for the text that it needs.
        speaker: who says it.
        context: turns said before, oldest first.
        voice: whose voice is taken up by every sentence.
        sampling: how codes are drawn; the generator's own without it.
        longest: the most characters of a sentence; longer ones are cut at clauses.
        turns: the most turns before it that a sentence hears; by default as many as the model was trained with, or all
            that fit where its recipe has no bound.

    Raises:
        InputError: nothing to say, or a sentence that `Generator.stream` refuses; on the frame that comes to it.
    """

    def __init__(
        self,
        generator: Generator,
        text: str | Iterable[str],
        speaker: int,
        *,
        context: Sequence[ContextTurn] = (),
        voice: VoicePrompt | None = None,
        sampling: Sampling | None = None,
        longest: int = LONGEST,
        turns: int | None = None,
    ) -> None:
        self._generator = generator
        self._pieces = split_parts([text] if isinstance(text, str) else text, longest=longest)
        self._speaker = speaker
        self._context = list(context)
        self._voice = voice
        self._sampling = sampling or generator.sampling
        self._turns = trained_turns(generator.bundle.manifest) if turns is None else turns
        if self._turns is not None and self._turns < 0:
            raise InputError(f"turns {turns}: must be 0 (none) or more")
        self.sentences: list[SpokenSentence] = []
        """Those that are over, in order."""
        self._frames = self._speak()

    @property
    def ended(self) -> bool:
        """Whether the model ended every sentence itself, up to now."""
        return all(sentence.reason is Reason.ENDED for sentence in self.sentences)

    def __next__(self) -> Frame:
        return next(self._frames)

    def _speak(self) -> Iterator[Frame]:
        codec = self._generator.bundle.codec
        sound = codec.streaming_decoder()
        made = pause = 0
        for index, piece in enumerate(self._pieces):
            for codes in silence_codes(codec, pause).unbind(1) if pause else ():
                made += 1
                yield Frame(codes, sound.step(codes[None, :, None])[0, 0].numpy())
            stream = self._generator.stream(
                piece.text,
                self._speaker,
                context=self._heard(),
                voice=self._voice,
                sampling=replace(self._sampling, seed=sentence_seed(self._sampling.seed, index)),
                sound=sound,
            )
            begin, said = made, []
            for frame in stream:
                made += 1
                said.append(frame.codes)
                yield frame
            assert stream.reason is not None
            self.sentences.append(
                SpokenSentence(piece=piece, begin=begin, frames=len(said), reason=stream.reason, dropped=stream.dropped)
            )
            if stream.ended:
                self._context.append(ContextTurn(speaker=self._speaker, text=piece.text, codes=torch.stack(said, 1)))
            pause = 0 if stream.reason is Reason.SILENCE else piece.pause  # there was silence enough
        if not self.sentences:
            raise InputError("the text has nothing to say: give at least one letter or digit")

    def _heard(self) -> list[ContextTurn]:
        """The turns that the next sentence hears; the others are forgotten."""
        if self._turns is not None:
            self._context = self._context[len(self._context) - min(self._turns, len(self._context)) :]
        return self._context


def trained_turns(manifest: dict[str, Any]) -> int | None:
    """How many turns before the last one a bundle's model was trained with; None where its recipe has no bound."""
    most = manifest.get("recipe", {}).get("max_turns", 0)
    return most - 1 if most else None


def sentence_seed(seed: int, index: int) -> int:
    """Seed of a sentence: that of the whole for the first one, and one that follows from it for each other."""
    if index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8], "big") >> 1


def silence_codes(codec: AudioCodec, frames: int) -> Tensor:
    """Codes `[K, F]` of silence that has lasted for a while."""
    with torch.inference_mode():
        silence = torch.zeros(1, 1, (_SETTLED + frames) * FRAME_SAMPLES)
        return codec.encode(silence)[0, :, _SETTLED:]
