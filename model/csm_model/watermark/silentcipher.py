"""SilentCipher (Singh et al., 2024, arXiv 2406.03822; silentcipher 1.0.5, MIT), from a folder of its weights.

It marks a whole sound, not a live stream: its networks look to both sides, and level the sound by the power of all of
it. The weights (`hparams.yaml`, `enc_c.ckpt`, `dec_c.ckpt`, `dec_m_0.ckpt`) are published by its authors and given here
as a folder; the networks are built here, because the package asks for torch 2.0 at most.

Shapes: S samples, N bins, T windows; networks take `[1, channels, N, T]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_model.errors import ArtifactError, AudioError, InputError, MissingDependencyError, shown
from csm_model.frames import SAMPLE_RATE
from csm_model.watermark.base import Finding, Report, SlotMarker

MESSAGE = (99, 115, 109, 0, 0)
"""The five bytes that are written: `csm` and two that say nothing."""
_POWER = 0.002837200844477648  # of the recordings it was trained on (VCTK)
_ENCODER_CHANNELS = 32
_FILES = ("hparams.yaml", "enc_c.ckpt", "dec_c.ckpt", "dec_m_0.ckpt")


_Part = TypeVar("_Part", bound=nn.Module)


class _Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.gate = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x) * torch.sigmoid(self.gate(x)))
        return out


class _Encoder(nn.Module):
    def __init__(self, layers: int, symbols: int, band: int) -> None:
        super().__init__()
        self.main = nn.Sequential(*(_Layer(_ENCODER_CHANNELS if n else 1, _ENCODER_CHANNELS) for n in range(layers)))
        self.linear = nn.Linear(symbols, band)


class _CarrierDecoder(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        middle = (_Layer(96, 96) for _ in range(layers - 1))
        self.main = nn.Sequential(*middle, _Layer(96, 1, kernel=1))


class _MessageDecoder(nn.Module):
    def __init__(self, symbols: int, band: int, channels: int = 128, layers: int = 10) -> None:
        super().__init__()
        sizes = [1, *[channels] * (layers - 1), symbols]
        parts = ((nn.Dropout(0), _Layer(sizes[n], sizes[n + 1])) for n in range(layers))
        self.main = nn.Sequential(*(part for pair in parts for part in pair))
        self.linear = nn.Linear(band, 1)


class SilentCipher:
    """The watermark and its detector, with the weights in `folder`.

    Raises:
        InputError: no such folder, or files missing.
        ArtifactError: weights of other sizes than `hparams.yaml` says, or damaged ones.
        MissingDependencyError: no pyyaml to read `hparams.yaml` with.
    """

    def __init__(self, folder: Path) -> None:
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"{folder}: no weights of silentcipher ({', '.join(missing)} missing); give the folder of a model, "
                "such as 44_1_khz/73999_iteration"
            )
        self._options = options = _read_options(folder / "hparams.yaml")
        self._rate, self._size, self._hop = int(options["SR"]), int(options["N_FFT"]), int(options["HOP_LENGTH"])
        self._band, self._symbols = int(options["message_band_size"]), int(options["message_dim"])
        self._length = int(options["message_len"])
        if self._length != 4 * len(MESSAGE) + 1 or self._symbols != 5:
            raise ArtifactError(f"{folder}: a message of {self._length} symbols of {self._symbols}; must be 21 of 5")
        self._encoder = _load(_Encoder(int(options["enc_n_layers"]), self._symbols, self._band), folder / "enc_c.ckpt")
        self._carrier = _load(_CarrierDecoder(int(options["dec_c_n_layers"])), folder / "dec_c.ckpt")
        self._message = _load(_MessageDecoder(self._symbols, self._band), folder / "dec_m_0.ckpt")
        pairs = [byte >> shift & 3 for byte in MESSAGE for shift in (6, 4, 2, 0)]
        self._said = torch.tensor([*(pair + 1 for pair in pairs), 0])  # 0 ends the message

    @property
    def kind(self) -> str:
        """See `Watermark`."""
        return "silentcipher"

    def slot_marker(self, slots: int) -> SlotMarker:
        """Raises `InputError`: it needs the whole sound."""
        raise InputError("watermark silentcipher marks whole sounds, not live streams; serve with perth")

    @torch.inference_mode()
    def mark(self, audio: Tensor) -> Tensor:
        """See `Watermark`; silence comes back as it is."""
        power = audio.square().mean() if len(audio) else torch.tensor(0.0)
        if power == 0:
            return audio
        sound = _resample(audio, SAMPLE_RATE, self._rate) * (_POWER / power).sqrt()
        spectrum = self._stft(sound)
        carrier = spectrum.abs()[None, None]
        windows = carrier.shape[3]
        said = F.one_hot(self._said, self._symbols).float().repeat(-(-windows // self._length), 1)[:windows]
        message = F.pad(self._encoder.linear(said).T[None, None], (0, 0, 0, carrier.shape[2] - self._band))
        heard = self._encoder.main(carrier)
        together = torch.cat([heard, carrier.expand_as(heard), message.expand_as(heard)], dim=1)
        added = self._carrier.main(together)
        if self._options.get("ensure_negative_message"):
            added = added.abs()
        added[:, :, self._band :] = 0
        if not self._options.get("no_normalization"):
            added = added / added.square().mean(2, keepdim=True).sqrt() / 10 ** (self._options["message_sdr"] / 20)
        if self._options.get("frame_level_normalization"):
            added = added * carrier.square().mean(2, keepdim=True).sqrt()
        elif self._options.get("utterance_level_normalization"):
            added = added * carrier.square().mean((2, 3), keepdim=True).sqrt()
        if self._options.get("ensure_negative_message"):
            marked = F.relu(carrier - added)
        elif self._options.get("ensure_constrained_message"):
            marked = carrier + added.clamp(-carrier, carrier)
        else:
            marked = (carrier + added).abs()
        sound = torch.istft(
            torch.polar(marked[0, 0], spectrum.angle()),
            self._size,
            self._hop,
            window=torch.hann_window(self._size),
            length=len(sound),
        )
        back = _resample(sound * (power / _POWER).sqrt(), self._rate, SAMPLE_RATE)
        return F.pad(back, (0, max(0, len(audio) - len(back))))[: len(audio)].clamp(-1, 1)

    @torch.inference_mode()
    def find(self, audio: Tensor) -> Report:
        """See `Detector`. How sure it is, is the share of the repeated messages that agree."""
        seconds = len(audio) / SAMPLE_RATE
        sound = _resample(audio, SAMPLE_RATE, self._rate)
        if len(sound) // self._hop < self._length:
            raise AudioError(f"a sound of {seconds:.2f} s holds no whole message of silentcipher; give a longer one")
        power = sound.square().mean()
        presence, said = 0.0, None
        if power > 0:
            carrier = self._stft(sound * (_POWER / power).sqrt()).abs()[None, None]
            heard = self._message.main(carrier[:, :, : self._band]).transpose(2, 3)
            symbols = self._message.linear(heard)[0, :, :, 0].argmax(0)
            repeats = symbols[: len(symbols) // self._length * self._length].view(-1, self._length)
            agreed = repeats.mode(dim=0).values
            presence = float((repeats == agreed).float().mean())
            said = _bytes_of(agreed)
        found = Finding(
            begin=0.0,
            end=seconds,
            marked=said is not None and presence > 0.5,
            presence=presence,
            chance=1.0,
            payload=None if said is None or presence <= 0.5 else int.from_bytes(said, "big"),
        )
        return Report(whole=found, windows=())

    def _stft(self, sound: Tensor) -> Tensor:
        padded = F.pad(sound, (0, self._size - len(sound) % self._size))
        window = torch.hann_window(self._size)
        return torch.stft(padded, self._size, self._hop, window=window, return_complex=True)


def _bytes_of(symbols: Tensor) -> bytes | None:
    """The message in the symbols that repeat, wherever in it they begin; None where nothing ends it."""
    ends = (symbols == 0).nonzero()
    if len(ends) != 1:
        return None
    end = int(ends[0, 0])
    pairs = (torch.cat([symbols[end + 1 :], symbols[:end]]) - 1).view(-1, 4)
    return bytes((pairs * torch.tensor([64, 16, 4, 1])).sum(1).tolist())


def _resample(sound: Tensor, rate: int, to: int) -> Tensor:
    """A whole sound at another rate, by cutting or padding its spectrum: exact for what both rates hold."""
    if rate == to or not len(sound):
        return sound
    length = round(len(sound) * to / rate)
    resampled: Tensor = torch.fft.irfft(torch.fft.rfft(sound)[: length // 2 + 1], length)
    return resampled * (length / len(sound))


def _read_options(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise MissingDependencyError(f"{path}: pyyaml is needed to read it: pip install pyyaml") from None
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        options = None
    needed = {"SR", "N_FFT", "HOP_LENGTH", "message_band_size", "message_dim", "message_len", "message_sdr"}
    needed |= {"enc_n_layers", "dec_c_n_layers"}
    if not isinstance(options, dict) or needed - set(options):
        raise ArtifactError(f"{path}: not the options of a model of silentcipher; fetch the folder again")
    return options


def _load(module: _Part, path: Path) -> _Part:
    """Puts stored weights, of one process or of torch's data parallelism, into a network."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    except Exception as error:  # the file's content decides what torch raises
        raise ArtifactError(f"{path}: not weights of this network ({shown(error)}); fetch the folder again") from None
    return module.eval()
