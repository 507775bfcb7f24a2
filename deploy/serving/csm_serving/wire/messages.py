"""Requests, responses and errors as they travel: written and read, with every bound checked.

What comes in is hostile until it is a `SpeechRequest`: `decode_request` raises nothing but `CsmError`, whatever it is
given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np

from csm_model import errors
from csm_model.errors import CsmError, InputError, words_of
from csm_model.frames import FRAME_SAMPLES
from csm_serving.wire.encodings import INT16_SCALE, SoundDecoder, SoundEncoder, encode_float32
from csm_serving.wire.errors import (
    AccessError,
    BusyError,
    DeadlineError,
    QuotaError,
    ServingError,
    UnavailableError,
)
from csm_serving.wire.protocol import (
    ENCODINGS,
    MAX_CODEBOOKS,
    MAX_CONTEXT_FRAMES,
    MAX_CONTEXT_TURNS,
    MAX_LEFT_OUT_TEXT,
    MAX_RESUME_FRAMES,
    MAX_TEXT_CHARACTERS,
    MAX_TOKEN_BYTES,
    MAX_VOICE_CHARACTERS,
    REASONS,
    Chunk,
    End,
    Resume,
    SamplingOptions,
    SpeechRequest,
    TextPart,
    Turn,
)
from csm_serving.wire.tensors import INPUTS, Array

_INPUTS: Final = {spec.name: spec for spec in INPUTS}
_OF_A_PART: Final = frozenset(("TEXT", "STREAM_ID", "TEXT_MORE"))
_MAX_UTF8: Final = 4
"""Bytes of a character."""
_Known = TypeVar("_Known", bound=str)


def encode_request(request: SpeechRequest | TextPart) -> dict[str, Array]:
    """The request's tensors by name; what is left to the served model is left out."""
    if isinstance(request, TextPart):
        return {
            "TEXT": _bytes(request.text.encode()),
            "STREAM_ID": _bytes(request.stream_id.encode()),
            "TEXT_MORE": np.array([request.more], np.bool_),
        }
    tensors: dict[str, Array] = {"TEXT": _bytes(request.text.encode()), "SEED": np.array([request.seed], np.int64)}
    sampling, resume = request.sampling, request.resume
    numbers = {
        "SPEAKER": request.speaker,
        "TEXT_MORE": request.text_more or None,
        "TEXT_LENGTH": request.text_length,
        "TEMPERATURE": sampling.temperature,
        "DEPTH_TEMPERATURE": sampling.depth_temperature,
        "TOP_K": sampling.top_k,
        "GUIDANCE": sampling.guidance,
        "DEPTH_GUIDANCE": sampling.depth_guidance,
        "DEPTH_MEAN": sampling.depth_mean,
        "MAX_FRAMES": request.max_frames,
        "DEADLINE_MS": None if request.deadline_s is None else math.ceil(request.deadline_s * 1_000),
        "MAX_WAIT_MS": math.ceil(request.max_wait_s * 1_000) or None,
        "PRIORITY": request.priority or None,
        "CHECK": request.check or None,
    }
    texts = {
        "VOICE": request.voice,
        "STREAM_ID": request.stream_id,
        "ENCODING": None if request.encoding == "float32" else request.encoding,
    }
    tensors |= {
        name: np.array([value], _INPUTS[name].numpy_dtype) for name, value in numbers.items() if value is not None
    }
    tensors |= {name: _bytes(text.encode()) for name, text in texts.items() if text is not None}
    if resume is not None:
        tensors |= {
            "RESUME_CODES": resume.codes.astype(np.int32),
            "RESUME_SENTENCES": resume.sentences.astype(np.int32),
            "RESUME_TOKEN": _bytes(resume.token),
        }
    return tensors | _encode_context(request.context)


def _encode_context(context: tuple[Turn, ...]) -> dict[str, Array]:
    if not context:
        return {}
    tensors: dict[str, Array] = {
        "CONTEXT_TEXT": _bytes(*(turn.text.encode() for turn in context)),
        "CONTEXT_SPEAKER": np.array([turn.speaker for turn in context], np.int32),
    }
    if any(turn.voice is not None for turn in context):  # which servers of before do not know
        tensors["CONTEXT_VOICE"] = _bytes(*((turn.voice or "").encode() for turn in context))
    codes = [turn.codes for turn in context if turn.codes is not None and turn.codes.shape[1]]
    sounds = [turn.audio for turn in context if turn.audio is not None and turn.audio.size]
    if codes:
        lengths = [0 if turn.codes is None else turn.codes.shape[1] for turn in context]
        tensors["CONTEXT_FRAMES"] = np.array(lengths, np.int32)
        tensors["CONTEXT_CODES"] = np.concatenate(codes, axis=1).astype(np.int32)
    if sounds:
        lengths = [0 if turn.audio is None else turn.audio.size for turn in context]
        tensors["CONTEXT_SAMPLES"] = np.array(lengths, np.int32)
        tensors["CONTEXT_AUDIO"] = np.concatenate(sounds).astype(np.float32)
    if any(turn.token for turn in context):
        tensors["CONTEXT_TOKEN"] = _bytes(*(turn.token for turn in context))
    return tensors


