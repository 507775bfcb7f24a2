"""The wire protocol: what client and Triton model say to each other. `docs/protocol.md` is its page.

One request opens one stream. The answer is a chunk for every frame, then one last response that says how the stream
ended; an error takes the place of the rest. Here is what is said; `csm_serving.wire.tensors` lists the tensors that
carry it and `csm_serving.wire.messages` writes and reads them. All three are shared by both ends and need neither torch
nor Triton.

Shapes: K codebooks, T frames of a turn, R resumed frames, S samples.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES, frames_of, seconds_of
from csm_serving.wire.tensors import Array

MAX_TEXT_CHARACTERS: Final = 1_000
"""Of one request; a stream's text may be longer, in parts."""
MAX_STREAM_CHARACTERS: Final = 10_000
"""Of a stream's text, all its parts together, unless a server is told otherwise."""
MAX_LEFT_OUT_TEXT: Final = 80
"""Characters that are told of those that were left out."""
MAX_CONTEXT_TURNS: Final = 64
MAX_CONTEXT_FRAMES: Final = 4_096
"""Of codes and sound together."""
MAX_RESUME_FRAMES: Final = 16_384
MAX_CODEBOOKS: Final = 64
MAX_VOICE_CHARACTERS: Final = 100
MAX_TOKEN_BYTES: Final = 256
MAX_SEED: Final = 2**63 - 1
MAX_INT32: Final = 2**31 - 1
MAX_TEMPERATURE: Final = 5.0
MAX_GUIDANCE: Final = 10.0
MAX_PRIORITY: Final = 9
MAX_SECONDS: Final = MAX_INT32 / 1_000
AUTHORIZATION: Final = "authorization"
"""The metadata of a call in which a client says who it is: `Bearer <token>`."""

Encoding = Literal["float32", "int16", "opus"]
"""How sound travels."""
Reason = Literal["ended", "cut", "silence", "repeat"]
"""How a stream ended: the speaker finished, it reached its most frames, or it was speech no more in one of two ways."""
ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

