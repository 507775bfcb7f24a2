"""Mimi's decoder over moshi's weights, frame by frame, for many streams at once.

Source of the function: Défossez et al. 2024, "Moshi: a speech-text foundation model for real-time dialogue", and the
package's `modules/seanet.py`, `conv.py` and `transformer.py`. What differs is the way there: sequences are `[M, T, C]`,
and every convolution is one product of a matrix with overlapping rows. So is a transposed convolution whose kernel is
twice its stride s: output rows `s t` to `s t + s - 1` are inputs t - 1 and t times the two halves of the kernel.

Every layer gives a stream's rows the same bits whatever stands beside them: so a stream equals its whole decode.

Shapes: M streams stepped together, K codebooks, t frames, T rows, C channels, H heads of width D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from csm_model.codec.loops import loops
from csm_model.codec.quantizer import added
from csm_model.codec.slots import Past, StepSlots, checked_room, checked_slot, elu_, rows_of
from csm_model.frames import FRAME_SAMPLES
from csm_model.kernels.affine import Affine
from csm_model.kernels.machine import kernels_for

Weights = Mapping[str, Tensor]
_TOGETHER = 8  # frames in one product, of one stream or of several: as many as stay in the cache


@dataclass(frozen=True, kw_only=True)
class MimiShape:
    """What the weights do not say by themselves."""

    heads: int = 8
    context: int = 250
    """Rows of 25 Hz that attention sees: 10 s."""
    max_period: float = 10_000.0


class CausalConv:
    """A causal convolution, as one product of a matrix with overlapping rows."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """`weight` `[out, in, kernel]`."""
        self.channels, self.kernel = weight.shape[1], weight.shape[2]
        self.device = weight.device
        self._product = Affine(weight.transpose(1, 2).flatten(1), bias)

    @classmethod
    def transposed(cls, weight: Tensor, bias: Tensor) -> CausalConv:
        """One that makes s rows of each: `weight` `[in, out, 2 s]`; its outputs are `[s * out]`."""
        now, then = weight.permute(2, 1, 0).flatten(0, 1).chunk(2)  # [s * out, in]
        return cls(torch.stack([then, now], dim=2), bias.repeat(weight.shape[2] // 2))

    def past(self, slots: int) -> Past:
        """What it keeps of every slot."""
        return Past(slots, self.kernel - 1, self.channels, self.device)

    def __call__(self, window: Tensor, plus: Tensor | None = None) -> Tensor:
        """`[M, kernel - 1 + T, in]`, what `past` gives, to `[M, T, out]`."""
        return self._product.windows(window, plus)


class _ToMono:
    """The last convolution, after an ELU: to one channel."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """`weight` `[1, in, kernel]`."""
        self._weight, self._bias = weight.detach().transpose(1, 2).reshape(-1).clone(), bias.detach()
        self.kernel, self.channels = weight.shape[2], weight.shape[1]

    def __call__(self, x: Tensor, past: Past, rows: StepSlots) -> Tensor:
        """`[M, T, in]` to `[M, T]`."""
        window = past.before(x, rows, elu=True)
        if not kernels_for(window.device):
            kernels = self._weight.view(1, self.kernel, self.channels).transpose(1, 2)
            return F.conv1d(window.transpose(1, 2), kernels, self._bias)[:, 0]
        sound = torch.empty(x.shape[:2])
        flat = window.view(len(x), -1).numpy()
        loops().dot(flat, self.channels, self._weight.numpy(), self._bias.numpy(), sound.numpy())
        return sound


class _Codebooks:
    """Codes to latents: the first codebook and the sum of the others, each through its projection."""

    def __init__(self, weights: Weights, table: Tensor) -> None:
        first, rest = (weights[f"quantizer.{part}.output_proj.weight"][..., 0] for part in ("rvq_first", "rvq_rest"))
        self._table = table.flatten(0, 1)
        self._offsets = torch.arange(len(table), device=table.device) * table.shape[1]
        self._project = Affine(torch.cat([first, rest], dim=1))

    def __call__(self, codes: Tensor) -> Tensor:
        """Codes `[M, k, T]` to `[M, T, 512]`."""
        entries = F.embedding(codes.transpose(1, 2) + self._offsets[: codes.shape[1]], self._table)
        first, *rest = entries.unbind(2)
        return self._project(torch.cat([first, added(rest) if rest else torch.zeros_like(first)], dim=-1))


class _Layer:
    """A layer of the transformer; the layer scales are within the weights."""

    def __init__(self, weights: Weights, prefix: str, shape: MimiShape) -> None:
        def norm(name: str) -> tuple[Tensor, Tensor]:
            return weights[f"{prefix}.{name}.weight"].detach(), weights[f"{prefix}.{name}.bias"].detach()

        scales = [weights[f"{prefix}.layer_scale_{number}.scale"][:, None] for number in (1, 2)]
        self._norms = norm("norm1"), norm("norm2")
        self._heads, self._context = shape.heads, shape.context
        self._enter = Affine(weights[f"{prefix}.self_attn.in_projs.0.weight"])
        self._leave = Affine(weights[f"{prefix}.self_attn.out_projs.0.weight"] * scales[0])
        self._up = Affine(weights[f"{prefix}.linear1.weight"], gelu="erf")
        self._down = Affine(weights[f"{prefix}.linear2.weight"] * scales[1])

    def __call__(self, x: Tensor, ring: Tensor, places: Sequence[_Place], rows: StepSlots) -> Tensor:
        """`[M, 2 t, C]` to the same; `ring` `[slots, 2, H, rows, D]` gets the new keys and values, frame by frame."""
        width = x.shape[2]
        asked = self._enter(F.layer_norm(x, (width,), *self._norms[0]))
        asked = asked.view(len(x), -1, 3, self._heads, width // self._heads)
        heard = [
            self._frame(asked[:, 2 * frame : 2 * frame + 2], ring, place, rows) for frame, place in enumerate(places)
        ]
        x = self._leave(torch.cat(heard, dim=1).flatten(2), x)
        return self._down(self._up(F.layer_norm(x, (width,), *self._norms[1])), x)

    def _frame(self, asked: Tensor, ring: Tensor, place: _Place, rows: StepSlots) -> Tensor:
        """Queries, keys and values of a frame, `[M, 2, 3, H, D]`, to what is heard, `[M, 2, H, D]`."""
        if place.mask is None:
            loops().turn(asked.numpy(), torch.view_as_real(place.turn[:, :, 0, 0]).numpy())
        else:
            turned = torch.view_as_complex(asked[:, :, :2].view(len(asked), 2, 2, self._heads, -1, 2))
            torch.mul(turned, place.turn, out=turned)
        ring[place.streams, :, :, place.at] = asked[:, :, 1:]
        queries = asked[:, :, 0]
        if place.mask is None:
            heard = torch.empty(queries.shape)
            newest = place.newest.numpy()
            loops().attend(queries.numpy(), ring.numpy(), rows.numbers, newest, self._context, heard.numpy())
            return heard
        keys, values = ring[rows.index].unbind(1)
        heard = F.scaled_dot_product_attention(queries.transpose(1, 2), keys, values, attn_mask=place.mask)
        return heard.transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a frame's two rows stand, the same for every layer."""

    turn: Tensor  # complex [M, 2, 1, 1, D / 2]: the rotary angles
    mask: Tensor | None  # [M, 1, 2, rows of the ring]: where attention looks; the compiled loop knows
    newest: Tensor  # [M], positions of the second rows
    streams: Tensor  # [M, 1], slots
    at: Tensor  # [M, 2], rows of the ring