def _bytes(*values: bytes) -> Array:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def decode_request(tensors: Mapping[str, Array]) -> SpeechRequest | TextPart:
    """The request, or the later part of one, that `tensors` hold; raises `InputError` where they break the protocol."""
    for name, tensor in tensors.items():
        _check_kind(name, tensor)
    if "TEXT" not in tensors:
        raise InputError("input TEXT is missing; every request has it")
    text = _text(tensors, "TEXT", MAX_TEXT_CHARACTERS) or ""
    stream_id = _text(tensors, "STREAM_ID", 64)
    more = bool(_scalar(tensors, "TEXT_MORE"))
    if stream_id is not None and tensors.keys() <= _OF_A_PART:
        return TextPart(stream_id=stream_id, text=text, more=more)
    speaker, voice = _int(tensors, "SPEAKER"), _text(tensors, "VOICE", MAX_VOICE_CHARACTERS)
    if speaker is None and voice is None:
        raise InputError("inputs SPEAKER and VOICE are missing; a request has one of them")
    deadline_ms = _int(tensors, "DEADLINE_MS")
    return SpeechRequest(
        text=text,
        speaker=speaker,
        voice=voice,
        context=_context(tensors),
        sampling=SamplingOptions(
            temperature=_scalar(tensors, "TEMPERATURE"),
            depth_temperature=_scalar(tensors, "DEPTH_TEMPERATURE"),
            top_k=_int(tensors, "TOP_K"),
            guidance=_scalar(tensors, "GUIDANCE"),
            depth_guidance=_scalar(tensors, "DEPTH_GUIDANCE"),
            depth_mean=_int(tensors, "DEPTH_MEAN"),
        ),
        seed=_int(tensors, "SEED") or 0,
        max_frames=_int(tensors, "MAX_FRAMES"),
        stream_id=stream_id,
        text_more=more,
        text_length=_int(tensors, "TEXT_LENGTH"),
        resume=_resume(tensors),
        deadline_s=None if deadline_ms is None else deadline_ms / 1_000,
        max_wait_s=(_int(tensors, "MAX_WAIT_MS") or 0) / 1_000,
        priority=_int(tensors, "PRIORITY") or 0,
        encoding=_one_of(_text(tensors, "ENCODING", 40) or "float32", ENCODINGS, "ENCODING"),
        check=bool(_scalar(tensors, "CHECK")),
    )


def _check_kind(name: str, tensor: Array) -> None:
    """Type and number of dimensions; sizes come with their meaning."""
    spec = _INPUTS.get(name)
    if spec is None:
        raise InputError(f"input {name[:40]!a} is unknown; docs/protocol.md lists the inputs")
    if not isinstance(tensor, np.ndarray):
        raise InputError(f"input {name} is no array but {type(tensor).__name__}; it must be {spec.dtype}")
    of_text = spec.dtype == "BYTES" and tensor.dtype.kind in "SU"
    if tensor.dtype != spec.numpy_dtype and not of_text:
        raise InputError(f"input {name} is of type {tensor.dtype}; it must be {spec.dtype}")
    fits = (want in (-1, got) for want, got in zip(spec.shape, tensor.shape, strict=False))
    if tensor.ndim != len(spec.shape) or not all(fits):
        raise InputError(f"input {name} has the shape {list(tensor.shape)}; it must be {list(spec.shape)}")


def _scalar(tensors: Mapping[str, Array], name: str) -> float | None:
    return tensors[name][0].item() if name in tensors else None


def _int(tensors: Mapping[str, Array], name: str) -> int | None:
    return int(tensors[name][0]) if name in tensors else None


def _raw(value: Any, name: str, most: int) -> bytes:
    """One value of a BYTES tensor, at most `most` bytes."""
    if isinstance(value, str):
        value = value.encode(errors="surrogatepass")  # which is no UTF-8, and is found out as such
    if not isinstance(value, bytes):
        raise InputError(f"input {name} holds {type(value).__name__}; it must be bytes")
    if len(value) > most:
        raise InputError(f"input {name} has a value of {len(value)} bytes; at most {most} are allowed")
    return value


def _decoded(value: Any, name: str, characters: int) -> str:
    try:
        return _raw(value, name, characters * _MAX_UTF8).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"input {name} is not UTF-8 (byte {error.start}); encode the text as UTF-8") from None


def _text(tensors: Mapping[str, Array], name: str, characters: int) -> str | None:
    return _decoded(tensors[name][0], name, characters) if name in tensors else None


