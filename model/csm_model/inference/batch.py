"""All live streams in one model: fixed slots, any of which are stepped together, a frame each.

A step draws a frame of every slot that speaks, adds the silence of those that pause, turns all of it into sound by one
batched step of the codec, marks it, and has the backbone read what was drawn. So the weights are read once a step,
however many streams there are. What a stream says depends on what it was asked and on its seed, not on its neighbours,
its slot, or when it came (`FrameDecoder`). What a stream's own work raises (its text, its watches, who takes its
frames) ends that stream alone; what `step` raises is a failure of the model, with which nobody can go on. Whose turn it
is to be read or stepped is the scheduler's business (`csm_model.inference.scheduler`).

Shapes: M slots stepped, K codebooks, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from csm_model.bundle import Bundle
from csm_model.codec.base import AudioCodec
from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_model.inference.context import check_codes
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.faults import fault_of
from csm_model.inference.narration import Heard, Narration, Utterance
from csm_model.inference.prefixes import PrefixCache
from csm_model.inference.prompt import audio_rows
from csm_model.inference.safety import Audio, Bounds, Reason
from csm_model.watermark import SlotMarker

PREFILL_ROWS = 64
"""Rows of a prompt that are read at once, unless told otherwise."""
PREFIX_BYTES = 1 << 30
"""Memory for voice prompts that were read, unless told otherwise."""
_HEARD_FRAMES = 8
"""Frames of a resumed stream that it is led through at once."""
_SETTLED = 25
"""Frames (2 s) of silence after which a codec's code for silence is that of a long one."""


@dataclass(frozen=True, eq=False)
class Frame:
    """80 ms of speech."""

    codes: Tensor
    """int64 `[K]`."""
    audio: Audio
    """float32 `[1920]`."""
    index: int
    """Its number in the stream."""
    sentence: int
    """Number of the sentence that it belongs to; `narration.BETWEEN` in a pause."""


Emit = Callable[[int, Frame], None]
"""Takes a slot's frame away, before the model goes on."""


@dataclass
class _Stream:
    narration: Narration
    prompt: Prompt | None = None  # of the turn that is being spoken, or of the last one
    unread: Prompt | None = None  # what of it is still to be read
    error: Exception | None = None  # why it cannot go on
    heard: Heard | None = None  # what it is still to be led through
    again: int = 0  # frames of that which it has been led through


