"""Causal building blocks of the RVQ codec, over whole sequences; `rvq_decoder` takes them step by step.

Shapes: B batch, T steps, C channels. Sequences are `[B, T, C]`, so that the linear layers need no transposition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 7


class ConvNeXtBlock(nn.Module):
    """Causal ConvNeXt block [Liu et al. 2022](https://arxiv.org/abs/2201.03545), as used by Vocos for speech.

    Depth-wise convolution over the past 7 steps, LayerNorm, and a 3-times-wider MLP with a layer scale.
    """

    def __init__(self, channels: int, *, expansion: int = 3, scale: float = 0.3) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, KERNEL, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, expansion * channels)
        self.down = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` to `[B, T, C]`; nothing is known before the first step."""
        h = self.depthwise(F.pad(x, (0, 0, KERNEL - 1, 0)).transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(h)), approximate="tanh"))  # type: ignore[no-any-return]


class CausalStack(nn.Module):
    """ConvNeXt blocks one after another."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` to `[B, T, C]`."""
        for block in self.blocks:
            x = block(x)
        return x


class LogMel(nn.Module):
    """Causal log-mel frames: frame `j` sees the samples `[(j + 1) * hop - window, (j + 1) * hop)`."""

    filters: Tensor
    window: Tensor

    def __init__(self, *, sample_rate: int, window: int, hop: int, bins: int) -> None:
        super().__init__()
        self.hop = hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, window, bins), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Sound `[B, S]` (S a multiple of hop) to `[B, S / hop, bins]`."""
        size = self.window.shape[0]
        frames = F.pad(audio, (size - self.hop, 0)).unfold(-1, size, self.hop)
        magnitude = torch.fft.rfft(frames * self.window).abs()
        return torch.log(magnitude @ self.filters + 1e-3)


def mel_filters(sample_rate: int, n_fft: int, bins: int) -> Tensor:
    """Triangular filters on the HTK mel scale, each of unit sum: `[n_fft // 2 + 1, bins]`."""
    top = 2595.0 * torch.log10(torch.tensor(1.0 + sample_rate / 2 / 700.0))
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, float(top), bins + 2) / 2595.0) - 1.0)
    frequencies = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    return filters / filters.sum(0).clamp(min=1e-8)
