"""How sound travels: 32-bit floats, 16-bit integers, or one Ogg Opus stream that grows with every chunk.

An encoder takes a stream's chunks `[1920]` one after another and gives the tensors that carry them; called with None
it gives what it still held. A decoder takes the bytes of those that are no plain numbers. Both live as long as their
stream.

Shapes: S samples of 24 kHz mono sound, -1 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from csm_serving.wire.opus import OpusDecoder, OpusEncoder
from csm_serving.wire.protocol import Encoding
from csm_serving.wire.tensors import Array, Samples

SoundEncoder = Callable[[Samples | None], dict[str, Array]]
SoundDecoder = Callable[[bytes], Samples]

INT16_SCALE: Final = float(np.iinfo(np.int16).max)


def encode_float32(audio: Samples | None) -> dict[str, Array]:
    """`AUDIO`: the samples as they are."""
    return {} if audio is None else {"AUDIO": audio.astype(np.float32, copy=False)}


def encode_int16(audio: Samples | None) -> dict[str, Array]:
    """`AUDIO_INT16`: times 32,767, clipped and rounded to the nearest, without dither."""
    if audio is None:
        return {}
    return {"AUDIO_INT16": np.rint(audio.clip(-1.0, 1.0) * INT16_SCALE).astype(np.int16)}


def encoder_of(encoding: Encoding, *, bitrate: int = 32_000) -> SoundEncoder:
    """The encoder of one stream; raises `MissingDependencyError` where opus has no codec."""
    if encoding == "opus":
        return OpusEncoder(bitrate=bitrate)
    return encode_int16 if encoding == "int16" else encode_float32


def decoder_of(encoding: Encoding) -> SoundDecoder | None:
    """What turns a stream's encoded bytes into samples; None where they are plain numbers.

    Raises `MissingDependencyError` where opus has no codec.
    """
    if encoding == "opus":
        return OpusDecoder()
    return None