def _one_of(text: str, known: tuple[_Known, ...], name: str) -> _Known:
    for value in known:
        if value == text:
            return value
    raise InputError(f"input {name} is {text!a}; it must be one of {', '.join(known)}")


def _resume(tensors: Mapping[str, Array]) -> Resume | None:
    codes, sentences, token = (tensors.get(f"RESUME_{part}") for part in ("CODES", "SENTENCES", "TOKEN"))
    if codes is None and sentences is None and token is None:
        return None
    if codes is None or sentences is None or token is None:
        raise InputError(
            "only some of RESUME_CODES, RESUME_SENTENCES and RESUME_TOKEN are given; a stream is resumed with all"
        )
    if codes.shape[0] > MAX_CODEBOOKS or codes.shape[1] > MAX_RESUME_FRAMES:
        raise InputError(f"RESUME_CODES is {list(codes.shape)}; at most [{MAX_CODEBOOKS}, {MAX_RESUME_FRAMES}]")
    return Resume(codes=codes, sentences=sentences, token=_raw(token[0], "RESUME_TOKEN", MAX_TOKEN_BYTES))


def _context(tensors: Mapping[str, Array]) -> tuple[Turn, ...]:
    given = sorted(name for name in tensors if name.startswith("CONTEXT_"))
    if not given:
        return ()
    if "CONTEXT_TEXT" not in tensors or "CONTEXT_SPEAKER" not in tensors:
        raise InputError(f"{', '.join(given)} given; a context has at least CONTEXT_TEXT and CONTEXT_SPEAKER")
    turns = tensors["CONTEXT_TEXT"].size
    if turns > MAX_CONTEXT_TURNS:
        raise InputError(f"context of {turns} turns: at most {MAX_CONTEXT_TURNS}; leave out the oldest")
    for name in ("CONTEXT_SPEAKER", "CONTEXT_VOICE", "CONTEXT_FRAMES", "CONTEXT_SAMPLES", "CONTEXT_TOKEN"):
        if name in tensors and tensors[name].size != turns:
            raise InputError(f"CONTEXT_TEXT has {turns} turns and {name} {tensors[name].size}; they must agree")
    codes = _cut(tensors, "CONTEXT_CODES", "CONTEXT_FRAMES", turns, MAX_CONTEXT_FRAMES)
    sounds = _cut(tensors, "CONTEXT_AUDIO", "CONTEXT_SAMPLES", turns, MAX_CONTEXT_FRAMES * FRAME_SAMPLES)
    tokens, voices = (tensors.get(f"CONTEXT_{name}", _bytes(*[b""] * turns)) for name in ("TOKEN", "VOICE"))
    return tuple(
        Turn(
            speaker=int(tensors["CONTEXT_SPEAKER"][n]),
            voice=_decoded(voices[n], "CONTEXT_VOICE", MAX_VOICE_CHARACTERS) or None,
            text=_decoded(tensors["CONTEXT_TEXT"][n], "CONTEXT_TEXT", MAX_TEXT_CHARACTERS),
            codes=codes[n],
            audio=sounds[n],
            token=_raw(tokens[n], "CONTEXT_TOKEN", MAX_TOKEN_BYTES),
        )
        for n in range(turns)
    )


def _cut(tensors: Mapping[str, Array], joined: str, lengths: str, turns: int, most: int) -> list[Array | None]:
    """A joined tensor cut along its last dimension, a piece a turn; None for a length of 0."""
    sizes = tensors.get(lengths, np.zeros(turns, np.int32)).astype(np.int64)
    whole = tensors.get(joined, np.zeros((1, 0)) if joined == "CONTEXT_CODES" else np.zeros(0))
    length = whole.shape[-1]
    if length > most or (whole.ndim == 2 and whole.shape[0] > MAX_CODEBOOKS):
        raise InputError(f"{joined} is {list(whole.shape)}; at most {most} fit a context, leave out the oldest turns")
    if (sizes < 0).any() or int(sizes.sum()) != length:
        raise InputError(f"{joined} is {list(whole.shape)}; {lengths} says {sizes.tolist()}, which must add up to it")
    stops = np.cumsum(sizes)
    return [whole[..., stop - size : stop] if size else None for stop, size in zip(stops, sizes, strict=True)]


def encode_chunk(chunk: Chunk, encode: SoundEncoder = encode_float32) -> dict[str, Array]:
    """The tensors of a frame's response; the sound as `encode` writes it."""
    return encode(chunk.audio) | {
        "FRAME_INDEX": np.array([chunk.frame_index], np.int32),
        "SENTENCE": np.array([chunk.sentence], np.int32),
        "SECONDS": np.array([chunk.seconds], np.float64),
        "CODES": chunk.codes.astype(np.int32, copy=False),
        "TOKEN": _bytes(chunk.token),
    }


