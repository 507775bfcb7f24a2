"""Discriminators that the codec's decoder learns to please.

Shapes: B batch, S samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpectrogramDiscriminator(nn.Module):
    """Two-dimensional convolutions over a complex spectrogram in frequency bands.

    One resolution of the multi-resolution discriminators of EnCodec and DAC ([Kumar et al. 2023](https://arxiv.org/abs/2306.06546)).
    """

    window: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        strides = ((1, 2), (1, 2), (1, 2), (1, 1))
        widths = (2, channels, channels, channels, channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(
                widths[i], widths[i + 1], (3, 7 if i == 0 else 5), stride=strides[i], padding=(1, 3 if i == 0 else 2)
            )
            for i in range(len(strides))
        )
        self.leave = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, sound: Tensor) -> list[Tensor]:
        """Sound `[B, S]` to the features of every layer, the scores last."""
        size = self.window.shape[0]
        spectrum = torch.stft(sound, size, size // 4, window=self.window, return_complex=True)
        compressed = spectrum / (spectrum.abs() + 1e-4).sqrt()
        x = torch.view_as_real(compressed).permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return [*features, self.leave(x)]


class Discriminators(nn.Module):
    """Spectrogram discriminators at several window lengths."""

    def __init__(self, sizes: tuple[int, ...] = (384, 768, 1536), channels: int = 16) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrogramDiscriminator(size, channels) for size in sizes)

    def forward(self, sound: Tensor) -> list[list[Tensor]]:
        """Sound `[B, S]` to each part's features and scores."""
        return [part(sound) for part in self.parts]


def discriminator_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """Hinge loss: real above 1, made below -1."""
    losses = [F.relu(1 - r[-1]).mean() + F.relu(1 + m[-1]).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).mean()


def generator_losses(real: list[list[Tensor]], made: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """The decoder's adversarial loss, and the distance of the features relative to their size."""
    adversarial = torch.stack([F.relu(1 - m[-1]).mean() for m in made]).mean()
    distances = [
        F.l1_loss(m_layer, r_layer.detach()) / r_layer.detach().abs().mean().clamp(min=1e-4)
        for r, m in zip(real, made, strict=True)
        for r_layer, m_layer in zip(r[:-1], m[:-1], strict=True)
    ]
    return adversarial, torch.stack(distances).mean()
