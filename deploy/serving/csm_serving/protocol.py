"""The wire protocol: what client and Triton model say to each other. `docs/protocol.md` is its page.

One request opens one stream. The answer is a chunk for every frame, then one last response that says how the stream
ended; an error takes the place of the rest. This module is shared by both ends and needs neither torch nor Triton.

Shapes: K codebooks, N context turns, F frames of all context turns together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from csm_model import errors
from csm_model.errors import CsmError, InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving.errors import BusyError, ServingError, UnavailableError

MODEL_NAME: Final = "csm"
MODEL_VERSION: Final = "1"

MAX_TEXT_CHARACTERS: Final = 1_000
MAX_CONTEXT_TURNS: Final = 64
MAX_CONTEXT_FRAMES: Final = 4_096
MAX_SEED: Final = 2**63 - 1
MAX_INT32: Final = 2**31 - 1
MAX_TEMPERATURE: Final = 5.0
MAX_GUIDANCE: Final = 10.0

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor of the protocol."""

    name: str
    dtype: str
    """Triton's name of the type, as clients use it: BYTES, INT32, ..."""
    shape: tuple[int, ...]
    """-1 stands for a length that the sender chooses."""
    meaning: str
    optional: bool = False

    @property
    def config_dtype(self) -> str:
        """Triton's name of the type in a model's configuration."""
        return "TYPE_STRING" if self.dtype == "BYTES" else f"TYPE_{self.dtype}"


INPUTS: Final = (
    TensorSpec(name="TEXT", dtype="BYTES", shape=(1,), meaning="What to say, UTF-8."),
    TensorSpec(name="SPEAKER", dtype="INT32", shape=(1,), meaning="Whose voice: a speaker of the served bundle."),
    TensorSpec(name="SEED", dtype="INT64", shape=(1,), optional=True, meaning="Seed of the sampling; 0 by default."),
    TensorSpec(name="TEMPERATURE", dtype="FP64", shape=(1,), optional=True, meaning="Of codebook 0; 0 to 5."),
    TensorSpec(name="DEPTH_TEMPERATURE", dtype="FP64", shape=(1,), optional=True, meaning="Of the others; 0 to 5."),
    TensorSpec(name="TOP_K", dtype="INT32", shape=(1,), optional=True, meaning="Likeliest codes; 0 for all."),
    TensorSpec(name="GUIDANCE", dtype="FP64", shape=(1,), optional=True, meaning="Towards the text; 0 to 10, 1: none."),
    TensorSpec(name="MAX_FRAMES", dtype="INT32", shape=(1,), optional=True, meaning="Frames that cut the turn."),
    TensorSpec(
        name="CONTEXT_TEXT",
        dtype="BYTES",
        shape=(-1,),
        optional=True,
        meaning="Texts of the N turns before, oldest first.",
    ),
    TensorSpec(name="CONTEXT_SPEAKER", dtype="INT32", shape=(-1,), optional=True, meaning="Their N speakers."),
    TensorSpec(
        name="CONTEXT_FRAMES", dtype="INT32", shape=(-1,), optional=True, meaning="Their N lengths; 0: text only."
    ),
    TensorSpec(
        name="CONTEXT_CODES", dtype="INT32", shape=(-1, -1), optional=True, meaning="Their codes, joined: [K, F]."
    ),
)

