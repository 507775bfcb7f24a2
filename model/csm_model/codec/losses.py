"""What a codec's reconstruction is measured by in training.

Shapes: B batch, S samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.codec.blocks import mel_filters
from csm_model.frames import SAMPLE_RATE

_SCALES = ((256, 40), (512, 60), (1024, 80), (2048, 100))  # window, mel bins


class SpectralLoss(nn.Module):
    """L1 distance of log-mel and of log-magnitude spectra at several window lengths.

    The multi-scale mel loss of [DAC](https://arxiv.org/abs/2306.06546) with the STFT magnitudes of
    [Parallel WaveGAN](https://arxiv.org/abs/1910.11480) beside it.
    """

    def __init__(self) -> None:
        super().__init__()
        for size, bins in _SCALES:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"filters_{size}", mel_filters(SAMPLE_RATE, size, bins), persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Sounds `[B, S]`: returns the mel distance and the STFT distance, both means over scales."""
        mel_total, stft_total = made.new_zeros(()), made.new_zeros(())
        for size, _ in _SCALES:
            window, filters = self.get_buffer(f"window_{size}"), self.get_buffer(f"filters_{size}")
            made_power, real_power = self._power(made, window), self._power(real, window)
            made_mel = torch.log(torch.sqrt(made_power + 1e-9).transpose(1, 2) @ filters + 1e-4)
            real_mel = torch.log(torch.sqrt(real_power + 1e-9).transpose(1, 2) @ filters + 1e-4)
            mel_total = mel_total + F.l1_loss(made_mel, real_mel)
            stft_total = stft_total + 0.5 * F.l1_loss(torch.log(made_power + 1e-5), torch.log(real_power + 1e-5))
        return mel_total / len(_SCALES), stft_total / len(_SCALES)

    @staticmethod
    def _power(sound: Tensor, window: Tensor) -> Tensor:
        size = window.shape[0]
        spectrum = torch.stft(sound, size, size // 4, window=window, return_complex=True)
        return spectrum.real.square() + spectrum.imag.square()
