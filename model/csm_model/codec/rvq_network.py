"""The networks of the RVQ codec, as they are trained: sound to latents, and latents to sound.

Shapes: B batch, T frames (12.5 Hz), S samples, C channels, D latent dim.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from csm_model.codec.blocks import CausalStack, LogMel
from csm_model.codec.pitch import HOP
from csm_model.codec.source import NOISE_SAMPLES, WINDOW, Controls, HarmonicNoise
from csm_model.errors import InputError, quoted
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE

STEPS = FRAME_SAMPLES // HOP  # of 100 Hz in a frame
FOLD = 4  # steps of 50 Hz in a frame


@dataclass(frozen=True, kw_only=True)
class RvqConfig:
    """Sizes of the codec; `debug()` is for tests."""

    num_codebooks: int = 4
    """K, codes a frame."""
    codebook_size: int = 1024
    """Entries of a codebook."""
    latent_dim: int = 64
    """Width of what is quantised."""
    mel_bins: int = 80
    """Log-mel bins that the encoder sees, 100 frames a second."""
    encoder_channels: int = 192
    """Width of the encoder's blocks at 50 Hz."""
    encoder_depth: int = 3
    """Blocks of the encoder at 50 Hz."""
    frame_channels: int = 320
    """Width of the encoder's and decoder's blocks at 12.5 Hz."""
    frame_depth: int = 2
    """Blocks at 12.5 Hz, on either side."""
    decoder_channels: int = 256
    """Width of the decoder's blocks at 100 Hz."""
    decoder_depth: int = 6
    """Blocks of the decoder at 100 Hz."""
    voicing: bool = False
    """Whether the decoder says where there is a voice. Codecs from before it could do not."""

    def __post_init__(self) -> None:
        if not isinstance(self.voicing, bool):
            raise InputError(f"voicing is {quoted(self.voicing)}; it must be true or false")
        for field in (field for field in fields(self) if field.name != "voicing"):
            value, most = getattr(self, field.name), 2**16 if field.name == "codebook_size" else 2**12
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise InputError(f"{field.name} is {quoted(value)}; it must be a whole number from 1 to {most:,}")

    @classmethod
    def debug(cls) -> RvqConfig:
        """A codec of a few thousand weights."""
        return cls(
            num_codebooks=4,
            codebook_size=32,
            latent_dim=8,
            mel_bins=20,
            encoder_channels=16,
            encoder_depth=1,
            frame_channels=24,
            frame_depth=1,
            decoder_channels=16,
            decoder_depth=1,
        )


class Encoder(nn.Module):
    """Sound `[B, S]` to latents `[B, T, D]`."""

    def __init__(self, config: RvqConfig) -> None:
        super().__init__()
        self.mel = LogMel(sample_rate=SAMPLE_RATE, window=WINDOW, hop=HOP, bins=config.mel_bins)
        self.enter = nn.Linear(STEPS // FOLD * config.mel_bins, config.encoder_channels)
        self.fine = CausalStack(config.encoder_channels, config.encoder_depth)
        self.fold = nn.Linear(FOLD * config.encoder_channels, config.frame_channels)
        self.coarse = CausalStack(config.frame_channels, config.frame_depth)
        self.leave = nn.Linear(config.frame_channels, config.latent_dim)

    def forward(self, audio: Tensor) -> Tensor:
        """S must be a multiple of 1920."""
        mel = self.mel(audio)
        batch, steps, bins = mel.shape
        x = self.fine(self.enter(mel.reshape(batch, steps // 2, 2 * bins)))
        x = self.fold(x.reshape(batch, steps // STEPS, -1))
        return self.leave(self.coarse(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latents `[B, T, D]` to sound `[B, T * 1920]`."""

    def __init__(self, config: RvqConfig) -> None:
        super().__init__()
        self.channels = config.decoder_channels
        self.enter = nn.Linear(config.latent_dim, config.frame_channels)
        self.coarse = CausalStack(config.frame_channels, config.frame_depth)
        self.unfold = nn.Linear(config.frame_channels, STEPS * config.decoder_channels)
        self.fine = CausalStack(config.decoder_channels, config.decoder_depth)
        self.source = HarmonicNoise(config.decoder_channels, voicing=config.voicing)

    def controls(self, latent: Tensor) -> Controls:
        """The whole sequence at once: what the vocoder is to do."""
        batch, frames, _ = latent.shape
        x = self.unfold(self.coarse(self.enter(latent)))
        return self.source.controls(self.fine(x.reshape(batch, frames * STEPS, self.channels)))

    def forward(self, controls: Controls) -> Tensor:
        """The sound of a whole sequence; in training the noise begins anywhere."""
        state = self.source.initial_state(len(controls.pitch))
        if self.training:
            state.position = torch.randint(NOISE_SAMPLES, state.position.shape)
        return self.source.step(controls, state)
