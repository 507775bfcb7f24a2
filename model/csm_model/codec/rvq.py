"""`RvqCodec`: a small causal neural codec that one can train at home, for when Mimi cannot be had.

Log-mel frames go through ConvNeXt blocks at 50 Hz and 12.5 Hz to a latent, four residual codebooks quantise it, and
ConvNeXt blocks at 12.5 Hz and 100 Hz (as in [Vocos](https://arxiv.org/abs/2306.00814)) drive a vocoder of pulses and
noise. The first codebook is trained to carry the phonemes, as Mimi's first is trained to carry WavLM's features
([Moshi, section 3.3](https://arxiv.org/abs/2410.00037)). The sound comes out 30 ms late: the vocoder's windows overlap.

Shapes: B batch, K codebooks, T frames (12.5 Hz), S samples, C channels.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from csm_model.codec.blocks import CausalStack, LogMel
from csm_model.codec.pitch import HOP
from csm_model.codec.quantizer import ResidualQuantizer
from csm_model.codec.rvq_decoder import RvqSlotDecoder
from csm_model.codec.slots import SlotStream
from csm_model.codec.source import NOISE_SAMPLES, WINDOW, Controls, HarmonicNoise
from csm_model.errors import ArtifactError, InputError
from csm_model.files import atomic_path, read_json, write_json
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE, frames_of

STEPS = FRAME_SAMPLES // HOP  # of 100 Hz in a frame
FOLD = 4  # steps of 50 Hz in a frame
_SURELY = 2.0  # log odds of a voice before there is anything learnt


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
    """Whether the decoder says where there is a voice. Codecs from before it could do so do not."""

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


class RvqCodec(nn.Module):
    """The trainable codec; implements `csm_model.codec.base.AudioCodec`."""

    def __init__(self, config: RvqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualQuantizer(
            num_codebooks=config.num_codebooks, codebook_size=config.codebook_size, dim=config.latent_dim
        )
        self.decoder = Decoder(config)

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.config.num_codebooks

    @property
    def codebook_size(self) -> int:
        """Entries of a codebook."""
        return self.config.codebook_size

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration and the weights, as they are stored (float16)."""
        config = asdict(self.config)
        if not config["voicing"]:
            del config["voicing"]  # as it was before there was such a thing
        total = hashlib.sha256(repr(sorted(config.items())).encode())
        for name, tensor in sorted(self.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.half().numpy().tobytes())
        return total.hexdigest()

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """Sound `[B, 1, S]` to codes `[B, K, ceil(S / 1920)]`."""
        if audio.dim() != 3 or audio.shape[1] != 1 or audio.shape[2] == 0:
            raise InputError(
                f"sound of shape {tuple(audio.shape)}: the codec takes [batch, 1, samples], at least one sample"
            )
        samples = audio.shape[-1]
        whole = F.pad(audio[:, 0], (0, frames_of(samples) * FRAME_SAMPLES - samples))
        return self.quantizer.encode(self.encoder(whole))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, k, T]` to sound `[B, 1, T * 1920]`; the first k of K codebooks are enough, at lower quality."""
        return self.streaming_decoder(len(self.checked(codes))).step(codes)

    def streaming_decoder(self, batch_size: int = 1) -> SlotStream:
        """A fresh stream."""
        return SlotStream(self.slot_decoder(batch_size))

    def slot_decoder(self, slots: int) -> RvqSlotDecoder:
        """Fresh state for `slots` streams, over the weights as they are now."""
        return RvqSlotDecoder(self, slots)

    def with_voicing(self) -> RvqCodec:
        """The same codec, of which the decoder can learn where there is a voice; to begin with there is one everywhere.

        Codes stay as they are.
        """
        if self.config.voicing:
            return self
        codec = RvqCodec(replace(self.config, voicing=True))
        state = self.state_dict()
        for name, value in (("weight", 0.0), ("bias", _SURELY)):
            whole = state[f"decoder.source.head.{name}"]
            state[f"decoder.source.head.{name}"] = torch.cat([whole, torch.full_like(whole[:1], value)])
        codec.load_state_dict(state)
        return codec

    def with_codebooks(self, count: int) -> RvqCodec:
        """The same codec with more codebooks, the further ones not trained yet, or without the last ones.

        The codes of the codebooks that stay are as they were.
        """
        if count == self.num_codebooks:
            return self
        codec = RvqCodec(replace(self.config, num_codebooks=count))
        state = self.state_dict()
        kept = min(count, self.num_codebooks)
        # Entries near nothing: to begin with, a further codebook adds little to what the decoder knows.
        fresh = 0.01 * torch.randn_like(codec.quantizer.codebooks[kept:])
        state["quantizer.codebooks"] = torch.cat([state["quantizer.codebooks"][:kept], fresh])
        codec.load_state_dict(state)
        return codec

    def checked(self, codes: Tensor) -> Tensor:
        """Refuses codes that no codebook has."""
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_codebooks:
            raise InputError(
                f"codes of shape {tuple(codes.shape)}: the codec takes [batch, 1..{self.num_codebooks}, frames]"
            )
        if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < self.codebook_size):
            raise InputError(
                f"code {int(codes.max() if codes.min() >= 0 else codes.min())} is outside 0..{self.codebook_size - 1}: "
                "were these codes made by another codec?"
            )
        return codes

    def save(self, folder: Path) -> None:
        """Writes `codec.safetensors` (float16) and then `codec.json`."""
        tensors = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(folder / "codec.safetensors") as partial:
            save_file(tensors, partial)
        write_json(folder / "codec.json", {"kind": "rvq", "config": asdict(self.config), "digest": self.digest})

    @classmethod
    def load(cls, folder: Path) -> RvqCodec:
        """Reads what `save` wrote, ready for inference; the digest must be the one stored."""
        stored = read_json(folder / "codec.json")
        codec = cls(RvqConfig(**stored["config"]))
        try:
            weights = load_file(folder / "codec.safetensors")
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{folder / 'codec.safetensors'}: cannot be read ({error}); copy the codec again"
            ) from None
        try:
            codec.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        except RuntimeError:
            raise ArtifactError(
                f"{folder}: the weights are not those of this version's RvqCodec; train the codec again"
            ) from None
        if codec.digest != stored["digest"]:
            raise ArtifactError(
                f"{folder}: the codec's weights do not match the digest in codec.json; copy the codec again"
            )
        return codec.eval().requires_grad_(False)
