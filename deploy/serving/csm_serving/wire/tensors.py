"""The tensors of the wire protocol: names, types, shapes, meaning. `docs/protocol.md` is their page.

Triton's configuration, its check, the client's messages and the page are made from these, or held against them.

Shapes: K codebooks, N context turns, F frames of all context turns together, R resumed frames, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from csm_model.frames import FRAME_SAMPLES

MODEL_NAME: Final = "csm"
MODEL_VERSION: Final = "1"
"""The version that a server starts with; a swap adds one."""

Array = npt.NDArray[Any]
Samples = npt.NDArray[np.float32]
"""24 kHz mono sound `[S]`, -1 to 1."""

_DTYPES: Final[dict[str, type[np.generic]]] = {
    "BYTES": np.object_,
    "BOOL": np.bool_,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}


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

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of the array that holds it; BYTES are objects."""
        return np.dtype(_DTYPES[self.dtype])


def _input(name: str, dtype: str, shape: tuple[int, ...], meaning: str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, meaning=meaning, optional=True)


def _output(name: str, dtype: str, shape: tuple[int, ...], meaning: str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, meaning=meaning)


INPUTS: Final = (
    TensorSpec(name="TEXT", dtype="BYTES", shape=(1,), meaning="What to say, UTF-8."),
    _input("SPEAKER", "INT32", (1,), "Whose voice: a speaker of the served bundle; or VOICE."),
    _input("VOICE", "BYTES", (1,), "Whose voice: its name on the server; or SPEAKER."),
    _input("STREAM_ID", "BYTES", (1,), "Name under which more text may follow."),
    _input("TEXT_MORE", "BOOL", (1,), "More text follows under STREAM_ID."),
    _input("TEXT_LENGTH", "INT32", (1,), "Characters of the text with all its parts, where that is known."),
    _input("SEED", "INT64", (1,), "Seed of the sampling; 0 by default."),
    _input("TEMPERATURE", "FP64", (1,), "Of codebook 0; 0 to 5."),
    _input("DEPTH_TEMPERATURE", "FP64", (1,), "Of the others; 0 to 5."),
    _input("TOP_K", "INT32", (1,), "Likeliest codes; 0 for all."),
    _input("GUIDANCE", "FP64", (1,), "Towards the text; 0 to 10, 1: none."),
    _input("DEPTH_GUIDANCE", "FP64", (1,), "The same of the other codebooks."),
    _input("DEPTH_MEAN", "INT32", (1,), "Other codebooks taken by their mean."),
    _input("MAX_FRAMES", "INT32", (1,), "Frames that cut the turn."),
    _input("CONTEXT_TEXT", "BYTES", (-1,), "Texts of the N turns before, oldest first."),
    _input("CONTEXT_SPEAKER", "INT32", (-1,), "Their N speakers."),
    _input("CONTEXT_VOICE", "BYTES", (-1,), "Their N voices by name; empty: by CONTEXT_SPEAKER."),
    _input("CONTEXT_FRAMES", "INT32", (-1,), "Their N lengths in CONTEXT_CODES; 0: none."),
    _input("CONTEXT_CODES", "INT32", (-1, -1), "Their codes, joined: [K, F]."),
    _input("CONTEXT_SAMPLES", "INT32", (-1,), "Their N lengths in CONTEXT_AUDIO; 0: none."),
    _input("CONTEXT_AUDIO", "FP32", (-1,), "Their sound, 24 kHz, -1 to 1, joined."),
    _input("CONTEXT_TOKEN", "BYTES", (-1,), "The N tokens of their last chunks; empty: none."),
    _input("RESUME_CODES", "INT32", (-1, -1), "Frames of this request heard before: [K, R]."),
    _input("RESUME_SENTENCES", "INT32", (-1,), "The SENTENCE of each of them: [R]."),
    _input("RESUME_TOKEN", "BYTES", (1,), "The token of the last of them."),
    _input("DEADLINE_MS", "INT32", (1,), "Milliseconds in which the whole stream must be over."),
    _input("MAX_WAIT_MS", "INT32", (1,), "Milliseconds it may wait for a slot; 0 by default."),
    _input("PRIORITY", "INT32", (1,), "0 by default, to 9; higher goes first in the queue."),
    _input("ENCODING", "BYTES", (1,), "float32 by default, int16 or opus."),
    _input("CHECK", "BOOL", (1,), "Whether it could be spoken is all that is asked; no frame is made."),
)

OUTPUTS: Final = (
    _output("AUDIO", "FP32", (FRAME_SAMPLES,), "float32: 80 ms of 24 kHz mono sound, -1 to 1."),
    _output("AUDIO_INT16", "INT16", (FRAME_SAMPLES,), "int16: the same, times 32,767."),
    _output("AUDIO_OPUS", "BYTES", (1,), "opus: the next bytes of one Ogg Opus stream."),
    _output("FRAME_INDEX", "INT32", (1,), "0 for the first chunk, R where R frames were resumed; then one more each."),
    _output("SENTENCE", "INT32", (1,), "Number of the sentence that the chunk belongs to; -1 for silence between two."),
    _output("SECONDS", "FP64", (1,), "When the chunk begins in the stream's sound."),
    _output("CODES", "INT32", (-1,), "The frame's K codes."),
    _output("TOKEN", "BYTES", (1,), "Says that the frames up to here were spoken by this service."),
    _output("ENDED", "BOOL", (1,), "In the last response only: whether the speaker finished."),
    _output("REASON", "BYTES", (1,), "In the last response only: ended, cut, silence or repeat."),
    _output("DROPPED", "INT32", (1,), "In the last response only: context turns left out: too old, or without words."),
    _output("LEFT_OUT", "INT32", (1,), "In the last response only: characters of the text that could not be said."),
    _output("LEFT_OUT_TEXT", "BYTES", (1,), "In the last response only: the first of them."),
)
