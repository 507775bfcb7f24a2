"""What one stream says, turn by turn: text that is there or still comes in, sentences, the pauses between them.

A short text is one turn. A longer one, and any that comes in parts, is spoken sentence by sentence; each sentence is a
turn of its own that hears the ones before it. The first one is drawn with the seed of the sampling, so that a text of
one sentence is the same either way; the others with seeds that follow from it. A sentence that the model did not end
itself is no context for the next one. Nothing here touches the model: who does asks for the next turn, and tells of
each frame.

Shapes: K codebooks, F frames.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from csm_model.bundle import Bundle
from csm_model.errors import InputError
from csm_model.inference.context import ContextTurn, Layout, VoicePrompt, lay_out, reading
from csm_model.inference.safety import MIN_FRAMES, Audio, Bounds, Reason, Watch
from csm_model.inference.sampling import Sampling
from csm_model.inference.sentences import LONGEST, Break, Piece, SentenceSplitter, cut_to
from csm_model.text.base import Tokenizer, check_speaker

BETWEEN = -1
"""Number of the sentence that silence between two belongs to."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """Frames of a stream that were heard before it broke off."""

    codes: Tensor
    """int64 `[K, F]`."""
    sentences: tuple[int, ...]
    """Number of the sentence of each; `BETWEEN` for the silence between two."""

    def __post_init__(self) -> None:
        if self.codes.dim() != 2 or self.codes.shape[1] != len(self.sentences):
            raise InputError(
                f"resumed codes are {list(self.codes.shape)} and sentences {len(self.sentences)}: give [K, F] and F"
            )


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """What is asked of a stream."""

    text: str
    """What to say; the first part of it where more follows."""
    speaker: int
    """Who says it."""
    more: bool = False
    """Whether more text follows."""
    context: tuple[ContextTurn, ...] = ()
    """Turns said before, oldest first."""
    dropped: int = 0
    """Older turns that were left out of it already."""
    voice: VoicePrompt | None = None
    """Whose voice is taken up by every sentence."""
    sampling: Sampling = field(default_factory=Sampling)
    """How codes are drawn."""
    max_frames: int | None = None
    """The most frames of the whole, where that is less than the text allows."""
    heard: Heard | None = None
    """What was heard of this stream before; it goes on after that."""
    longest: int = LONGEST
    """The most characters of a sentence; longer ones are cut at clauses, and a longer text is no single turn."""
    sentences: bool | None = None
    """Whether the text is cut into its sentences; None: where more follows, or it is too long for one turn."""
    turns: int | None = None
    """The most turns before it that the text, or a sentence of it, hears; by default as many as the model was trained
    with, or all that fit where its recipe has no bound."""
    check: bool = False
    """Whether it could be said is all that is asked: it is cut before its first frame."""

    def __post_init__(self) -> None:
        if self.turns is not None and self.turns < 0:
            raise InputError(f"turns {self.turns}: must be 0 (none) or more")
        if self.max_frames is not None and self.max_frames < 1:
            raise InputError(f"max_frames {self.max_frames}: must be at least 1")

    def is_whole(self, tokenizer: Tokenizer) -> bool:
        """Whether the text is one turn: it is all there, short enough, and asks for no pause within."""
        if self.sentences is not None:
            return not self.sentences
        if self.more or len(self.text) > self.longest:
            return False
        with reading(self.text):
            passages = tokenizer.read(self.text).passages
            if len(passages) != 1:
                return not passages
            words, most = passages[0].words, self.most(tokenizer)
            return len(words) <= 2 * most and tokenizer.sounds_in(words) <= most

    def hears(self, bundle: Bundle) -> int | None:
        """The most turns before it that are heard; None: all that fit."""
        return trained_turns(bundle.manifest) if self.turns is None else self.turns

    def most(self, tokenizer: Tokenizer) -> int:
        """Sounds of a sentence, at most: as many as in training, where `longest` is what it was there."""
        return tokenizer.longest_turn * self.longest // LONGEST


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
    """Turns before it that it did not hear: see `Layout`."""


@dataclass(frozen=True, kw_only=True)
class SpokenTurn:
    """What is to be spoken next."""

    layout: Layout
    sampling: Sampling


class Narration:
    """The turns of one stream.

    `speaking` is the turn that is being spoken; `pause` are the frames of silence that come before it, or before the
    next one, which may never come.
    """

    def __init__(self, asked: Utterance, *, bundle: Bundle, bounds: Bounds) -> None:
        self._asked, self._bundle, self._bounds = asked, bundle, bounds
        check_speaker(asked.speaker, bundle.tokenizer.num_speakers)
        self._whole = asked.is_whole(bundle.tokenizer)
        self._most = asked.most(bundle.tokenizer)
        self._splitter = SentenceSplitter(longest=asked.longest)
        self._written: deque[Piece] = deque()  # as they were written
        self._saying: Iterator[Piece] | None = None  # what is said of the one that was read last
        self._saying_text = ""
        self._piece_to_come: Piece | None = None
        self._asked_pause = 0  # before the next one
        self.left_out = ""
        """Signs of the text so far that are not said, in order."""
        self._open = True
        self._context = list(asked.context)
        self._turns = asked.hears(bundle)
        self._piece: Piece | None = None
        self._nothing = torch.zeros(bundle.model.config.num_codebooks, 0, dtype=torch.long)
        self.last = self._nothing
        """Codes `[K, F]` of the last sentence that is over."""
        self._said: list[Tensor] = []
        self._watch = Watch(bounds)
        self.speaking: SpokenTurn | None = None
        self.pause = 0
        self.paused = 0
        """Frames of the present pause that are over."""
        self.made = 0
        """Frames so far, pauses among them."""
        self.sentences: list[SpokenSentence] = []
        """Those that are over, in order."""
        self.add(asked.text, more=asked.more)

    @property
    def sentence(self) -> int:
        """Number of the sentence that is being spoken; `BETWEEN` in a pause."""
        return BETWEEN if self.pause else len(self.sentences)

    @property
    def spoken(self) -> int:
        """Frames of the sentence that is being spoken."""
        return len(self._said)

    @property
    def said(self) -> Tensor:
        """Their codes `[K, spoken]`."""
        return torch.stack(self._said, dim=1) if self._said else self._nothing

    @property
    def may_end(self) -> bool:
        """Whether the sentence may end with its next frame."""
        return len(self._said) >= MIN_FRAMES

    @property
    def waiting(self) -> bool:
        """Whether nothing can be said before more text is there."""
        return self.speaking is None and not self._more_to_read and self._open

    @property
    def _more_to_read(self) -> bool:
        """Whether there is text that was not taken up yet; there may be nothing to say in it."""
        return self._piece_to_come is not None or self._saying is not None or bool(self._written)

    @property
    def reason(self) -> Reason | None:
        """Why the stream is over: that of the first sentence that the model did not end; None while it is not over."""
        if self.speaking is not None or self._more_to_read or self._open:
            return None
        return next((s.reason for s in self.sentences if s.reason is not Reason.ENDED), Reason.ENDED)

    @property
    def dropped(self) -> int:
        """Turns said before that the first sentence did not hear."""
        if self.sentences:
            return self._asked.dropped + self.sentences[0].dropped
        return self._asked.dropped + (self.speaking.layout.dropped if self.speaking is not None else 0)

    def add(self, text: str, *, more: bool) -> None:
        """Takes the next part of the text; raises `InputError` where the text has ended before."""
        if not self._open:
            raise InputError("the text has ended: a stream takes no more after its last part")
        self._written += self._cut(text, more=more)
        if not more:
            self._open = False
            if self.speaking is None and not self.sentences and not self._read_on():
                told = f"; {self.left_out[:40]!r} cannot be said" if self.left_out else ""
                raise InputError(f"the text has nothing to say{told}: give at least one word or number")

    def advance(self) -> bool:
        """Takes up the next turn, where there is one and none is being spoken; whether it did.

        Raises:
            InputError: the turn cannot be said, see `lay_out`; or the pause before the first one leaves it no frame.
        """
        if self.speaking is not None or not self._read_on():
            return False
        asked = self._asked
        piece, self._piece_to_come = self._piece_to_come, None
        assert piece is not None
        pause = max(self.pause, piece.before)
        if not self._has_room_after(pause):
            if not self.sentences:
                raise InputError(
                    f"max_frames {asked.max_frames}: the pause before the first word takes {pause}; ask for at least "
                    f"{pause + 1}"
                )
            self._cut_short()
            return False
        self.pause = pause
        index = len(self.sentences)
        layout = lay_out(
            piece.text,
            asked.speaker,
            tokenizer=self._bundle.tokenizer,
            config=self._bundle.model.config,
            context=self._context,
            turns=self._turns,
            voice=asked.voice,
            max_frames=None if asked.max_frames is None else asked.max_frames - self.made - self.pause,
        )
        sampling = replace(asked.sampling, seed=sentence_seed(asked.sampling.seed, index))
        self._piece, self._said, self._watch = piece, [], Watch(self._bounds)
        self.speaking = SpokenTurn(layout=layout, sampling=sampling)
        if asked.check:
            self.finish(Reason.CUT)
            self._cut_short()
        return True

    def passed(self) -> None:
        """A frame of the pause is over."""
        self.pause -= 1
        self.paused += 1
        self.made += 1

    def see(self, codes: Tensor, audio: Audio) -> Reason | None:
        """Tells of the next frame: its codes `[K]` and sound `[1920]`; returns why the sentence stops with it."""
        assert self.speaking is not None
        self._said.append(codes)
        self.made += 1
        reason = self._watch.see(codes, audio)
        if reason is None and len(self._said) >= self.speaking.layout.limit:
            reason = Reason.CUT
        if reason is not None:
            self.finish(reason)
        return reason

    def finish(self, reason: Reason) -> None:
        """The sentence is over; `ENDED` where the model drew its end."""
        assert self.speaking is not None
        assert self._piece is not None
        asked, frames, piece = self._asked, len(self._said), self._piece
        self.last = self.said
        self.sentences.append(
            SpokenSentence(
                piece=piece,
                begin=self.made - frames,
                frames=frames,
                reason=reason,
                dropped=self.speaking.layout.dropped,
            )
        )
        if reason is Reason.ENDED:
            self._context.append(ContextTurn(speaker=asked.speaker, text=piece.text, codes=self.last))
        self.speaking, self._piece, self._said = None, None, []
        self.paused = 0
        self.pause = 0 if reason is Reason.SILENCE else piece.pause  # there was silence enough
        if (self._more_to_read or self._open) and not self._has_room_after(self.pause):
            self._cut_short()

    def _has_room_after(self, pause: int) -> bool:
        """Whether another frame may follow so many of a pause."""
        return self._asked.max_frames is None or self.made + pause < self._asked.max_frames

    def _cut_short(self) -> None:
        """Nothing follows the last sentence, as there is no room for another word."""
        self._saying = self._piece_to_come = None
        self._written.clear()
        self._open = False
        self.sentences[-1] = replace(self.sentences[-1], reason=Reason.CUT)

    def _cut(self, text: str, *, more: bool) -> list[Piece]:
        """The pieces that are complete with the next part of the text."""
        if self._whole:
            return [Piece(text=text, after=Break.SENTENCE)]
        with reading(text):
            return [*self._splitter.feed(text), *([] if more else self._splitter.finish())]

    def _read_on(self) -> bool:
        """Reads on until there is a piece to say; whether there is one."""
        while self._piece_to_come is None:
            if self._saying is not None:
                with reading(self._saying_text):
                    self._piece_to_come = next(self._saying, None)
                if self._piece_to_come is None:
                    self._saying = None
            elif self._written:
                written = self._written.popleft()
                self._saying, self._saying_text = self._said_of(written), written.text
            else:
                return False
        return True

    def _said_of(self, written: Piece) -> Iterator[Piece]:
        """What is said of a piece: nothing, where all of it is left out."""
        read = self._bundle.tokenizer.read(written.text)
        self.left_out += read.left_out
        last: Piece | None = None
        for passage in read.passages:
            self._asked_pause += passage.pause
            for text, after in self._parts(passage.words):
                if not self._bundle.tokenizer.sounds_in(text):
                    self.left_out += text
                    continue
                if last is not None:
                    yield last
                last = Piece(text=text, after=after, before=self._asked_pause)
                self._asked_pause = 0
            if last is not None and passage is not read.passages[-1]:
                last = replace(last, after=Break.SPACE)  # what comes next is not said at once for another reason
        self._asked_pause += read.pause
        if last is not None:
            yield replace(last, after=written.after)

    def _parts(self, words: str) -> Iterable[tuple[str, Break]]:
        if self._whole:
            return [(words, Break.SENTENCE)]
        return cut_to(words, most=self._most, sounds=self._bundle.tokenizer.sounds_in)


def room_before(asked: Utterance, bundle: Bundle) -> tuple[int, int | None]:
    """The most rows that are left for turns said before, and the most turns that are heard; None: all that fit.

    Of a text that is one turn, to the row. Of one that comes sentence by sentence its first sentence takes some more.

    Raises:
        InputError: a text of one turn that cannot be said.
    """
    config = bundle.model.config
    if not asked.is_whole(bundle.tokenizer):
        voice = 0 if asked.voice is None else asked.voice.codes.shape[1]
        return config.max_rows - voice, asked.hears(bundle)
    layout = lay_out(
        asked.text,
        asked.speaker,
        tokenizer=bundle.tokenizer,
        config=config,
        voice=asked.voice,
        max_frames=asked.max_frames,
    )
    return config.max_rows - len(layout.prompt.rows) - layout.limit, asked.hears(bundle)


def trained_turns(manifest: dict[str, Any]) -> int | None:
    """How many turns before the last one a bundle's model was trained with; None where its recipe has no bound."""
    most = manifest.get("recipe", {}).get("max_turns", 0)
    return most - 1 if most else None


def sentence_seed(seed: int, index: int) -> int:
    """Seed of a sentence: that of the whole for the first one, and one that follows from it for each other."""
    if index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8], "big") >> 1