class SpeechBatch:
    """The streams in the slots.

    Args:
        bundle: what speaks.
        slots: streams at once.
        rows: the most rows of a sequence, prompt and speech together; the model's bound without it.
        bounds: of the watches over every stream.
        marker: marks the sound of every stream; None leaves it unmarked.
        prefill_rows: rows of a prompt that `prefill` reads at once.
        prefixes: keeps voice prompts that were read; by default, `PREFIX_BYTES` of them.
        guided: whether streams may ask for guidance, which takes a second cache.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        slots: int,
        rows: int | None = None,
        bounds: Bounds | None = None,
        marker: SlotMarker | None = None,
        prefill_rows: int = PREFILL_ROWS,
        prefixes: PrefixCache | None = None,
        guided: bool = True,
    ) -> None:
        for name, value in (("slots", slots), ("prefill_rows", prefill_rows)):
            if value < 1:
                raise InputError(f"{name} {value}: must be at least 1")
        self.bundle, self.slots = bundle, slots
        self.bounds = bounds or Bounds()
        self.prefixes = PrefixCache(PREFIX_BYTES) if prefixes is None else prefixes
        self._prefill_rows = prefill_rows
        most = rows or bundle.model.config.max_rows
        entries = bundle.codec.entries
        self._decoder = FrameDecoder(bundle.model, slots=slots, rows=most, guided=guided, entries=entries)
        self._codec = bundle.codec.slot_decoder(slots)
        self._marker = marker
        self._silence: Tensor | None = None
        self._streams: dict[int, _Stream] = {}

    def open(self, slot: int, asked: Utterance) -> None:
        """Begins a stream in a free slot; raises `InputError` for what cannot be said."""
        assert slot not in self._streams, f"slot {slot} is taken"
        stream = _Stream(Narration(asked, bundle=self.bundle, bounds=self.bounds))
        self._codec.reset(slot)
        if self._marker is not None:
            self._marker.reset(slot)
        stream.narration.advance()
        if asked.heard is None or not asked.heard.sentences:
            self._enter(slot, stream)
            self._streams[slot] = stream
            return
        check_codes(asked.heard.codes, self.bundle.model.config, "resumed frames")
        stream.heard = asked.heard
        self._streams[slot] = stream
        try:
            self.lead([slot])
            if stream.error is not None:
                raise stream.error
        except BaseException:
            self.close(slot)
            raise

    def close(self, slot: int) -> None:
        """Frees a slot; what it held is forgotten."""
        self._streams.pop(slot, None)

    def narration(self, slot: int) -> Narration:
        """What the stream in a slot says."""
        return self._streams[slot].narration

    def over(self, slot: int) -> Reason | Exception | None:
        """Why a stream is over, or cannot go on; None while it is not over."""
        stream = self._streams[slot]
        return stream.error or (stream.narration.reason if stream.heard is None else None)

    def dropped(self, slot: int) -> int:
        """Turns said before that a stream did not hear."""
        return self._streams[slot].narration.dropped

    def left_out(self, slot: int) -> str:
        """Signs of a stream's text that could not be said."""
        return self._streams[slot].narration.left_out

    def waits(self, slot: int) -> bool:
        """Whether a stream can do nothing before more text is there."""
        stream = self._streams[slot]
        return stream.heard is None and stream.narration.waiting

    def add(self, slot: int, text: str, *, more: bool) -> None:
        """Takes the next part of a stream's text; raises `InputError` where it has ended, or says nothing at all."""
        stream = self._streams[slot]
        try:
            stream.narration.add(text, more=more)
        except InputError as error:
            if stream.narration.reason is not None and not stream.narration.sentences:
                stream.error = error
            raise
        if stream.heard is None:
            self._take_up(slot)

    def reads(self, slot: int) -> bool:
        """Whether a stream has rows to read, or frames to be led through, before it can speak."""
        stream = self._streams[slot]
        return stream.heard is not None or stream.unread is not None

    def sounds(self, slot: int) -> bool:
        """Whether a stream's next frame can be made."""
        stream = self._streams[slot]
        if stream.heard is not None or stream.error is not None:
            return False
        return stream.narration.speaking is not None and (stream.narration.pause > 0 or stream.unread is None)

    def leads(self, slot: int) -> bool:
        """Whether a stream is still to be led through frames that its caller has heard."""
        return self._streams[slot].heard is not None

    def lead(self, slots: Sequence[int], *, short: bool = False) -> None:
        """Leads streams through the next frames that their callers have heard, so many of each; one breaks whose frames
        do not fit its text. What is raised is a failure of the model, as in `step`.

        Args:
            slots: those streams.
            short: fewer frames, so that it takes no longer than for one stream.
        """
        resumed = [(self._streams[slot], heard) for slot in slots if (heard := self._streams[slot].heard) is not None]
        assert len(resumed) == len(slots)
        frames = 4 * _HEARD_FRAMES // (len(slots) + 3) if short else _HEARD_FRAMES  # another stream costs a fourth more
        count = min(max(1, frames), *(len(heard.sentences) - stream.again for stream, heard in resumed))
        codes = torch.stack([heard.codes[:, stream.again : stream.again + count] for stream, heard in resumed])
        plain = self._codec.step(codes.to(self._device), slots)[:, 0]
        for slot, (stream, heard), sound in zip(slots, resumed, plain, strict=True):
            with self._own(slot):
                self._hear_again(slot, stream, heard, sound)

    def prefill(self, slot: int) -> None:
        """Reads the next rows of a stream's prompt, `prefill_rows` at most, or leads it on."""
        stream = self._streams[slot]
        if stream.heard is not None:
            self.lead([slot])
            return
        turn, unread, prompt = stream.narration.speaking, stream.unread, stream.prompt
        assert turn is not None
        assert unread is not None
        assert prompt is not None
        held, voice = self._decoder.held(slot), turn.layout.pinned
        count = min(self._prefill_rows, len(unread.rows))
        if held < voice:  # read apart, so that its rows come about in the same way whatever follows
            count = min(count, voice - held)
        self._decoder.read(slot, unread.part(0, count))
        stream.unread = unread.part(count) if count < len(unread.rows) else None
        if voice and held + count == voice:
            self.prefixes.add(prompt.part(0, voice), self._decoder.copy(slot, voice))

    def step(self, slots: Sequence[int], emit: Emit) -> None:
        """Makes the next frame of some slots that sound; the frame of one whose sentence ends is left out.

        `over` then says which streams are over. What is raised is a failure of the model: of all slots, whose state is
        not to be gone on from.
        """
        codes: dict[int, Tensor] = {}
        speaking: dict[int, bool] = {}  # and whether it may end
        for slot in slots:
            with self._own(slot):
                narration = self.narration(slot)
                if narration.pause:
                    codes[slot] = self._silent(narration.paused)
                else:
                    speaking[slot] = narration.may_end
        drawn: list[int] = []
        if speaking:
            frame = self._decoder.draw(list(speaking), list(speaking.values()))
            each, ended = frame.codes.cpu(), frame.ended.tolist()
            drawn = [slot for slot, over in zip(speaking, ended, strict=True) if not over]
            codes |= {slot: one for slot, one, over in zip(speaking, each, ended, strict=True) if not over}
        sounding = list(codes)
        if sounding:
            plain = self._codec.step(torch.stack(list(codes.values()))[..., None].to(self._device), sounding)[:, 0]
            for row, slot in enumerate(sounding):
                with self._own(slot):
                    heard = plain[row]
                    marked = heard if self._marker is None else self._marker.step(heard[None], [slot])[0]
                    self._tell(
                        slot, codes[slot], heard.cpu().numpy(), marked.cpu().numpy(), emit, paused=slot not in drawn
                    )
        going_on = [slot for slot in drawn if self._goes_on(slot)]
        if going_on:
            self._decoder.feed(going_on, torch.stack([codes[slot] for slot in going_on]).to(self._device))
        for slot in speaking:
            if self._streams[slot].error is not None:
                continue
            with self._own(slot):
                if slot not in drawn:
                    self.narration(slot).finish(Reason.ENDED)
            self._take_up(slot)

    @property
    def _device(self) -> torch.device:
        return self.bundle.model.audio_embeddings.weight.device

    def _tell(self, slot: int, codes: Tensor, heard: Audio, sound: Audio, emit: Emit, *, paused: bool) -> None:
        narration = self.narration(slot)
        frame = Frame(codes, sound, narration.made, narration.sentence)
        if paused:
            narration.passed()
        else:
            narration.see(codes, heard)
        emit(slot, frame)

    @contextmanager
    def _own(self, slot: int) -> Iterator[None]:
        """A stream's own work: whatever it raises ends that stream, and no other one."""
        try:
            yield
        except BaseException as error:
            self._streams[slot].error = fault_of(error)

    def _goes_on(self, slot: int) -> bool:
        """Whether the sentence of a slot goes on after the frame that it was just told of."""
        stream = self._streams[slot]
        return stream.error is None and stream.narration.speaking is not None

    def _take_up(self, slot: int) -> None:
        """Goes on to the stream's next turn, where there is one."""
        stream = self._streams[slot]
        with self._own(slot):
            if stream.error is None and stream.narration.advance():
                self._enter(slot, stream)

    def _enter(self, slot: int, stream: _Stream) -> None:
        """Makes the slot ready for the turn: what it holds of the prompt stays, or a voice read before comes in."""
        narration = stream.narration
        turn = narration.speaking
        if turn is None:
            return
        config, prompt = self.bundle.model.config, turn.layout.prompt
        keep = 0
        if stream.prompt is not None:
            held = stream.prompt.then(*audio_rows(narration.last, config, close=False))
            held = held.part(0, self._decoder.held(slot))
            keep = min(held.common(prompt), len(prompt.rows) - 1)
        voice = turn.layout.pinned
        rows = self.prefixes.get(prompt.part(0, voice)) if keep < voice else None
        if keep < voice:
            keep = 0
        self._decoder.begin(slot, turn.sampling, keep=keep, frame=narration.spoken)
        if rows is not None:
            self._decoder.put(slot, rows)
        stream.prompt = prompt
        if narration.spoken:
            prompt = prompt.then(*audio_rows(narration.said, config, close=False))
        stream.unread = prompt.part(self._decoder.held(slot))

    def _hear_again(self, slot: int, stream: _Stream, heard: Heard, plain: Tensor) -> None:
        """Takes a narration and the mark some frames on, towards where the stream broke off.

        Args:
            slot: the stream's.
            stream: it.
            heard: all frames that were heard.
            plain: sound `[S]` of those that it is led through, without a mark.

        Raises:
            InputError: frames that do not fit the text.
        """
        narration = stream.narration
        for sound in torch.split(plain, FRAME_SAMPLES):
            codes, sentence = heard.codes[:, stream.again], heard.sentences[stream.again]
            if self._marker is not None:
                self._marker.step(sound[None], [slot])
            if narration.spoken and sentence != narration.sentence:
                narration.finish(Reason.ENDED)
            narration.advance()
            if narration.speaking is None or sentence != narration.sentence:
                raise InputError(
                    f"resumed frame {stream.again} of sentence {sentence} does not fit the text: give the whole text "
                    "so far, and the frames as they came"
                )
            if narration.pause:
                narration.passed()
            else:
                narration.see(codes, sound.cpu().numpy())
            stream.again += 1
        if stream.again == len(heard.sentences):
            stream.heard = None
            narration.advance()
            self._enter(slot, stream)

    def _silent(self, frame: int) -> Tensor:
        """Codes `[K]` of a frame of a pause."""
        if self._silence is None or frame >= self._silence.shape[1]:
            self._silence = silence_codes(self.bundle.codec, max(16, 2 * frame))
        return self._silence[:, frame]


def silence_codes(codec: AudioCodec, frames: int) -> Tensor:
    """Codes `[K, F]` of silence that has lasted for a while."""
    with torch.inference_mode():
        silence = torch.zeros(1, 1, (_SETTLED + frames) * FRAME_SAMPLES)
        return codec.encode(silence)[0, :, _SETTLED:]
