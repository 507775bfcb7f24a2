"""Slots: which rows of a state a step takes, the steps that a convolution keeps of each, a stream over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from csm_model.codec.base import SlotDecoder
from csm_model.codec.loops import loops
from csm_model.errors import InputError
from csm_model.kernels.machine import kernels_for


@dataclass(frozen=True)
class StepSlots:
    """The slots of a step."""

    index: slice | Tensor
    """Indexes the first axis of a state: a slice where the slots follow one another, so that reading copies nothing."""
    numbers: npt.NDArray[np.int64]


def rows_of(slots: Sequence[int], count: int, room: int, device: torch.device) -> StepSlots:
    """The rows of `count` streams in `slots`, of `room` that there are; `InputError` where they do not fit."""
    chosen = [int(slot) for slot in slots]
    if len(chosen) != count:
        raise InputError(f"codes of {count} streams for {len(chosen)} slots; name one slot for each stream")
    if len(set(chosen)) != len(chosen):
        raise InputError(f"slots {chosen}: one is named twice; a step moves a stream on once")
    for slot in chosen:
        checked_slot(slot, room)
    first = chosen[0] if chosen else 0
    numbers = np.array(chosen, np.int64)
    if chosen == list(range(first, first + len(chosen))):
        return StepSlots(slice(first, first + len(chosen)), numbers)
    return StepSlots(torch.tensor(chosen, device=device), numbers)


class Past:
    """The last steps that went into a convolution, of every slot: zeros at first."""

    def __init__(self, slots: int, steps: int, channels: int, device: torch.device) -> None:
        self._held = torch.zeros(slots, steps, channels, device=device)
        self._flat = self._held.view(slots, -1).numpy() if kernels_for(device) else None

    def reset(self, slot: int) -> None:
        """Zeros again."""
        self._held[slot] = 0

    def before(self, x: Tensor, rows: StepSlots, *, elu: bool = False) -> Tensor:
        """The steps kept and then the new ones `x` `[M, T, C]`, or their ELUs: `[M, kept + T, C]`; keeps the last."""
        streams, steps, channels = x.shape
        if self._flat is not None:
            window = torch.empty(streams, self._held.shape[1] + steps, channels)
            flat = x.reshape(streams, -1).numpy(), self._flat, rows.numbers, window.view(streams, -1).numpy()
            loops().window(*flat, elu)
            return window
        window = torch.cat([self._held[rows.index], F.elu(x) if elu else x], dim=1)
        self._held[rows.index] = window[:, steps:]
        return window


def elu_(x: Tensor) -> Tensor:
    """ELU of contiguous `x` in place; returns `x`."""
    if not kernels_for(x.device):
        return F.elu_(x)
    loops().elu(x.view(-1).numpy())
    return x


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