_STREAM_ID: Final = re.compile(r"[0-9A-Za-z_-]{8,64}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """A turn of the conversation before this one; codes or audio, where it is known how it sounded."""

    text: str
    speaker: int = 0
    """Who spoke it, by number."""
    voice: str | None = None
    """Who spoke it, by name as in a request; the server then knows the number."""
    codes: Array | None = None
    """`[K, T]` of how it was spoken."""
    audio: npt.NDArray[np.float32] | None = None
    """`[S]` of how it was spoken: 24 kHz mono, -1 to 1."""
    token: bytes = b""
    """Of the last chunk of `codes`, where this service spoke them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Resume:
    """The frames of this very request that were heard before its connection broke; the stream goes on after them."""

    codes: Array
    """`[K, R]`."""
    sentences: Array
    """`[R]`: the sentence of each, -1 for silence between two."""
    token: bytes
    """Of the last of them."""

    def __post_init__(self) -> None:
        _check_codes(self.codes, "resume")
        if not 1 <= self.codes.shape[1] <= MAX_RESUME_FRAMES:
            raise InputError(
                f"resume has {self.codes.shape[1]} frames: must be 1 to {MAX_RESUME_FRAMES}; with none, ask anew"
            )
        sentences = self.sentences
        if sentences.shape != self.codes.shape[1:] or not np.issubdtype(sentences.dtype, np.integer):
            raise InputError(
                f"resume has {self.codes.shape[1]} frames and sentences {sentences.dtype}{list(sentences.shape)}: give "
                "an integer for each"
            )
        if not self.token:
            raise InputError("resume has no token: give that of the last chunk heard, or ask anew")
        _check_token(self.token, "resume")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How codes are drawn; `None` leaves a value to what the served bundle recommends."""

    temperature: float | None = None
    """Of codebook 0; 0 takes the likeliest code."""
    depth_temperature: float | None = None
    """Of the other codebooks."""
    top_k: int | None = None
    """Only so many of the likeliest codes are drawn from; 0 for all."""
    guidance: float | None = None
    """Towards the text; 1 is none."""
    depth_guidance: float | None = None
    """The same of the other codebooks, where codebook 0 is guided."""
    depth_mean: int | None = None
    """So many of the other codebooks are not drawn: the code nearest to the mean of all by their odds is taken."""

    def __post_init__(self) -> None:
        _check_float(self.temperature, "temperature", MAX_TEMPERATURE)
        _check_float(self.depth_temperature, "depth_temperature", MAX_TEMPERATURE)
        _check_float(self.guidance, "guidance", MAX_GUIDANCE)
        _check_float(self.depth_guidance, "depth_guidance", MAX_GUIDANCE)
        if self.depth_mean is not None:
            _check_int(self.depth_mean, "depth_mean", 0, MAX_CODEBOOKS)
        if self.top_k is not None:
            _check_int(self.top_k, "top_k", 0, MAX_INT32)


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechRequest:
    """A sound request: what cannot be said is refused when it is built."""

    text: str
    """What to say; its first part where `text_more`."""
    speaker: int | None = None
    """A speaker of the bundle; None where a voice is named. 0 where neither is given."""
    voice: str | None = None
    """A voice of the server's registry, or a speaker of the bundle by name."""
    context: tuple[Turn, ...] = ()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    seed: int = 0
    max_frames: int | None = None
    stream_id: str | None = None
    """8 to 64 of `[0-9A-Za-z_-]`, chosen by the client: the name under which more text may follow."""
    text_more: bool = False
    """More text follows, as `TextPart`s of `stream_id`."""
    text_length: int | None = None
    """Characters of the text with all that follows, where it is known: too many are refused before the first sound."""
    resume: Resume | None = None
    deadline_s: float | None = None
    """Seconds after its arrival in which the whole stream must be over."""
    max_wait_s: float = 0.0
    """Seconds that it may wait for a slot; 0: refused at once where none is free."""
    priority: int = 0
    """0 to 9; higher goes first in the queue."""
    encoding: Encoding = "float32"
    check: bool = False
    """Whether it could be spoken is all that is asked: refused as it would be, else answered by an end alone."""

    def __post_init__(self) -> None:
        _check_text(self.text, "text")
        _check_who(self.speaker, self.voice)
        if self.speaker is None and self.voice is None:
            object.__setattr__(self, "speaker", 0)
        _check_int(self.seed, "seed", 0, MAX_SEED)
        if self.text_length is not None:
            _check_int(self.text_length, "text_length", len(self.text), MAX_INT32)
        if self.max_frames is not None:
            _check_int(self.max_frames, "max_frames", 1, MAX_INT32)
        if self.stream_id is not None:
            _check_stream_id(self.stream_id)
        elif self.text_more:
            raise InputError("text_more without stream_id: more text needs a name to come under; give a uuid4")
        if self.deadline_s is not None and not 0.001 <= self.deadline_s <= MAX_SECONDS:
            raise InputError(f"deadline_s {self.deadline_s}: must be 0.001 to {MAX_SECONDS:g}")
        _check_float(self.max_wait_s, "max_wait_s", MAX_SECONDS)
        _check_int(self.priority, "priority", 0, MAX_PRIORITY)
        if self.encoding not in ENCODINGS:
            raise InputError(f"encoding {self.encoding[:40]!r}: must be one of {', '.join(ENCODINGS)}")
        if self.check and (self.text_more or self.resume is not None):
            raise InputError("check with text_more or resume: only a whole text that nobody has heard can be checked")
        _check_context(self.context)


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """More text of a stream that is live or waits; its audio comes in the first request's responses."""

    stream_id: str
    text: str
    """May be empty."""
    more: bool
    """Whether still more text follows."""

    def __post_init__(self) -> None:
        _check_stream_id(self.stream_id)
        _check_length(self.text, "text")


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """One frame of the answer."""

    audio: npt.NDArray[np.float32]
    """`[1920]`, -1 to 1. From an Opus stream: what could be decoded so far, 6.5 ms less in the first chunk."""
    frame_index: int
    codes: npt.NDArray[np.int32]
    """`[K]`."""
    token: bytes = b""
    """Says that the frames up to here were spoken by this service."""
    sentence: int = 0
    """Number of the sentence that it belongs to; -1 for silence between two."""
    encoded: bytes = b""
    """At the client of an Opus stream: the bytes as they came. Joined, with those of the end, they are a file."""

    @property
    def seconds(self) -> float:
        """When the chunk begins in the stream's sound."""
        return seconds_of(self.frame_index)


@dataclass(frozen=True, kw_only=True)
class End:
    """The last response of a stream."""

    ended: bool
    """True when the speaker finished, False when the turn was cut: at its most frames, or as no speech any more."""
    reason: Reason = "ended"
    """Left out: `ended`, or `cut` where it did not end."""
    dropped: int = 0
    """Context turns that were left out: the oldest, for want of room or as the model was trained with fewer, and those
    without a word that can be said."""
    left_out: int = 0
    """Characters of the text that could not be said: of another script, emoji, signs without a name."""
    left_out_text: str = ""
    """The first of them."""
    audio: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32), compare=False, repr=False)
    """`[S]`, at the client of an Opus stream: what the codec still held; empty otherwise."""
    encoded: bytes = field(default=b"", compare=False, repr=False)
    """At the client of an Opus stream: its last bytes."""

    def __post_init__(self) -> None:
        if not self.ended and self.reason == "ended":
            object.__setattr__(self, "reason", "cut")


