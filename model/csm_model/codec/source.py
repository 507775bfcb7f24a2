"""A vocoder of pulses and noise: what the codec's decoder shapes into speech.

The decoder says, 100 times a second, how high the voice is, whether there is one, and how loud the pulses and the noise
are in each of 64 bands; the phases follow from that, so none has to be learnt. Harmonics plus filtered noise as in
[DDSP](https://arxiv.org/abs/2001.04643), with a band-limited pulse train and minimum-phase filters as in
[WORLD](https://doi.org/10.1587/transinf.2015EDP7457).

Window j of the output covers the sound up to the end of step j, so the sound comes `DELAY` samples late.

Shapes: B batch, L steps (100 Hz), S samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.codec.blocks import mel_filters
from csm_model.codec.loops import loops
from csm_model.codec.pitch import HOP
from csm_model.frames import SAMPLE_RATE
from csm_model.kernels.machine import kernels_for

WINDOW = 960
DELAY = WINDOW - HOP  # samples by which the sound comes late
BANDS = 64
LOWEST, HIGHEST = 50.0, 500.0  # Hz, of the pitch
MIDDLE_LOG_PITCH = math.log(170.0)  # what a head that says nothing says
_ROWS = WINDOW // HOP
_OVERLAP = 1.5  # squared Hann windows at a quarter of their length add up to this
_QUIET = -3.0  # log gain to begin with
NOISE_SAMPLES = 1 << 16  # of the table, used round and round


class Controls(NamedTuple):
    """What drives the vocoder."""

    pitch: Tensor  # [B, L], Hz at the end of each step
    pulses: Tensor  # [B, L, BANDS], log gains
    noise: Tensor  # [B, L, BANDS], log gains
    voicing: Tensor | None = None  # [B, L], log odds of a voice, infinite where they are not asked; in `pulses` already


@dataclass
class SourceState:
    """What the vocoder remembers between steps."""

    pitch: Tensor  # [B], at the end of the last step; 0 before the first
    phase: Tensor  # [B] float64, of the pulse train, in cycles
    position: Tensor  # [B] int64, samples so far
    sources: Tensor  # [B, 2, DELAY], the last pulses and noise
    tail: Tensor  # [B, DELAY], sound not yet complete


class HarmonicNoise(nn.Module):
    """Features `[B, L, C]` to sound `[B, L * 240]`."""

    window: Tensor
    bands: Tensor  # [BANDS, bins], to log gains
    shapes: Tensor  # [BANDS, 2 * bins], to log gains and phases
    table: Tensor

    def __init__(self, channels: int, *, voicing: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 1 + 2 * BANDS + voicing)
        with torch.no_grad():
            self.head.bias[1 : 1 + 2 * BANDS].fill_(_QUIET)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        filters = mel_filters(SAMPLE_RATE, WINDOW, BANDS).T
        # Every bin is a mean of the bands around it; the bins beyond the outermost bands follow the nearest one.
        filters = filters / filters.amax(1, keepdim=True)
        filters[0, 0], filters[-1, -1] = 1.0, 1.0
        bands = filters / filters.sum(0)
        self.register_buffer("bands", bands, persistent=False)
        phases = minimum_phase(bands.double()).float()
        self.register_buffer("shapes", torch.cat([bands, phases], dim=1), persistent=False)
        noise = torch.randn(NOISE_SAMPLES, generator=torch.Generator().manual_seed(0))
        self.register_buffer("table", noise, persistent=False)

    def controls(self, x: Tensor) -> Controls:
        """What the features ask for."""
        return self.limited(self.head(self.norm(x)).float())

    @staticmethod
    def limited(asked: Tensor) -> Controls:
        """What the head's outputs `[B, L, 1 + 2 * BANDS]` mean, within the bounds of a voice.

        One more output is the log odds of a voice. Where they are against one, the pulses are as much softer: by
        min(1, p / (1 - p)), which is an addition to the log gains, the same to the last bit whatever stands beside it.
        """
        sizes = [1, BANDS, BANDS] + [1] * (asked.shape[-1] > 1 + 2 * BANDS)
        pitch, pulses, noise, *more = torch.split(asked, sizes, dim=-1)
        hertz = exponential(pitch[..., 0] + MIDDLE_LOG_PITCH).clamp(LOWEST, HIGHEST)
        voicing = more[0] if more else torch.full_like(pitch, torch.inf)
        return Controls(
            pitch=hertz,
            pulses=(pulses + voicing.clamp(max=0.0)).clamp(-12.0, 6.0),
            noise=noise.clamp(-12.0, 6.0),
            voicing=voicing[..., 0],
        )

    def initial_state(self, batch_size: int) -> SourceState:
        """Silence."""
        zeros = self.window.new_zeros
        return SourceState(
            pitch=zeros(batch_size),
            phase=zeros(batch_size, dtype=torch.float64),
            position=zeros(batch_size, dtype=torch.int64),
            sources=zeros(batch_size, 2, DELAY),
            tail=zeros(batch_size, DELAY),
        )

    def step(self, controls: Controls, state: SourceState) -> Tensor:
        """The sound of the next L steps `[B, L * 240]`, `DELAY` samples late; moves `state` on."""
        return self.sound(controls.pitch, controls.pulses @ self.shapes, controls.noise @ self.bands, state)

    def sound(self, pitch: Tensor, pulses: Tensor, noise: Tensor, state: SourceState) -> Tensor:
        """`step` with what the filters are at every bin: `pulses` are log gains and phases, `noise` log gains."""
        steps = pitch.shape[1]
        fresh = torch.stack([self._pulses(pitch, state), self._noise(steps * HOP, state)], dim=1)
        sources = torch.cat([state.sources, fresh], dim=-1)
        state.sources = sources[..., -DELAY:]
        spectra = each(torch.fft.rfft, sources.unfold(-1, WINDOW, HOP) * self.window)  # [B, 2, L, bins]
        pieces = each(_inverse, shaped(spectra, pulses, noise)) * (self.window / _OVERLAP)
        # Window j begins where step j of the output does: four rows of 240 overlap.
        rows = pieces.view(-1, steps, _ROWS, HOP)
        sound = F.pad(state.tail, (0, steps * HOP)).view(-1, _ROWS - 1 + steps, HOP)
        for k in range(_ROWS):
            sound[:, k : k + steps] += rows[:, :, k]
        state.tail = sound[:, steps:].flatten(1)
        return sound[:, :steps].flatten(1)

    @torch.no_grad()
    def _pulses(self, pitch: Tensor, state: SourceState) -> Tensor:
        """Harmonics of the pitch up to half the sampling rate, in phase, of unit power: `[B, L * 240]`."""
        previous = torch.where(state.pitch > 0, state.pitch, pitch[:, 0])[:, None]
        ends = torch.cat([previous, pitch], dim=1)
        ramp = torch.arange(1, HOP + 1, device=pitch.device) / HOP
        hertz = (ends[:, :-1, None] + (ends[:, 1:] - ends[:, :-1])[..., None] * ramp).flatten(1)
        cycles = state.phase[:, None] + (hertz.double() / SAMPLE_RATE).cumsum(-1)
        state.pitch, state.phase = pitch[:, -1], cycles[:, -1].remainder(1.0)
        if not kernels_for(pitch.device):
            return harmonics(cycles, hertz)
        made = torch.empty(hertz.shape)
        flat = cycles.view(-1).numpy(), hertz.contiguous().view(-1).numpy()
        loops().pulses(*flat, np.float32(SAMPLE_RATE / 2), made.view(-1).numpy())
        return made

    def _noise(self, samples: int, state: SourceState) -> Tensor:
        index = state.position[:, None] + torch.arange(samples, device=self.table.device)
        state.position = state.position + samples
        return self.table[index & (NOISE_SAMPLES - 1)]


def _in_loops(*tensors: Tensor) -> bool:
    """Whether the compiled loops do the work: where no gradient is asked for."""
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return kernels_for(tensors[0].device) and not graph


def _inverse(spectra: Tensor) -> Tensor:
    sound: Tensor = torch.fft.irfft(spectra, n=WINDOW)
    return sound


def each(transform: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A transform of `[B, ...]`; without gradients on a CPU of one item at a time, that its sums know no others."""
    if len(x) == 1 or not _in_loops(x):
        return transform(x)
    return torch.stack([transform(item) for item in x])


