"""The RVQ codec's decoder, frame by frame, for many streams at once.

The same function as `rvq_network.Decoder`, which is trained. Every layer here gives a stream's rows the same bits
whatever stands beside them, and a frame is the same operations whether it comes alone or with others: so a stream
equals its whole decode.

Shapes: M streams stepped together, K codebooks, L steps (100 Hz), C channels, D latent dim.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from csm_model.codec.blocks import KERNEL, CausalStack, ConvNeXtBlock
from csm_model.codec.loops import loops
from csm_model.codec.rvq_network import Decoder
from csm_model.codec.slots import Past, StepSlots, checked_room, checked_slot, rows_of
from csm_model.codec.source import Controls, SourceState
from csm_model.frames import FRAME_SAMPLES
from csm_model.kernels.affine import Affine
from csm_model.kernels.machine import kernels_for


class _Block:
    """A ConvNeXt block over the next steps."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        scale, bias = block.scale.detach(), block.depthwise.bias
        assert bias is not None
        self._taps = block.depthwise.weight.detach()[:, 0].T.clone(memory_format=torch.contiguous_format)
        self._others = [tensor.detach().clone() for tensor in (bias, block.norm.weight, block.norm.bias)]
        arrays = [tensor.numpy() for tensor in (self._taps, *self._others)] if kernels_for(scale.device) else None
        self._arrays = arrays
        self._up = Affine(block.up.weight, block.up.bias, gelu="tanh")
        self._down = Affine(block.down.weight * scale[:, None], block.down.bias * scale)
        self._size = KERNEL - 1, scale.shape[0], scale.device

    def past(self, slots: int) -> Past:
        """The six steps that it keeps of every slot."""
        return Past(slots, *self._size)

    def __call__(self, x: Tensor, past: Past, rows: StepSlots) -> Tensor:
        """`[M, L, C]` to `[M, L, C]`."""
        return self._down(self._up(self._mixed(past.before(x, rows))), x)

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


class _Weights:
    """The decoder's layers as they are at one time, laid out for the kernels; no stream."""

    def __init__(self, decoder: Decoder) -> None:
        source = decoder.source
        self.enter = Affine(decoder.enter.weight, decoder.enter.bias)
        self.coarse = _blocks(decoder.coarse)
        self.unfold = Affine(decoder.unfold.weight, decoder.unfold.bias)
        self.fine = _blocks(decoder.fine)
        self.channels = decoder.channels
        gain, shift = source.norm.weight.detach().clone(), source.norm.bias.detach().clone()
        self.norm = (gain.shape, gain, shift)
        self.head = Affine(source.head.weight, source.head.bias)
        self.bands, self.shapes = Affine(source.bands.T), Affine(source.shapes.T)
        self.source = source  # of which only what is never trained is used


_laid_out: weakref.WeakKeyDictionary[Decoder, tuple[list[tuple[int, int]], _Weights]] = weakref.WeakKeyDictionary()
"""The weights laid out last, and the versions of what they were made from."""


def _weights_of(decoder: Decoder) -> _Weights:
    """Laid out once, and again where the decoder has been trained or loaded since."""
    parameters = list(decoder.parameters())
    versions = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in parameters]
    known = _laid_out.get(decoder)
    if known is None or known[0] != versions:
        known = _laid_out[decoder] = versions, _Weights(decoder)
    return known[1]


class RvqSlotDecoder:
    """A `SlotDecoder` over the decoder of an `RvqCodec`, with its weights as they were when it was made.

    `latents` turns codes `[M, k, T]` into latents `[M, T, D]`; `InputError` for codes that are none.
    """

    def __init__(self, decoder: Decoder, slots: int, *, latents: Callable[[Tensor], Tensor]) -> None:
        self._latents = latents
        self._slots = checked_room(slots)
        self._weights = _weights_of(decoder)
        self._coarse = [block.past(slots) for block in self._weights.coarse]
        self._fine = [block.past(slots) for block in self._weights.fine]
        self._state = self._weights.source.initial_state(slots)

    @property
    def slots(self) -> int:
        """Streams that there is room for."""
        return self._slots

    @torch.inference_mode()
    def reset(self, slot: int) -> None:
        """Makes `slot` ready for a new stream."""
        checked_slot(slot, self._slots)
        for past in (*self._coarse, *self._fine):
            past.reset(slot)
        for state in vars(self._state).values():
            state[slot] = 0

    @torch.inference_mode()
    def step(self, codes: Tensor, slots: Sequence[int]) -> Tensor:
        """Codes `[M, k, t]` of M different slots to sound `[M, 1, t * 1920]`; k may be less than K."""
        latent = self._latents(codes)
        rows = rows_of(slots, len(codes), self._slots, latent.device)
        sound = latent.new_empty(len(codes), 1, codes.shape[2] * FRAME_SAMPLES)
        for frame in range(codes.shape[2]):
            part = sound[:, 0, frame * FRAME_SAMPLES : (frame + 1) * FRAME_SAMPLES]
            part.copy_(self._frame(latent[:, frame : frame + 1], rows))
        return sound

    def _frame(self, latent: Tensor, rows: StepSlots) -> Tensor:
        """One frame's latents `[M, 1, D]` to its sound `[M, 1920]`."""
        controls = self._controls(latent, rows)
        state = SourceState(**{name: whole[rows.index] for name, whole in vars(self._state).items()})
        pulses, noise = self._weights.shapes(controls.pulses), self._weights.bands(controls.noise)
        sound = self._weights.source.sound(controls.pitch, pulses, noise, state)
        for name, part in vars(state).items():
            getattr(self._state, name)[rows.index] = part
        return sound

    def _controls(self, latent: Tensor, rows: StepSlots) -> Controls:
        """One frame's latents `[M, 1, D]` to what the vocoder is to do in it."""
        weights = self._weights
        x = weights.enter(latent)
        for block, past in zip(weights.coarse, self._coarse, strict=True):
            x = block(x, past, rows)
        x = weights.unfold(x).view(len(x), -1, weights.channels)
        for block, past in zip(weights.fine, self._fine, strict=True):
            x = block(x, past, rows)
        return weights.source.limited(weights.head(F.layer_norm(x, *weights.norm)))


def _blocks(stack: CausalStack) -> list[_Block]:
    return [_Block(block) for block in stack.blocks if isinstance(block, ConvNeXtBlock)]
