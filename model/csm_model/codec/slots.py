"""Slots: which rows of a state a step takes, and a stream of several rows over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from csm_model.codec.base import SlotDecoder
from csm_model.errors import InputError

Rows = slice | Tensor
"""Indexes the first axis of a state. A slice, where the slots follow one another, so that reading copies nothing."""


def rows_of(slots: Sequence[int], count: int, room: int, device: torch.device) -> Rows:
    """The rows of `count` streams in `slots`, of `room` that there are; `InputError` where they do not fit."""
    chosen = [int(slot) for slot in slots]
    if len(chosen) != count:
        raise InputError(f"codes of {count} streams for {len(chosen)} slots; name one slot for each stream")
    if len(set(chosen)) != len(chosen):
        raise InputError(f"slots {chosen}: one is named twice; a step moves a stream on once")
    for slot in chosen:
        checked_slot(slot, room)
    first = chosen[0] if chosen else 0
    if chosen == list(range(first, first + len(chosen))):
        return slice(first, first + len(chosen))
    return torch.tensor(chosen, device=device)


def runs_of(slots: Sequence[int]) -> list[tuple[slice, slice]]:
    """Where in `slots` they follow one another: which of them, and the slots."""
    runs, start = [], 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            runs.append((slice(start, end), slice(slots[start], slots[end - 1] + 1)))
            start = end
    return runs


def checked_slot(slot: int, room: int) -> int:
    """`slot`, or `InputError` where it is none."""
    if not 0 <= slot < room:
        raise InputError(f"slot {slot} is none of the decoder's; it has 0 to {room - 1}")
    return slot


def checked_room(slots: int) -> int:
    """The number of slots, or `InputError` where that is none."""
    if slots < 1:
        raise InputError(f"{slots} streams to decode; a decoder serves one stream or more")
    return slots


class SlotStream:
    """A `StreamingDecoder` of `batch_size` streams that go on together: all slots of a `SlotDecoder`."""

    def __init__(self, decoder: SlotDecoder) -> None:
        self._decoder = decoder

    def step(self, codes: Tensor) -> Tensor:
        """The next codes `[B, K, t]` to their sound `[B, 1, t * 1920]`."""
        if codes.ndim == 3 and codes.shape[0] != self._decoder.slots:
            raise InputError(f"codes of {codes.shape[0]} streams; this decoder was made for {self._decoder.slots}")
        return self._decoder.step(codes, range(self._decoder.slots))