def encode_end(end: End, encode: SoundEncoder = encode_float32) -> dict[str, Array]:
    """The tensors of the last response, with what the encoder still held."""
    return encode(None) | {
        "ENDED": np.array([end.ended], np.bool_),
        "REASON": _bytes(end.reason.encode()),
        "DROPPED": np.array([end.dropped], np.int32),
        "LEFT_OUT": np.array([end.left_out], np.int32),
        "LEFT_OUT_TEXT": _bytes(end.left_out_text.encode()),
    }


def decode_response(tensors: Mapping[str, Array], decode: SoundDecoder | None = None) -> Chunk | End:
    """What a response holds; raises `ServingError` where it breaks the protocol.

    Opus needs `decode`, a decoder that lives as long as the stream; without one only the encoded bytes are kept.
    """
    try:
        audio, encoded = _sound(tensors, decode)
        if "ENDED" in tensors:
            return End(
                ended=bool(tensors["ENDED"][0]),
                reason=_one_of(_decoded(tensors["REASON"][0], "REASON", 40), REASONS, "REASON"),
                dropped=int(tensors["DROPPED"][0]),
                left_out=_int(tensors, "LEFT_OUT") or 0,  # a server of before tells of neither
                left_out_text=_text(tensors, "LEFT_OUT_TEXT", MAX_LEFT_OUT_TEXT) or "",
                audio=audio,
                encoded=encoded,
            )
        if audio.ndim != 1 or (not encoded and audio.shape != (FRAME_SAMPLES,)):
            raise InputError(f"sound of shape {list(audio.shape)}")
        return Chunk(
            audio=audio,
            frame_index=int(tensors["FRAME_INDEX"][0]),
            sentence=int(tensors["SENTENCE"][0]),
            codes=tensors["CODES"],
            token=_raw(tensors["TOKEN"][0], "TOKEN", MAX_TOKEN_BYTES),
            encoded=encoded,
        )
    except (InputError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ServingError(
            f"a response with {sorted(tensors)} is no frame of this protocol ({error}); is the server another's?"
        ) from None


def _sound(tensors: Mapping[str, Array], decode: SoundDecoder | None) -> tuple[Array, bytes]:
    """The samples, and the bytes they came in where they were encoded."""
    if "AUDIO" in tensors:
        return tensors["AUDIO"], b""
    if "AUDIO_INT16" in tensors:
        return tensors["AUDIO_INT16"].astype(np.float32) / np.float32(INT16_SCALE), b""
    encoded = bytes(tensors["AUDIO_OPUS"][0]) if "AUDIO_OPUS" in tensors else b""
    if "AUDIO_OPUS" not in tensors or decode is None:
        return np.zeros(0, np.float32), encoded
    return decode(encoded), encoded


ERROR_CODES: Final[dict[str, type[CsmError]]] = {
    "invalid_input": InputError,
    "artifact": errors.ArtifactError,
    "digest": errors.DigestError,
    "missing_dependency": errors.MissingDependencyError,
    "denied": AccessError,
    "busy": BusyError,
    "quota": QuotaError,
    "deadline": DeadlineError,
    "unavailable": UnavailableError,
    "internal": ServingError,
}
"""Code on the wire to the exception it becomes at the client."""

_ERROR: Final = re.compile(r"\[csm:(?P<code>\w+)(?: retry_after=(?P<after>\d{1,9}(?:\.\d{1,9})?))?\] (?P<text>.+)")


def error_code(error: Exception) -> str:
    """The code under which an error travels; `internal` for what is not a `CsmError`."""
    codes = {kind: code for code, kind in ERROR_CODES.items()}
    return next((codes[kind] for kind in type(error).__mro__ if kind in codes), "internal")


def encode_error(error: Exception) -> str:
    """An error as it travels: `[csm:<code>] <one line>`, `[csm:busy retry_after=1.3] <one line>`; `quota` too."""
    line = " ".join(words_of(error).split())
    if not isinstance(error, CsmError):
        line = f"{type(error).__name__}: {line}"
    after = error.retry_after_s if isinstance(error, BusyError) else None
    return f"[csm:{error_code(error)}{'' if after is None else f' retry_after={after:.3f}'}] {line}"


def find_error(message: str) -> CsmError | None:
    """The first error of this protocol in `message` (a response's error, a line of a log), or None."""
    found = _ERROR.search(message)
    if found is None or found["code"] not in ERROR_CODES:
        return None
    line = (
        found["text"].partition("\\n")[0].strip() or found["code"]
    )  # a log writes the end of a line as two characters
    kind = ERROR_CODES[found["code"]]
    if issubclass(kind, BusyError):
        return kind(line, retry_after_s=float(found["after"]) if found["after"] else None)
    return kind(line)