class _Transformer:
    """Layers at 25 Hz over a ring of keys and values: the last 252 rows of every slot."""

    def __init__(self, weights: Weights, shape: MimiShape) -> None:
        prefix, depth = "decoder_transformer.transformer.layers", 0
        while f"{prefix}.{depth}.norm1.weight" in weights:
            depth += 1
        self._layers = [_Layer(weights, f"{prefix}.{index}", shape) for index in range(depth)]
        self._context = shape.context
        # A step writes two rows before it reads: the first of them still sees `context` rows.
        self.ring_rows = 2 * math.ceil((shape.context + 1) / 2)
        norm = weights[f"{prefix}.0.norm1.weight"]
        self.width, device = norm.shape[0], norm.device
        pairs = self.width // shape.heads // 2
        self._heads = shape.heads
        self._rows = torch.arange(self.ring_rows, device=device)
        self._frequencies = torch.exp(torch.arange(pairs, device=device) * (-math.log(shape.max_period) / pairs))

    def rings(self, slots: int) -> Tensor:
        """Keys and values, `[layers, slots, 2, H, rows, D]`."""
        size = (len(self._layers), slots, 2, self._heads, self.ring_rows, self.width // self._heads)
        return torch.zeros(size, device=self._rows.device)

    def __call__(self, x: Tensor, rings: Tensor, rows: StepSlots, steps: Tensor) -> Tensor:
        """`[M, 2 t, C]` to the same, for streams that are `steps` `[M]` rows long so far."""
        streams = torch.tensor(rows.numbers, device=x.device)[:, None]
        places = [self._place(streams, steps + row) for row in range(0, x.shape[1], 2)]
        for layer, ring in zip(self._layers, rings, strict=True):
            x = layer(x, ring, places, rows)
        return x

    def _place(self, streams: Tensor, steps: Tensor) -> _Place:
        asking = steps[:, None] + self._rows[:2]  # [M, 2]
        angles = asking[..., None].float() * self._frequencies
        return _Place(
            turn=torch.polar(torch.ones_like(angles), angles)[:, :, None, None],
            mask=None if kernels_for(steps.device) else self._mask(asking),
            newest=steps + 1,
            streams=streams,
            at=asking % self.ring_rows,
        )

    def _mask(self, asking: Tensor) -> Tensor:
        # A row of the ring holds the newest position that falls on it.
        newest = asking[:, 1:]
        held = newest - (newest - self._rows) % self.ring_rows  # [M, rows]
        behind = asking[:, :, None] - held[:, None, :]
        return ((behind >= 0) & (behind < self._context) & (held >= 0)[:, None, :])[:, None]


class _Upsampling:
    """12.5 Hz to 25 Hz: a depth-wise transposed convolution, kernel 4, stride 2, without bias."""

    def __init__(self, weights: Weights) -> None:
        kernel = weights["upsample.convtr.convtr.convtr.weight"].detach()[:, 0].T.contiguous()  # [4, C]
        self._now, self._then = kernel.chunk(2)

    def __call__(self, x: Tensor, past: Past, rows: StepSlots) -> Tensor:
        """`[M, t, C]` to `[M, 2 t, C]`."""
        window = past.before(x, rows)
        return (window[:, 1:, None] * self._now + window[:, :-1, None] * self._then).flatten(1, 2)


class _Stage:
    """Upsampling by a stride, and a residual unit."""

    def __init__(self, weights: Weights, index: int) -> None:
        up = f"decoder.model.{index}.convtr.convtr"
        unit = f"decoder.model.{index + 1}.block"
        kernel = weights[f"{up}.weight"]
        self.channels = kernel.shape[1]
        self.up = CausalConv.transposed(kernel, weights[f"{up}.bias"])
        self.wide, self.narrow = (
            CausalConv(weights[f"{unit}.{number}.conv.conv.weight"], weights[f"{unit}.{number}.conv.conv.bias"])
            for number in (1, 3)
        )

    def pasts(self, slots: int) -> tuple[Past, Past]:
        """What it keeps of every slot."""
        return self.up.past(slots), self.wide.past(slots)

    def __call__(self, x: Tensor, pasts: tuple[Past, Past], rows: StepSlots) -> Tensor:
        """`[M, T, C]` to `[M, T * stride, C / 2]`."""
        x = self.up(pasts[0].before(x, rows, elu=True)).view(len(x), -1, self.channels)
        return self.narrow(elu_(self.wide(pasts[1].before(x, rows, elu=True))), x)


class MimiDecoder:
    """Codes to sound; holds the weights and no stream."""

    def __init__(self, weights: Weights, table: Tensor, shape: MimiShape) -> None:
        """`weights` are moshi's (`MimiModel.state_dict()`), `table` `[K, entries, width]` its codebooks."""
        self.codebooks = _Codebooks(weights, table)
        self.upsampling = _Upsampling(weights)
        self.transformer = _Transformer(weights, shape)
        outer = sorted({int(name.split(".")[2]) for name in weights if name.startswith("decoder.model.")})
        first, last = (f"decoder.model.{index}.conv.conv" for index in (outer[0], outer[-1]))
        self.enter = CausalConv(weights[f"{first}.weight"], weights[f"{first}.bias"])
        self.stages = [_Stage(weights, index) for index in outer[1:-1:2]]
        self.leave = _ToMono(weights[f"{last}.weight"], weights[f"{last}.bias"])


class MimiSlotDecoder:
    """A `SlotDecoder` over Mimi's weights; `check` refuses codes that are none."""

    def __init__(self, decoder: MimiDecoder, slots: int, check: Callable[[Tensor], None]) -> None:
        self._decoder = decoder
        self._slots = checked_room(slots)
        self._check = check
        self._rings = decoder.transformer.rings(slots)
        device = self._rings.device
        self._steps = torch.zeros(slots, dtype=torch.int64, device=device)  # rows of 25 Hz so far
        self._latent = Past(slots, 1, decoder.transformer.width, device)
        self._enter = decoder.enter.past(slots)
        self._stages = [stage.pasts(slots) for stage in decoder.stages]
        self._leave = Past(slots, decoder.leave.kernel - 1, decoder.leave.channels, device)

    @property
    def slots(self) -> int:
        """Streams that there is room for."""
        return self._slots

    @torch.inference_mode()
    def reset(self, slot: int) -> None:
        """Makes `slot` ready for a new stream. Old keys and values stay: no row of the new stream looks at them."""
        checked_slot(slot, self._slots)
        self._steps[slot] = 0
        pasts = (past for stage in self._stages for past in stage)
        for past in (self._latent, self._enter, self._leave, *pasts):
            past.reset(slot)

    @torch.inference_mode()
    def step(self, codes: Tensor, slots: Sequence[int]) -> Tensor:
        """Codes `[M, K, t]` of M different slots to sound `[M, 1, t * 1920]`."""
        self._check(codes)
        rows = rows_of(slots, len(codes), self._slots, self._steps.device)
        sound = torch.empty(len(codes), codes.shape[2] * FRAME_SAMPLES, device=codes.device)
        together = max(1, _TOGETHER // max(1, len(codes)))
        for start in range(0, codes.shape[2] if len(codes) else 0, together):
            part = codes[..., start : start + together]
            where = slice(start * FRAME_SAMPLES, (start + part.shape[2]) * FRAME_SAMPLES)
            sound[:, where] = self._frames(part, rows)
        return sound[:, None]

    def _frames(self, codes: Tensor, rows: StepSlots) -> Tensor:
        """Codes `[M, K, t]` to sound `[M, t * 1920]`."""
        decoder = self._decoder
        x = decoder.upsampling(decoder.codebooks(codes), self._latent, rows)
        steps = self._steps[rows.index].clone()
        self._steps[rows.index] += x.shape[1]
        x = decoder.transformer(x, self._rings, rows, steps)
        x = decoder.enter(self._enter.before(x, rows))
        for stage, pasts in zip(decoder.stages, self._stages, strict=True):
            x = stage(x, pasts, rows)
        return decoder.leave(x, self._leave, rows)
