"""`RvqCodec`: a small causal neural codec that one can train at home, for when Mimi cannot be had.

Log-mel frames go through ConvNeXt blocks at 50 Hz and 12.5 Hz to a latent, residual codebooks quantise it, and
ConvNeXt blocks at 12.5 Hz and 100 Hz (as in [Vocos](https://arxiv.org/abs/2306.00814)) drive a vocoder of pulses and
noise. The first codebook is trained to carry the phonemes, as Mimi's first is trained to carry WavLM's features
([Moshi, section 3.3](https://arxiv.org/abs/2410.00037)). The sound comes out 30 ms late: the vocoder's windows overlap.

Shapes: B batch, K codebooks, T frames (12.5 Hz), S samples, C channels.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from csm_model.codec.quantizer import ResidualQuantizer
from csm_model.codec.rvq_decoder import RvqSlotDecoder
from csm_model.codec.rvq_network import Decoder, Encoder, RvqConfig
from csm_model.codec.slots import SlotStream
from csm_model.config import built
from csm_model.errors import ArtifactError, InputError, shown
from csm_model.files import atomic_path, private_copy, read_json, write_json
from csm_model.frames import FRAME_SAMPLES, frames_of
from csm_model.tensor_files import load_tensors

_SURELY = 2.0  # log odds of a voice before there is anything learnt


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are stored alike."""
    return torch.equal(one.half(), other.half())


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
        total = hashlib.sha256(repr(sorted(self._sizes().items())).encode())
        for name, tensor in sorted(self.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.half().numpy().tobytes())
        return total.hexdigest()

    @property
    def entries(self) -> Tensor:
        """`[K, N, L]`: the vectors whose sum a frame's latent is."""
        return self.quantizer.codebooks

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
        return RvqSlotDecoder(self.decoder, slots, latents=lambda codes: self.quantizer.decode(self.checked(codes)))

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
        """The same codec with more codebooks, the further ones empty until they are fitted, or without the last ones.

        The codes of the codebooks that stay are as they were; an empty codebook, all zeros, adds nothing to them.
        """
        if count == self.num_codebooks:
            return self
        codec = RvqCodec(replace(self.config, num_codebooks=count))
        state = self.state_dict()
        kept = min(count, self.num_codebooks)
        empty = torch.zeros_like(codec.quantizer.codebooks[kept:])
        state["quantizer.codebooks"] = torch.cat([state["quantizer.codebooks"][:kept], empty])
        codec.load_state_dict(state)
        return codec

    def keeps_codes_of(self, other: RvqCodec) -> bool:
        """Whether both make the same codes of a sound, as far as both have codebooks; their decoders do not matter."""
        kept = min(self.num_codebooks, other.num_codebooks)
        mine, its = self.encoder.state_dict(), other.encoder.state_dict()
        return (
            mine.keys() == its.keys()
            and all(_same(mine[name], its[name]) for name in mine)
            and _same(self.quantizer.codebooks[:kept], other.quantizer.codebooks[:kept])
        )

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

    def _sizes(self) -> dict[str, int]:
        """The configuration as it is stored: without voicing, what it was before there was such a thing."""
        sizes = asdict(self.config)
        if not sizes["voicing"]:
            del sizes["voicing"]
        return sizes

    def save(self, folder: Path) -> None:
        """Writes `codec.safetensors` (float16) and then `codec.json`."""
        tensors = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(folder / "codec.safetensors") as partial:
            save_file(tensors, partial)
        write_json(folder / "codec.json", {"kind": "rvq", "config": self._sizes(), "digest": self.digest})

    @classmethod
    def load(cls, folder: Path) -> RvqCodec:
        """Reads what `save` wrote, ready for inference; the digest must be the one stored."""
        stored = read_json(folder / "codec.json")
        if not isinstance(stored, dict) or not isinstance(stored.get("digest"), str):
            raise ArtifactError(f"{folder / 'codec.json'}: does not name the digest of its codec; copy the codec again")
        config = built(RvqConfig, stored.get("config"), f"{folder / 'codec.json'}: config")
        path = folder / "codec.safetensors"
        try:
            with private_copy(path) as (copy, _):
                weights = load_tensors(copy, called=path)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({shown(error)}); copy the codec again") from None
        another = ArtifactError(
            f"{folder}: the weights are not those of this version's RvqCodec; train the codec again"
        )
        largest = max((len(weights), *(size for tensor in weights.values() for size in tensor.shape)))
        if max(asdict(config).values()) > largest:  # sizes that no weight has are given no memory
            raise another
        codec = cls(config)
        try:
            codec.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        except RuntimeError:
            raise another from None
        if codec.digest != stored["digest"]:
            raise ArtifactError(
                f"{folder}: the codec's weights do not match the digest in codec.json; copy the codec again"
            )
        return codec.eval().requires_grad_(False)