def _check_length(text: str, name: str) -> None:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InputError(
            f"{name} of {len(text)} characters: at most {MAX_TEXT_CHARACTERS} go into one request; "
            "split it into sentences, or send it in parts"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} has a character that UTF-8 does not hold, at position {error.start}") from None


def may_be_said(text: str) -> bool:
    """Whether there is anything in a text but punctuation; whether that can be said, the server knows."""
    return any(
        character.isalnum() or character in "%&@#" or unicodedata.category(character)[0] == "S" for character in text
    )


def _check_text(text: str, name: str) -> None:
    _check_length(text, name)
    if not may_be_said(text):
        raise InputError(f"{name} {text[:40]!r}: nothing to say; give at least one word")


def _check_stream_id(name: str) -> None:
    if not _STREAM_ID.fullmatch(name):
        raise InputError(f"stream_id {name[:70]!a}: must be 8 to 64 of 0-9 A-Z a-z _ and -; give a uuid4")


def _check_who(speaker: int | None, voice: str | None) -> None:
    if speaker is not None:
        _check_int(speaker, "speaker", 0, MAX_INT32)
    if voice is None:
        return
    if speaker is not None:
        raise InputError(f"speaker {speaker} and voice {voice[:40]!a}: give one of them")
    _check_voice(voice, "voice")


def _check_voice(voice: str, name: str) -> None:
    if not 1 <= len(voice) <= MAX_VOICE_CHARACTERS or not voice.isprintable():
        raise InputError(f"{name} {voice[:40]!a}: must be 1 to {MAX_VOICE_CHARACTERS} characters that can be printed")


def _check_int(value: int, name: str, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} {value}: must be {low} to {high}")


def _check_float(value: float | None, name: str, high: float) -> None:
    if value is not None and not 0 <= value <= high:  # also refuses NaN
        raise InputError(f"{name} {value}: must be 0 to {high:g}")


def _check_codes(codes: Array, name: str) -> None:
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise InputError(f"{name}: codes are {codes.dtype}{list(codes.shape)}, not integers [K, T]")
    if not 1 <= codes.shape[0] <= MAX_CODEBOOKS:
        raise InputError(f"{name}: codes have {codes.shape[0]} codebooks; must be 1 to {MAX_CODEBOOKS}")
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) <= MAX_INT32:
        worst = int(codes.min()) if codes.min() < 0 else int(codes.max())
        raise InputError(f"{name}: code {worst} is not a row of a codebook")


def _check_audio(audio: Array, name: str) -> None:
    if audio.ndim != 1 or audio.dtype != np.float32:
        raise InputError(f"{name}: audio is {audio.dtype}{list(audio.shape)}, not float32 [S]")
    if frames_of(audio.size) > MAX_CONTEXT_FRAMES:
        raise InputError(
            f"{name}: audio of {audio.size} samples; at most {MAX_CONTEXT_FRAMES * FRAME_SAMPLES} fit a context"
        )
    peak = float(np.abs(audio).max(initial=0.0))
    if not math.isfinite(peak):
        raise InputError(f"{name}: audio has samples that are no finite numbers")
    if peak > 1.0:
        raise InputError(f"{name}: audio reaches {peak:.6g}; must be -1 to 1, scale it down")


def _check_token(token: bytes, name: str) -> None:
    if len(token) > MAX_TOKEN_BYTES:
        raise InputError(f"{name}: token of {len(token)} bytes; this service's have at most {MAX_TOKEN_BYTES}")


def _check_context(context: tuple[Turn, ...]) -> None:
    if len(context) > MAX_CONTEXT_TURNS:
        raise InputError(f"context of {len(context)} turns: at most {MAX_CONTEXT_TURNS}; leave out the oldest")
    codebooks, frames = set[int](), 0
    for number, turn in enumerate(context):
        name = f"context turn {number}"
        _check_length(turn.text, f"{name}: text")
        _check_int(turn.speaker, f"{name}: speaker", 0, MAX_INT32)
        if turn.voice is not None:
            _check_voice(turn.voice, f"{name}: voice")
        _check_token(turn.token, name)
        if turn.token and turn.codes is None:
            raise InputError(f"{name}: a token without codes; it vouches for codes, send them with it")
        if turn.codes is not None and turn.audio is not None:
            raise InputError(f"{name}: both codes and audio; give one of them")
        if turn.codes is not None:
            _check_codes(turn.codes, name)
            codebooks.add(turn.codes.shape[0])
            frames += turn.codes.shape[1]
        if turn.audio is not None:
            _check_audio(turn.audio, name)
            frames += frames_of(turn.audio.size)
    if len(codebooks) > 1:
        raise InputError(f"context turns have {sorted(codebooks)} codebooks; all must have the served codec's number")
    if frames > MAX_CONTEXT_FRAMES:
        raise InputError(f"context of {frames} frames: at most {MAX_CONTEXT_FRAMES}; leave out the oldest turns")
