"""The RVQ codec's decoder, frame by frame, for many streams at once.

The same function as `rvq.Decoder`, which is trained. Every layer here gives a stream's rows the same bits whatever
stands beside them, and a frame is the same operations whether it comes alone or with others: so a stream equals its
whole decode.

Shapes: M streams stepped together, K codebooks, L steps (100 Hz), C channels, D latent dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from csm_model.codec.blocks import KERNEL, CausalStack, ConvNeXtBlock
from csm_model.codec.loops import loops
from csm_model.codec.packed import PackedLinear
from csm_model.codec.slots import Past, Rows, checked_room, checked_slot, rows_of
from csm_model.codec.source import Controls, SourceState
from csm_model.frames import FRAME_SAMPLES

if TYPE_CHECKING:
    from csm_model.codec.rvq import RvqCodec


class _Block:
    """A ConvNeXt block over the next steps, with the six before them of every slot."""

    def __init__(self, block: ConvNeXtBlock, slots: int) -> None:
        scale, bias = block.scale.detach(), block.depthwise.bias
        assert bias is not None
        self._taps = block.depthwise.weight.detach()[:, 0].T.contiguous()
        self._others = bias.detach(), block.norm.weight.detach(), block.norm.bias.detach()
        on_cpu = scale.device.type == "cpu"
        self._arrays = [tensor.numpy() for tensor in (self._taps, *self._others)] if on_cpu else None
        self._up = PackedLinear(block.up.weight, block.up.bias, gelu="tanh")
        self._down = PackedLinear(block.down.weight * scale[:, None], block.down.bias * scale)
        self.past = Past(slots, KERNEL - 1, scale.shape[0], scale.device)

    def step(self, x: Tensor, rows: Rows) -> Tensor:
        """`[M, L, C]` to `[M, L, C]`."""
        return self._down(self._up(self._mixed(self.past.before(x, rows))), x)

    def _mixed(self, window: Tensor) -> Tensor:
        """The depth-wise convolution and the norm: `[M, 6 + L, C]` to `[M, L, C]`."""
        count, length, channels = window.shape
        if self._arrays is not None:
            out = torch.empty(count, length - KERNEL + 1, channels)
            loops().taps(window.numpy(), *self._arrays, out.numpy())
            return out
        bias, gain, shift = self._others
        heard = (window.unfold(1, KERNEL, 1).transpose(2, 3) * self._taps).sum(2) + bias
        return F.layer_norm(heard, (channels,), gain, shift)


class RvqSlotDecoder:
    """A `SlotDecoder` over an `RvqCodec`, with its weights as they were when it was made."""

    def __init__(self, codec: RvqCodec, slots: int) -> None:
        decoder, source = codec.decoder, codec.decoder.source
        self._codec = codec
        self._slots = checked_room(slots)
        self._enter = PackedLinear(decoder.enter.weight, decoder.enter.bias)
        self._coarse = _blocks(decoder.coarse, slots)
        self._unfold = PackedLinear(decoder.unfold.weight, decoder.unfold.bias)
        self._fine = _blocks(decoder.fine, slots)
        self._channels = decoder.channels
        self._norm, self._source = source.norm, source
        self._head = PackedLinear(source.head.weight, source.head.bias)
        self._bands, self._shapes = PackedLinear(source.bands.T), PackedLinear(source.shapes.T)
        self._state = source.initial_state(slots)

    @property
    def slots(self) -> int:
        """Streams that there is room for."""
        return self._slots

    @torch.inference_mode()
    def reset(self, slot: int) -> None:
        """Makes `slot` ready for a new stream."""
        checked_slot(slot, self._slots)
        for block in (*self._coarse, *self._fine):
            block.past.reset(slot)
        for state in vars(self._state).values():
            state[slot] = 0

    @torch.inference_mode()
    def step(self, codes: Tensor, slots: Sequence[int]) -> Tensor:
        """Codes `[M, k, t]` of M different slots to sound `[M, 1, t * 1920]`; k may be less than K."""
        latent = self._codec.quantizer.decode(self._codec.checked(codes))
        rows = rows_of(slots, len(codes), self._slots, latent.device)
        sound = latent.new_empty(len(codes), 1, codes.shape[2] * FRAME_SAMPLES)
        for frame in range(codes.shape[2]):
            part = sound[:, 0, frame * FRAME_SAMPLES : (frame + 1) * FRAME_SAMPLES]
            part.copy_(self._frame(latent[:, frame : frame + 1], rows))
        return sound

    def _frame(self, latent: Tensor, rows: Rows) -> Tensor:
        """One frame's latents `[M, 1, D]` to its sound `[M, 1920]`."""
        controls = self._controls(latent, rows)
        state = SourceState(**{name: whole[rows.index] for name, whole in vars(self._state).items()})
        pulses, noise = self._shapes(controls.pulses), self._bands(controls.noise)
        sound = self._source.sound(controls.pitch, pulses, noise, state)
        for name, part in vars(state).items():
            getattr(self._state, name)[rows.index] = part
        return sound

    def _controls(self, latent: Tensor, rows: Rows) -> Controls:
        """One frame's latents `[M, 1, D]` to what the vocoder is to do in it."""
        x = self._enter(latent)
        for block in self._coarse:
            x = block.step(x, rows)
        x = self._unfold(x).view(len(x), -1, self._channels)
        for block in self._fine:
            x = block.step(x, rows)
        return self._source.limited(self._head(self._norm(x)))


def _blocks(stack: CausalStack, slots: int) -> list[_Block]:
    return [_Block(block, slots) for block in stack.blocks if isinstance(block, ConvNeXtBlock)]