def exponential(x: Tensor) -> Tensor:
    """e to the power of `[B, L]`."""
    if not _in_loops(x):
        return torch.exp(x)
    x = x.clone(memory_format=torch.contiguous_format)
    loops().exponential(x.numpy())
    return x


def shaped(spectra: Tensor, pulses: Tensor, noise: Tensor) -> Tensor:
    """The sound's spectra `[B, L, bins]` from those of pulses and noise `[B, 2, L, bins]`: `HarmonicNoise.sound`."""
    if not _in_loops(spectra, pulses, noise):
        gain, phase = pulses.chunk(2, dim=-1)
        return spectra[:, 0] * torch.polar(torch.exp(gain), phase) + spectra[:, 1] * torch.exp(noise)
    made = spectra.new_empty(spectra[:, 0].shape)
    flat = torch.view_as_real(spectra).flatten(3).numpy(), pulses.contiguous().numpy(), noise.contiguous().numpy()
    loops().shape(*flat, torch.view_as_real(made).flatten(2).numpy())
    return made


def harmonics(cycles: Tensor, hertz: Tensor) -> Tensor:
    """Cosines of the multiples of a frequency up to half the sampling rate, in phase, of unit power: `Loops.pulses`."""
    half = math.pi * (cycles - cycles.round()).float()  # half the phase, the pulse at 0
    count = torch.floor(SAMPLE_RATE / 2 / hertz)
    below = torch.sin(half)
    near = below.abs() < 1e-4
    kernel = torch.sin((2 * count + 1) * half) / torch.where(near, torch.ones_like(below), 2 * below)
    return (torch.where(near, count + 0.5, kernel) - 0.5) * torch.sqrt(2 / count)


def minimum_phase(log_gain: Tensor) -> Tensor:
    """The phases of the minimum-phase filter of a log gain, `[..., bins]`: a linear function of it.

    Through the real cepstrum (Oppenheim and Schafer, 13.5).
    """
    size = 2 * (log_gain.shape[-1] - 1)
    cepstrum = torch.fft.irfft(log_gain, n=size)
    fold = cepstrum.new_zeros(size)
    fold[0], fold[1 : size // 2], fold[size // 2] = 1.0, 2.0, 1.0
    phase: Tensor = torch.fft.rfft(cepstrum * fold).imag
    return phase