OUTPUTS: Final = (
    TensorSpec(name="AUDIO", dtype="FP32", shape=(FRAME_SAMPLES,), meaning="80 ms of 24 kHz mono sound, -1 to 1."),
    TensorSpec(name="FRAME_INDEX", dtype="INT32", shape=(1,), meaning="0 for the first chunk, then one more each."),
    TensorSpec(name="CODES", dtype="INT32", shape=(-1,), meaning="The frame's K codes."),
    TensorSpec(
        name="ENDED", dtype="BOOL", shape=(1,), meaning="In the last response only: true when the speaker finished, "
        "false when the turn was cut: at its most frames, or as no speech any more."
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """A turn of the conversation before this one."""

    speaker: int
    text: str
    codes: Array | None = None
    """`[K, T]` of how it was spoken; None where only the text is known."""


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

    def __post_init__(self) -> None:
        _check_float(self.temperature, "temperature", MAX_TEMPERATURE)
        _check_float(self.depth_temperature, "depth_temperature", MAX_TEMPERATURE)
        _check_float(self.guidance, "guidance", MAX_GUIDANCE)
        if self.top_k is not None:
            _check_int(self.top_k, "top_k", 0, MAX_INT32)


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechRequest:
    """A sound request: what cannot be said is refused when it is built."""

    text: str
    speaker: int = 0
    context: tuple[Turn, ...] = ()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    seed: int = 0
    max_frames: int | None = None

    def __post_init__(self) -> None:
        _check_text(self.text, "text")
        _check_int(self.speaker, "speaker", 0, MAX_INT32)
        _check_int(self.seed, "seed", 0, MAX_SEED)
        if self.max_frames is not None:
            _check_int(self.max_frames, "max_frames", 1, MAX_INT32)
        _check_context(self.context)


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """One frame of the answer."""

    audio: npt.NDArray[np.float32]
    """`[1920]`, -1 to 1."""
    frame_index: int
    codes: npt.NDArray[np.int32]
    """`[K]`."""


@dataclass(frozen=True, kw_only=True)
class End:
    """The last response of a stream."""

    ended: bool
    """True when the speaker finished, False when the turn was cut: at its most frames, or as no speech any more."""


def _check_text(text: str, name: str) -> None:
    if not any(character.isalnum() for character in text):
        raise InputError(f"{name} {text[:40]!r}: nothing to say; give at least one word")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InputError(
            f"{name} of {len(text)} characters: at most {MAX_TEXT_CHARACTERS} go into one turn; split it into sentences"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} has a character that UTF-8 does not hold, at position {error.start}") from None


def _check_int(value: int, name: str, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} {value}: must be {low} to {high}")


def _check_float(value: float | None, name: str, high: float) -> None:
    if value is not None and not 0 <= value <= high:  # also refuses NaN
        raise InputError(f"{name} {value}: must be 0 to {high:g}")


def _check_context(context: tuple[Turn, ...]) -> None:
    if len(context) > MAX_CONTEXT_TURNS:
        raise InputError(f"context of {len(context)} turns: at most {MAX_CONTEXT_TURNS}; leave out the oldest")
    codebooks, frames = set[int](), 0
    for number, turn in enumerate(context):
        _check_text(turn.text, f"context turn {number}: text")
        _check_int(turn.speaker, f"context turn {number}: speaker", 0, MAX_INT32)
        if turn.codes is None:
            continue
        codes = turn.codes
        if codes.ndim != 2 or codes.shape[0] == 0 or not np.issubdtype(codes.dtype, np.integer):
            raise InputError(f"context turn {number}: codes are {codes.dtype}{list(codes.shape)}, not integers [K, T]")
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) <= MAX_INT32:
            raise InputError(f"context turn {number}: code {int(codes.min())} is not a row of a codebook")
        codebooks.add(codes.shape[0])
        frames += codes.shape[1]
    if len(codebooks) > 1:
        raise InputError(f"context turns have {sorted(codebooks)} codebooks; all must have the served codec's number")
    if frames > MAX_CONTEXT_FRAMES:
        raise InputError(f"context of {frames} frames: at most {MAX_CONTEXT_FRAMES}; leave out the oldest turns")


def encode_request(request: SpeechRequest) -> dict[str, Array]:
    """The request's tensors by name; what is left to the served model is left out."""
    tensors: dict[str, Array] = {
        "TEXT": np.array([request.text.encode()], dtype=np.object_),
        "SPEAKER": np.array([request.speaker], np.int32),
        "SEED": np.array([request.seed], np.int64),
    }
    sampling = request.sampling
    optional = {
        "TEMPERATURE": (sampling.temperature, np.float64),
        "DEPTH_TEMPERATURE": (sampling.depth_temperature, np.float64),
        "TOP_K": (sampling.top_k, np.int32),
        "GUIDANCE": (sampling.guidance, np.float64),
        "MAX_FRAMES": (request.max_frames, np.int32),
    }
    tensors |= {name: np.array([value], kind) for name, (value, kind) in optional.items() if value is not None}
    if request.context:
        codes = [turn.codes for turn in request.context if turn.codes is not None and turn.codes.shape[1]]
        tensors["CONTEXT_TEXT"] = np.array([turn.text.encode() for turn in request.context], dtype=np.object_)
        tensors["CONTEXT_SPEAKER"] = np.array([turn.speaker for turn in request.context], np.int32)
        if codes:
            lengths = [0 if turn.codes is None else turn.codes.shape[1] for turn in request.context]
            tensors["CONTEXT_FRAMES"] = np.array(lengths, np.int32)
            tensors["CONTEXT_CODES"] = np.concatenate(codes, axis=1).astype(np.int32)
    return tensors


def decode_request(tensors: Mapping[str, Array]) -> SpeechRequest:
    """The request that `tensors` hold; raises `InputError` where they break the protocol."""
    for spec in INPUTS:
        if not spec.optional and spec.name not in tensors:
            raise InputError(f"input {spec.name} is missing; every request has {_required()}")
    speaker, seed, top_k, max_frames = (
        None if (value := _scalar(tensors, name)) is None else int(value)
        for name in ("SPEAKER", "SEED", "TOP_K", "MAX_FRAMES")
    )
    return SpeechRequest(
        text=_texts(tensors["TEXT"], "TEXT", 1)[0],
        speaker=speaker or 0,
        context=_context(tensors),
        sampling=SamplingOptions(
            temperature=_scalar(tensors, "TEMPERATURE"),
            depth_temperature=_scalar(tensors, "DEPTH_TEMPERATURE"),
            top_k=top_k,
            guidance=_scalar(tensors, "GUIDANCE"),
        ),
        seed=seed or 0,
        max_frames=max_frames,
    )


def _required() -> str:
    return " and ".join(spec.name for spec in INPUTS if not spec.optional)


def _scalar(tensors: Mapping[str, Array], name: str) -> float | int | None:
    if name not in tensors:
        return None
    if tensors[name].shape != (1,):
        raise InputError(f"input {name} has the shape {list(tensors[name].shape)}; it must be [1]")
    value: float | int = tensors[name][0].item()
    return value


def _texts(tensor: Array, name: str, length: int) -> list[str]:
    if tensor.shape != (length,):
        raise InputError(f"input {name} has the shape {list(tensor.shape)}; it must be [{length}]")
    try:
        return [value if isinstance(value, str) else bytes(value).decode() for value in tensor.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"input {name} is not UTF-8 (byte {error.start}); encode the text as UTF-8") from None


def _context(tensors: Mapping[str, Array]) -> tuple[Turn, ...]:
    given = sorted(name for name in tensors if name.startswith("CONTEXT_"))
    if not given:
        return ()
    if "CONTEXT_TEXT" not in tensors or "CONTEXT_SPEAKER" not in tensors:
        raise InputError(f"{', '.join(given)} given; a context has at least CONTEXT_TEXT and CONTEXT_SPEAKER")
    turns = tensors["CONTEXT_TEXT"].size
    if turns > MAX_CONTEXT_TURNS:
        raise InputError(f"context of {turns} turns: at most {MAX_CONTEXT_TURNS}; leave out the oldest")
    texts = _texts(tensors["CONTEXT_TEXT"], "CONTEXT_TEXT", turns)
    speakers = tensors["CONTEXT_SPEAKER"]
    frames = tensors.get("CONTEXT_FRAMES", np.zeros(turns, np.int32))
    codes = tensors.get("CONTEXT_CODES", np.zeros((1, 0), np.int32))
    if speakers.shape != (turns,) or frames.shape != (turns,):
        raise InputError(
            f"CONTEXT_TEXT has {turns} turns, CONTEXT_SPEAKER {speakers.size} and CONTEXT_FRAMES {frames.size}; "
            "they must agree"
        )
    if codes.ndim != 2 or (frames < 0).any() or int(frames.sum()) != codes.shape[1]:
        raise InputError(f"CONTEXT_CODES is {list(codes.shape)}; it must be [K, {int(frames.sum())}] by CONTEXT_FRAMES")
    stops = np.cumsum(frames)
    return tuple(
        Turn(
            speaker=int(speakers[n]), text=text, codes=codes[:, stops[n] - frames[n] : stops[n]] if frames[n] else None
        )
        for n, text in enumerate(texts)
    )


def encode_chunk(chunk: Chunk) -> dict[str, Array]:
    """The tensors of a frame's response."""
    return {
        "AUDIO": chunk.audio.astype(np.float32, copy=False),
        "FRAME_INDEX": np.array([chunk.frame_index], np.int32),
        "CODES": chunk.codes.astype(np.int32, copy=False),
    }


def encode_end(end: End) -> dict[str, Array]:
    """The tensor of the last response."""
    return {"ENDED": np.array([end.ended], np.bool_)}


def decode_response(tensors: Mapping[str, Array]) -> Chunk | End:
    """What a response holds; raises `ServingError` where it breaks the protocol."""
    if "ENDED" in tensors:
        return End(ended=bool(tensors["ENDED"][0]))
    missing = {"AUDIO", "FRAME_INDEX", "CODES"} - set(tensors)
    if missing or tensors["AUDIO"].shape != (FRAME_SAMPLES,):
        raise ServingError(f"a response with {sorted(tensors)} is no frame of this protocol; is the server another's?")
    return Chunk(audio=tensors["AUDIO"], frame_index=int(tensors["FRAME_INDEX"][0]), codes=tensors["CODES"])


ERROR_CODES: Final[dict[str, type[CsmError]]] = {
    "invalid_input": InputError,
    "artifact": errors.ArtifactError,
    "digest": errors.DigestError,
    "missing_dependency": errors.MissingDependencyError,
    "busy": BusyError,
    "unavailable": UnavailableError,
    "internal": ServingError,
}
"""Code on the wire to the exception it becomes at the client."""


def encode_error(error: Exception) -> str:
    """An error as it travels: `[csm:<code>] <one line>`. What is not a `CsmError` travels as `internal`."""
    for kind in type(error).__mro__:
        for code, known in ERROR_CODES.items():
            if kind is known:
                return f"[csm:{code}] {' '.join(str(error).split())}"
    return f"[csm:internal] {type(error).__name__}: {' '.join(str(error).split())}"


def find_error(message: str) -> CsmError | None:
    """The first error of this protocol in `message` (a response's error, a line of a log), or None."""
    _, found, rest = message.partition("[csm:")
    code, closed, text = rest.partition("] ")
    if not found or not closed or code not in ERROR_CODES or not text:
        return None
    line = text.splitlines()[0].partition("\\n")[0]  # a log writes the end of a line as two characters
    return ERROR_CODES[code](line.strip() or code)
