"""Requests as the model takes them: who speaks, what was said before, how it is drawn, and whether that is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from csm_model.bundle import Bundle
from csm_model.errors import InputError
from csm_model.frames import frames_of
from csm_model.inference.batch import Frame
from csm_model.inference.context import ContextTurn, check_codes, reading, sounds_in, turns_that_fit
from csm_model.inference.narration import Heard, Utterance, room_before
from csm_model.text.base import nothing_to_say
from csm_serving.server.stored_voices import Voice
from csm_serving.server.tokens import TurnChain, TurnKey
from csm_serving.server.voices import VoiceRegistry
from csm_serving.wire.errors import UnavailableError
from csm_serving.wire.protocol import Chunk, SpeechRequest, Turn
from csm_serving.wire.tensors import Array

WARM_UP_TEXT = "Good morning, how are you?"
WARM_UP_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest:
    """A request that may be spoken."""

    utterance: Utterance
    voice: Voice
    chain: TurnChain
    """The tokens of its frames, those that were heard before among them."""

    def chunk(self, frame: Frame) -> Chunk:
        """The next frame as it travels; each one once, in order."""
        codes = frame.codes.numpy().astype(np.int32)
        return Chunk(
            audio=frame.audio,
            frame_index=frame.index,
            sentence=frame.sentence,
            codes=codes,
            token=self.chain.next(codes),
        )


class RequestReader:
    """Reads requests for one bundle; may be called from any thread.

    Args:
        bundle: what speaks.
        voices: who may be asked for; without it the bundle's own speakers.
        key: makes and knows tokens.
        client_voices: whether sound of the asked speaker that has no token is refused: it would clone a voice.
        max_frames: the most frames of every stream, whatever is asked.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        voices: VoiceRegistry | None = None,
        key: TurnKey | None = None,
        client_voices: Literal["refuse", "allow"] = "refuse",
        max_frames: int | None = None,
    ) -> None:
        self._bundle = bundle
        self._voices = voices or VoiceRegistry(speakers=bundle.speakers)
        self._key = key or TurnKey()
        self._client_voices = client_voices
        self._max_frames = max_frames

    def read(self, request: SpeechRequest, *, wanted: Callable[[], bool] = lambda: True) -> ResolvedRequest:
        """The request as an utterance. Sound that the model does not hear is not encoded: its turns are `dropped`.

        Args:
            request: what is asked.
            wanted: asked before each piece of work that takes long; nobody waits for the rest where it says no.

        Raises:
            InputError: an unknown voice, sound that is not allowed, or a text in which nothing can be said.
            ArtifactError: the voice's record is damaged.
            UnavailableError: the request is not wanted any more.
        """
        if not request.text_more:
            with reading(request.text):
                passages = self._bundle.tokenizer.read(request.text).passages
            if not passages:
                raise nothing_to_say(request.text)
        if request.voice is not None:
            voice = self._voices.get(request.voice)
            prompt = self._voices.prompt(request.voice, self._bundle.codec)
        else:
            voice, prompt = self._voices.speaker(request.speaker or 0), None
        heard = [self._heard_turn(number, turn, voice) for number, turn in enumerate(request.context)]
        limits = [limit for limit in (request.max_frames, self._max_frames) if limit is not None]
        utterance = Utterance(
            text=request.text,
            more=request.text_more,
            speaker=voice.speaker,
            voice=prompt,
            sampling=replace(self._bundle.sampling, **_given(request)),
            max_frames=min(limits, default=None),
            heard=self._heard(request, voice),
            check=request.check,
        )
        said = self._sayable(heard)
        turns, dropped = self._usable(said, utterance)
        dropped += len(request.context) - len(said)
        context = tuple(self._context_turn(turn, wanted) for turn in turns)
        utterance = replace(utterance, context=context, dropped=dropped)
        chain = self._key.begin(voice.identity, None if request.resume is None else request.resume.codes)
        return ResolvedRequest(utterance=utterance, voice=voice, chain=chain)

    def is_quick(self, request: SpeechRequest) -> bool:
        """Whether reading it takes no sound to be encoded."""
        if request.voice is not None and not self._voices.is_at_hand(request.voice, self._bundle.codec):
            return False
        room = self._bundle.model.config.max_rows
        for turn in reversed(request.context):
            room -= _frames(turn)
            if room < 0:
                return True  # this one does not fit, nor does any before it
            if turn.audio is not None:
                return False
        return True

    def warm_up_request(self) -> SpeechRequest:
        """A short turn that touches everything a first caller would otherwise wait for."""
        return SpeechRequest(
            text=WARM_UP_TEXT, speaker=min(self._bundle.speakers, default=0), max_frames=WARM_UP_FRAMES
        )

    def _heard_turn(self, number: int, turn: Turn, voice: Voice) -> Turn:
        """A turn of the context with the number of who spoke it.

        Args:
            number: of the turn, from 0.
            turn: as it was given.
            voice: who is asked for.

        Raises:
            InputError: an unknown voice, sound that is not allowed, or codes of another codec.
        """
        spoke = voice
        if turn.voice is not None:
            try:
                spoke = self._voices.get(turn.voice)
            except InputError as error:
                raise InputError(f"context turn {number}: {error}") from None
            turn = replace(turn, speaker=spoke.speaker)
        has_sound = turn.audio is not None or turn.codes is not None
        if has_sound and turn.speaker == voice.speaker and self._client_voices == "refuse":
            known = turn.codes is not None and self._key.verify(spoke.identity, turn.codes, turn.token)
            if not known:
                raise InputError(
                    f"context turn {number} brings sound of speaker {turn.speaker}, who is asked for, that this "
                    "service has not spoken: give its codes with the token of its last chunk, or its text only, or "
                    "ask for a voice of the registry"
                )
        if turn.codes is not None:
            check_codes(_codes(turn.codes), self._bundle.model.config, f"context turn {number}")
        return turn

    def _sayable(self, context: Sequence[Turn]) -> Sequence[Turn]:
        """The turns of a context that can be said; those that are too old to find room are not looked at."""
        said: list[Turn] = []
        room = self._bundle.model.config.max_rows
        for turn in reversed(context):
            if room > 0 and not (sounds := sounds_in(turn.text, self._bundle.tokenizer)):
                continue
            room -= sounds
            said.append(turn)
        return said[::-1]

    def _usable(self, context: Sequence[Turn], asked: Utterance) -> tuple[Sequence[Turn], int]:
        """The newest turns of a context, that the model may hear, and how many are left out.

        That is all of them where none has to be encoded: they cost nothing.
        """
        if all(turn.audio is None for turn in context):
            return context, 0
        room, most = room_before(asked, self._bundle)
        turns = [(turn.text, turn.speaker, _frames(turn)) for turn in context]
        dropped = len(context) - turns_that_fit(turns, room, self._bundle.tokenizer, most=most)
        return context[dropped:], dropped

    def _context_turn(self, turn: Turn, wanted: Callable[[], bool]) -> ContextTurn:
        codes = None
        if turn.audio is not None:
            if not wanted():
                raise UnavailableError("nobody waits for this request any more")
            sound = torch.from_numpy(np.ascontiguousarray(turn.audio, np.float32))
            codes = self._bundle.codec.encode(sound[None, None])[0]
        elif turn.codes is not None:
            codes = _codes(turn.codes)
        return ContextTurn(speaker=turn.speaker, text=turn.text, codes=codes)

    def _heard(self, request: SpeechRequest, voice: Voice) -> Heard | None:
        resume = request.resume
        if resume is None:
            return None
        if self._client_voices == "refuse" and not self._key.verify(voice.identity, resume.codes, resume.token):
            raise InputError(
                "the resumed frames were not spoken by this service (CSM_SERVING_TURN_KEY must be the same on all "
                "servers): ask for the whole anew"
            )
        return Heard(codes=_codes(resume.codes), sentences=tuple(int(number) for number in resume.sentences))


def _frames(turn: Turn) -> int:
    """Frames of a turn's sound."""
    if turn.audio is not None:
        return frames_of(len(turn.audio))
    return 0 if turn.codes is None else turn.codes.shape[1]


def _codes(codes: Array) -> Tensor:
    """Codes `[K, F]` as the model takes them."""
    return torch.from_numpy(codes.astype(np.int64))


def _given(request: SpeechRequest) -> dict[str, Any]:
    """The sampling values that the request gives; the bundle keeps its own for the others."""
    values = asdict(request.sampling) | {"seed": request.seed}
    return {name: value for name, value in values.items() if value is not None}
