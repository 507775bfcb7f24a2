"""Sound files, read from their beginning to their end in blocks: a long file takes no more memory than a short one.

libsndfile reads what it can, bit for bit; PyAV (FFmpeg) reads the containers and codecs that libsndfile cannot. Which
of them a file is for follows from its name: FFmpeg finds sound in many things, random bytes among them, if it is let.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from csm_components.ingest.archives import member_of, open_member
from csm_model.errors import AudioError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Samples = NDArray[np.float32]
"""Sound, -1 to 1."""

SNDFILE_SUFFIXES = frozenset({".flac", ".wav", ".opus", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".au", ".sph", ".w64"})
"""File names whose sound libsndfile reads."""
AV_SUFFIXES = frozenset({".m4a", ".m4b", ".mp4", ".mov", ".aac", ".amr", ".3gp", ".webm", ".mka", ".mkv", ".wma"})
"""File names whose sound PyAV reads."""
AUDIO_SUFFIXES = SNDFILE_SUFFIXES | AV_SUFFIXES
"""File names that are taken for sound."""

BLOCK = 1 << 16
"""Samples of a channel that are read at once."""
_NAMES_ITS_LENGTH = ("mov", "matroska", "asf")
"""Containers whose header says how long they are; of the others FFmpeg guesses from their size."""
_TORN_SECONDS = 0.25
"""What a container may name too much: an encoder's padding, a picture that stays longer."""
_GAP_SECONDS = 0.05
"""From this on a hole in a container's times is a pause, which its encoder left out; below, it is rounding."""
_LONGEST_GAP_SECONDS = 3600.0

Blocks = Generator[Samples, None, None]
"""Blocks `[S, C]`."""


@dataclass(frozen=True, kw_only=True)
class OpenSound:
    """A sound file that is being read."""

    rate: int
    """Samples of a channel in a second."""
    channels: int
    codec: str
    """How its samples are packed, as the library that reads them calls it."""
    blocks: Callable[[], Blocks]
    """Reads it, once: blocks `[S, C]` (float32, -1 to 1). Raises `AudioError` where it is damaged or ends early."""


@contextmanager
def open_sound(path: Path) -> Iterator[OpenSound]:
    """Opens a sound file; raises `AudioError` for one that is not there, or is none.

    Args:
        path: the file, or `ARCHIVE::MEMBER`.
    """
    member = member_of(str(path))
    source: Path | io.BytesIO = path if member is None else open_member(str(path))
    if member is None and not path.is_file():
        raise AudioError(f"{path}: {'cannot be read as sound (is a folder)' if path.exists() else 'no such file'}")
    by_av = Path(member or path.name).suffix.lower() in AV_SUFFIXES
    with (_open_av if by_av else _open_sndfile)(path, source) as sound:
        yield sound


@contextmanager
def _open_sndfile(path: Path, source: Path | io.BytesIO) -> Iterator[OpenSound]:
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise _refused(path, error) from None
    with file:

        def blocks() -> Blocks:
            found = 0
            while True:
                try:
                    block: Samples = file.read(BLOCK, dtype="float32", always_2d=True)
                except (soundfile.SoundFileError, OSError, RuntimeError) as error:
                    raise _refused(path, error) from None
                if not len(block):
                    break
                found += len(block)
                yield _finite(path, block)
            if found < file.frames:
                raise AudioError(f"{path}: holds {found} of the {file.frames} samples that its header names")

        yield OpenSound(
            rate=file.samplerate,
            channels=file.channels,
            codec=f"{file.format} {file.subtype}".lower(),
            blocks=blocks,
        )


def _finite(path: Path, block: Samples) -> Samples:
    if not np.isfinite(block).all():
        raise AudioError(f"{path}: holds samples that are not finite numbers")
    return block


def _refused(path: Path, error: Exception) -> AudioError:
    reason = getattr(error, "error_string", None) or error
    if "does not exist" in str(reason):  # libsndfile's word for an MP3 in which it finds none
        reason = "it is not what its name says"
    if _is_shortened(path):
        reason = "it is packed with shorten; unpack it, such as by sph2pipe -f wav"
    return AudioError(f"{path}: cannot be read as sound ({str(reason).rstrip('.')})")


def _is_shortened(path: Path) -> bool:
    """Whether a file is SPHERE whose header says that its samples are packed with shorten."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    return head.startswith(b"NIST_1A") and b"shorten" in head


@contextmanager
def _open_av(path: Path, source: Path | io.BytesIO) -> Iterator[OpenSound]:
    import av  # of an extra, which sound that libsndfile reads does not need

    try:
        container = av.open(str(source) if isinstance(source, Path) else source, mode="r")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _no_av(path, error) from None
    with container:
        if not container.streams.audio:
            raise AudioError(f"{path}: cannot be read as sound (it holds no sound)")
        stream = container.streams.audio[0]
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        if not rate or not channels:
            raise AudioError(f"{path}: cannot be read as sound (it names no rate or no channels)")
        seconds = _named_seconds(container, stream)

        def blocks() -> Blocks:
            found = 0
            try:
                for block in _av_blocks(path, container, stream, rate):
                    found += len(block)
                    yield _finite(path, block)
            except (av.error.FFmpegError, OSError, ValueError) as error:
                raise _no_av(path, error) from None
            if not found:
                raise AudioError(f"{path}: cannot be read as sound (nothing in it can be decoded)")
            if seconds is not None and found / rate < seconds - _TORN_SECONDS:
                raise AudioError(f"{path}: holds {found / rate:.2f} of the {seconds:.2f} s that its header names")

        yield OpenSound(rate=rate, channels=channels, codec=str(stream.codec_context.name), blocks=blocks)


def _no_av(path: Path, error: Exception) -> AudioError:
    reason = getattr(error, "strerror", None) or error
    return AudioError(f"{path}: cannot be read as sound ({str(reason).rstrip('.')})")


def _named_seconds(container: InputContainer, stream: AudioStream) -> float | None:
    """How long a stream is by its header; none where that does not say."""
    if not container.format.name.startswith(_NAMES_ITS_LENGTH):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / 1_000_000)
    return None


def _av_blocks(path: Path, container: Any, stream: AudioStream, rate: int) -> Blocks:
    """What FFmpeg decodes, at the times that the container gives: a pause that was left out is silence again."""
    import av

    flat = av.AudioResampler(format="flt", layout=stream.codec_context.layout, rate=rate)
    first: float | None = None
    position = 0
    for frame in container.decode(stream):
        if frame.time is not None:
            first = frame.time - position / rate if first is None else first
            gap = frame.time - first - position / rate
            if gap > _LONGEST_GAP_SECONDS:
                raise AudioError(f"{path}: its times jump by {gap:.0f} s after {position / rate:.0f} s")
            if gap > _GAP_SECONDS:
                for size in _pieces(round(gap * rate)):
                    position += size
                    yield np.zeros((size, stream.codec_context.channels), np.float32)
        frame.pts = None  # else the resampler fills holes by itself, and by another rule
        for piece in flat.resample(frame):
            block = _samples(piece)
            position += len(block)
            yield block
    for piece in flat.resample(None):
        yield _samples(piece)


def _samples(frame: AudioFrame) -> Samples:
    """A frame of interleaved float32: `[S, C]`."""
    return frame.to_ndarray().reshape(-1, len(frame.layout.channels)).astype(np.float32, copy=False)


def _pieces(length: int) -> Iterator[int]:
    while length > 0:
        yield min(length, BLOCK)
        length -= BLOCK
