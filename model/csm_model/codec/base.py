"""What the rest of the program asks of a neural audio codec.

Shapes: B batch, M slots stepped together, K codebooks, T frames, S samples (S = T * 1920).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class SlotDecoder(Protocol):
    """Decodes many streams as their frames come, each in a slot that keeps its state.

    What a slot returns between two resets, joined, equals `AudioCodec.decode` of the joined codes, whatever the slot,
    the pieces and the streams beside it: on a CPU, to the bit. One caller at a time.
    """

    @property
    def slots(self) -> int:
        """Streams that there is room for."""
        ...

    def reset(self, slot: int) -> None:
        """Makes `slot` (0 to `slots`, exclusive) ready for a new stream."""
        ...

    def step(self, codes: Tensor, slots: Sequence[int]) -> Tensor:
        """The next codes `[M, K, t]` of M different `slots`, in any order, to their sound `[M, 1, t * 1920]` (float32).

        A stream that is taken up again is reset and stepped over the frames it had: t may be as many as there are.
        Raises `InputError` for a slot that is not there or is named twice, and for ids that are no codes; then no
        slot's state has changed.
        """
        ...


class StreamingDecoder(Protocol):
    """Decodes frames as they come; what it returns, joined, equals `AudioCodec.decode` of the joined codes."""

    def step(self, codes: Tensor) -> Tensor:
        """Takes the next codes `[B, K, t]`, returns their sound `[B, 1, t * 1920]` (float32)."""
        ...


class AudioCodec(Protocol):
    """A causal codec of 24 kHz mono sound with 12.5 frames a second."""

    @property
    def num_codebooks(self) -> int:
        """K."""
        ...

    @property
    def codebook_size(self) -> int:
        """Codes run from 0 to this, exclusive."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the weights and configuration; token shards and bundles name it."""
        ...

    @property
    def entries(self) -> Tensor | None:
        """`[K, N, L]`: what the codes of each codebook stand for, of which sound is made; None where it is not told."""
        ...

    def encode(self, audio: Tensor) -> Tensor:
        """Sound `[B, 1, S]` (float32, -1 to 1) to codes `[B, K, ceil(S / 1920)]` (int64); zeros fill the last frame."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, K, T]` to sound `[B, 1, T * 1920]`."""
        ...

    def streaming_decoder(self, batch_size: int = 1) -> StreamingDecoder:
        """A fresh streaming state for `batch_size` streams."""
        ...

    def slot_decoder(self, slots: int) -> SlotDecoder:
        """Fresh state for `slots` streams that come and go."""
        ...
