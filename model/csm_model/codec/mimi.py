"""Mimi, the codec of CSM: 24 kHz, 12.5 frames a second, up to 32 codebooks of 2048.

The `moshi` package loads the weights and encodes; `mimi_decoder` decodes.
Source: Défossez et al. 2024, "Moshi: a speech-text foundation model for real-time dialogue"; `moshi/models/loaders.py`.
This is the only module that imports moshi, and it does so when a codec is made. Everything runs in fp32.

Shapes: B batch, K codebooks, T frames, S samples (S = T * 1920).
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csm_model.codec.mimi_decoder import MimiDecoder, MimiShape, MimiSlotDecoder
from csm_model.codec.slots import SlotStream
from csm_model.errors import ArtifactError, AudioError, DigestError, InputError, MissingDependencyError, quoted, shown
from csm_model.files import atomic_path, digest_of, read_json, write_json
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE, frames_of
from csm_model.tensor_files import check_finite, stored_tensors

HUB_REPOSITORY = "kyutai/moshiko-pytorch-bf16"
"""Where Kyutai publishes the weights in moshi's own layout."""

HUB_FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"

MAX_CODEBOOKS = 32

_MOSHI = threading.Lock()
"""moshi keeps its compile switch in a global: one caller at a time."""


class MimiCodec:
    """An `AudioCodec` over moshi's `MimiModel`. Safe to share between threads, but for a slot decoder: that has one."""

    def __init__(self, model: Any, *, num_codebooks: int = MAX_CODEBOOKS) -> None:
        """Takes a `moshi.models.MimiModel` (it is put in eval mode and in fp32); `from_weights` and `load` make one."""
        if not 1 <= num_codebooks <= model.total_codebooks:
            raise InputError(
                f"num_codebooks is {num_codebooks}; Mimi has 1 to {model.total_codebooks}; choose one of these"
            )
        if (model.sample_rate, model.frame_size) != (SAMPLE_RATE, FRAME_SAMPLES):
            raise ArtifactError(
                f"this Mimi makes frames of {model.frame_size} samples at {model.sample_rate} Hz; "
                f"the program's frame is {FRAME_SAMPLES} samples at {SAMPLE_RATE} Hz; use Kyutai's 12.5 Hz weights"
            )
        self._model = model.eval().float().requires_grad_(False)
        self._model.set_num_codebooks(num_codebooks)
        self._digest: str | None = None
        self._decoder: MimiDecoder | None = None

    @classmethod
    def from_weights(
        cls,
        weights: str | Path = HUB_REPOSITORY,
        *,
        num_codebooks: int = MAX_CODEBOOKS,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> MimiCodec:
        """Loads weights in moshi's layout from a file, or by a hub name: `owner/name` or `hf://owner/name/file`.

        Raises `InputError` (no such file), `MissingDependencyError` (no way to the hub), `ArtifactError` (not Mimi).
        """
        path = _find(str(weights), revision)
        loaders = _loaders()
        try:
            stored_tensors(path)
            model = loaders.get_mimi(path, device=device, num_codebooks=MAX_CODEBOOKS)
        except Exception as error:  # the file's content decides what moshi raises
            raise ArtifactError(
                f"{path}: not Mimi weights in moshi's layout ({shown(error)}); use {HUB_FILE} of {HUB_REPOSITORY}"
            ) from None
        for name, tensor in model.state_dict().items():
            check_finite(tensor, f"{path}: {name}")
        return cls(model, num_codebooks=num_codebooks)

    @classmethod
    def load(cls, folder: Path, *, device: str | torch.device = "cpu") -> MimiCodec:
        """Reads `codec.json`: `{"kind": "mimi", "weights": ..., "num_codebooks": 32}`.

        `weights` is a file (relative to the folder) or a hub name; `revision` and `digest` may stand beside it.
        """
        config = read_json(folder / "codec.json")
        if not isinstance(config, dict) or config.get("kind") != "mimi" or not isinstance(config.get("weights"), str):
            raise ArtifactError(
                f'{folder / "codec.json"}: does not describe a Mimi codec; it needs "kind": "mimi" and "weights"'
            )
        weights = config["weights"]
        books, revision, expected = (
            config.get("num_codebooks", MAX_CODEBOOKS), config.get("revision"), config.get("digest"),
        )  # fmt: skip
        for name, value, kind in (
            ("num_codebooks", books, int), ("revision", revision, str), ("digest", expected, str),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, kind | None):
                raise ArtifactError(f"{folder / 'codec.json'}: {name} is {quoted(value)}; copy the codec again")
        if weights.isprintable() and (folder / weights).is_file():
            weights = str(folder / weights)
        codec = cls.from_weights(
            weights, num_codebooks=MAX_CODEBOOKS if books is None else books, revision=revision, device=device
        )
        if expected is not None and expected != codec.digest:
            raise DigestError(
                f"{folder}: the codec's digest is {codec.digest[:12]}, its codec.json names {expected[:12]}; "
                "fetch the weights again or use the folder that the tokens were made with"
            )
        return codec

    @classmethod
    def random(cls, seed: int = 0, *, num_codebooks: int = MAX_CODEBOOKS) -> MimiCodec:
        """A Mimi of the true size with random weights, by moshi's own constructors: to test and to measure with.

        As made, its sound would fade away on the way through the convolutions, its attention would hardly count
        (scale 0.01) and its codebooks would be zero until trained: every code would be 0. Here all three are awake.
        """
        loaders = _loaders()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = loaders.get_mimi(None, num_codebooks=MAX_CODEBOOKS)
            for name, parameter in model.named_parameters():
                if "layer_scale" in name:
                    parameter.fill_(0.3)
                elif parameter.ndim == 3:  # [out, in, kernel]; keeps the variance of a layer's output near its input's
                    parameter.mul_(1.8)
                elif name.endswith("conv.bias"):
                    parameter.zero_()
            for name, buffer in model.named_buffers():
                if name.endswith("embedding_sum"):
                    buffer.normal_(std=0.5)
                elif name.endswith("_initialized"):
                    buffer.fill_(1)
        return cls(model, num_codebooks=num_codebooks)

    def save(self, folder: Path) -> None:
        """Writes `codec.safetensors` and then `codec.json`, which names it and the digest."""
        from safetensors.torch import save_file

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._model.state_dict().items()}
        with atomic_path(folder / "codec.safetensors") as partial:
            save_file(tensors, partial)
        write_json(
            folder / "codec.json",
            {
                "kind": "mimi",
                "weights": "codec.safetensors",
                "num_codebooks": self.num_codebooks,
                "digest": self.digest,
            },
        )

    @property
    def num_codebooks(self) -> int:
        """K, the codebooks in use."""
        return int(self._model.num_codebooks)

    @property
    def codebook_size(self) -> int:
        """2048: CSM's ids 2048 to 2050 are reserved and never reach Mimi."""
        return int(self._model.cardinality)

    @property
    def entries(self) -> None:
        """Not told: a code stands for a vector of either of two spaces."""
        return None

    @property
    def digest(self) -> str:
        """SHA-256 over the configuration and every tensor; worked out once."""
        if self._digest is None:
            tensors = {
                name: [str(tensor.dtype), list(tensor.shape), _digest_of_tensor(tensor)]
                for name, tensor in self._model.state_dict().items()
            }
            config = {"kind": "mimi", "num_codebooks": self.num_codebooks, "model": _loaders()._mimi_config}
            self._digest = digest_of({"config": config, "tensors": tensors})
        return self._digest

    def encode(self, audio: Tensor) -> Tensor:
        """Sound `[B, 1, S]` (float32, -1 to 1) to codes `[B, K, ceil(S / 1920)]` (int64); zeros pad the end."""
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] == 0:
            raise AudioError(
                f"audio has the shape {list(audio.shape)}; Mimi takes [batch, 1, samples], one sample or more"
            )
        padding = frames_of(audio.shape[2]) * FRAME_SAMPLES - audio.shape[2]
        whole = torch.nn.functional.pad(audio.to(torch.float32), (0, padding))
        with _exclusive():
            codes: Tensor = self._model.encode(whole)
        return codes.clone()  # an ordinary tensor again: one made in inference mode may not be written to outside it

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, K, T]` to sound `[B, 1, T * 1920]`; `InputError` for an id that is no code (2048 to 2050)."""
        self._check(codes)
        return self.streaming_decoder(codes.shape[0]).step(codes).clone()

    def streaming_decoder(self, batch_size: int = 1) -> SlotStream:
        """A fresh streaming state for `batch_size` streams."""
        return SlotStream(self.slot_decoder(batch_size))

    def slot_decoder(self, slots: int) -> MimiSlotDecoder:
        """Fresh state for `slots` streams that come and go: 9 MB each, most of it 10 s of keys and values."""
        with _exclusive():
            if self._decoder is None:
                quantizer = self._model.quantizer
                layers = (*quantizer.rvq_first.vq.layers, *quantizer.rvq_rest.vq.layers)[: self.num_codebooks]
                table = torch.stack([layer._codebook.embedding for layer in layers])
                for layer, entries in zip(layers, table, strict=True):
                    layer._codebook._embedding = entries  # moshi's own copy, which it encodes with, goes
                self._decoder = MimiDecoder(self._model.state_dict(), table, MimiShape())
        return MimiSlotDecoder(self._decoder, slots, self._check)

    def _check(self, codes: Tensor) -> None:
        if codes.ndim != 3 or codes.shape[1] != self.num_codebooks:
            raise InputError(
                f"codes have the shape {list(codes.shape)}; this codec takes [batch, {self.num_codebooks}, frames]"
            )
        if codes.is_floating_point():
            raise InputError(f"codes are {codes.dtype}; they are integers from 0 to {self.codebook_size - 1}")
        wrong = (codes < 0) | (codes >= self.codebook_size)
        if bool(wrong.any()):
            stream, codebook, frame = (int(index) for index in wrong.nonzero()[0])
            raise InputError(
                f"code {int(codes[stream, codebook, frame])} at frame {frame}, codebook {codebook}; Mimi knows 0 to "
                f"{self.codebook_size - 1}, the ids above are reserved; take out padding and end frames before decoding"
            )


@contextmanager
def _exclusive() -> Iterator[None]:
    """moshi for one caller, without gradients and without `torch.compile` (which wants a C++ compiler on a CPU)."""
    from moshi.utils.compile import no_compile

    with _MOSHI, torch.inference_mode(), no_compile():
        yield


def _loaders() -> Any:
    try:
        from moshi.models import loaders
    except ImportError as error:
        raise MissingDependencyError(
            f"the Mimi codec needs the moshi package ({error}); install csm-foundry[train]"
        ) from None
    return loaders


def _digest_of_tensor(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def _find(weights: str, revision: str | None) -> Path:
    """The weights' file on this machine; downloads it where `weights` is a hub name."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    name = re.fullmatch(r"(hf://)?([\w.-]+/[\w.-]+)(?:/(.+))?", weights)
    hub = name is not None and (name[1] or (name[3] is None and path.suffix not in {".safetensors", ".pt", ".bin"}))
    if name is None or not hub or path.exists():
        raise InputError(
            f"{weights}: no such file of Mimi weights; give a file, or a hub name such as {HUB_REPOSITORY}"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import ENDPOINT

    repository, file = name[2], name[3] or HUB_FILE
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except (OSError, ValueError) as error:  # all of the hub's and of the network's errors are one of the two
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingDependencyError(
            f"{file} of {repository} cannot be had from {ENDPOINT} ({reason}); "
            "fetch that file where there is a network and give its path as the weights"
        ) from None
