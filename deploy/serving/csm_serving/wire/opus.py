"""One Ogg Opus stream that grows with every chunk: RFC 6716 (the codec), RFC 3533 (Ogg), RFC 7845 (Opus in Ogg).

PyAV brings libopus; the pages around its packets are written and read here, because a page must leave with every
chunk. A chunk of 80 ms is a page of four packets of 20 ms. The codec is 6.5 ms behind: the page that ends the stream
brings the rest, and says where the sound is over to the sample.

Opus counts at 48 kHz, whatever is put in. What was put in at 24 kHz has nothing above 12 kHz, so that a decoder at
24 kHz gives every second sample of one at 48 kHz.

Shapes: S samples of 24 kHz mono sound, -1 to 1.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import numpy as np

from csm_model.errors import MissingDependencyError
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_serving.wire.errors import ServingError
from csm_serving.wire.tensors import Array, Samples

_PACKET: Final = SAMPLE_RATE // 50
_TICKS: Final = 48_000 // SAMPLE_RATE
"""Of Opus's clock, a sample."""
_OPTIONS: Final = {"frame_duration": "20", "application": "audio", "vbr": "constrained", "compression_level": "5"}
"""A complexity of 5 takes a third of the time of 10; `audio` keeps phases, so that the sound is where it was."""
_BEGIN, _END = 2, 4
_HEADER: Final = struct.Struct("<4sBBqIIIB")
_MAX_LACING: Final = 255
_NO_GRANULE: Final = -1
_TAGS: Final = b"OpusTags" + struct.pack("<I", 11) + b"csm-foundry" + struct.pack("<I", 0)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingDependencyError("sound as Opus needs PyAV: pip install av, or ask for float32 or int16") from None
    return av


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    return table


_CRC: Final = _crc_table()


def _checksum(page: bytes) -> int:
    """CRC-32 of RFC 3533: no reflection, no inversion."""
    value = 0
    for byte in page:
        value = ((value << 8) & 0xFFFFFFFF) ^ _CRC[(value >> 24) ^ byte]
    return value


def _page(packets: list[bytes], *, flags: int, granule: int, serial: int, number: int) -> bytes:
    """A page of whole packets."""
    lacing = b"".join(bytes([_MAX_LACING] * (len(packet) // 255) + [len(packet) % 255]) for packet in packets)
    header = (b"OggS", 0, flags, granule, serial, number)
    body = lacing + b"".join(packets)
    blank = _HEADER.pack(*header, 0, len(lacing)) + body
    return _HEADER.pack(*header, _checksum(blank), len(lacing)) + body


class OpusEncoder:
    """The encoder of one stream: gives `AUDIO_OPUS` for every chunk, and the last page for None.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(self, *, bitrate: int = 32_000) -> None:
        av = _av()
        self._frame = av.AudioFrame
        self._codec = av.CodecContext.create("libopus", "w")
        self._codec.sample_rate, self._codec.layout, self._codec.format = SAMPLE_RATE, "mono", "flt"
        self._codec.time_base, self._codec.bit_rate = Fraction(1, SAMPLE_RATE), bitrate
        self._codec.options = _OPTIONS
        self._codec.open()
        self._skip = int.from_bytes(self._codec.extradata[10:12], "little")
        self._serial = secrets.randbits(32)
        self._pages = 0
        self._samples = 0

    def __call__(self, audio: Samples | None) -> dict[str, Array]:
        """The next bytes of the stream; nothing for None where nothing came before it."""
        if audio is None:
            written = self._last() if self._samples else b""
        else:
            written = (b"" if self._samples else self._head()) + self._next(audio)
        return {"AUDIO_OPUS": np.array([written], np.object_)} if written else {}

    def _head(self) -> bytes:
        return self._write([bytes(self._codec.extradata)], 0, flags=_BEGIN) + self._write([_TAGS], 0)

    def _next(self, audio: Samples) -> bytes:
        assert audio.size % _PACKET == 0
        packets = []
        for start in range(0, audio.size, _PACKET):
            piece = audio[None, start : start + _PACKET]
            frame = self._frame.from_ndarray(np.ascontiguousarray(piece, np.float32), format="flt", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, self._samples
            self._samples += _PACKET
            packets += [bytes(packet) for packet in self._codec.encode(frame)]
        return self._write(packets, self._samples * _TICKS)

    def _last(self) -> bytes:
        packets = [bytes(packet) for packet in self._codec.encode(None)]
        return self._write(packets, self._samples * _TICKS + self._skip, flags=_END)

    def _write(self, packets: list[bytes], granule: int, *, flags: int = 0) -> bytes:
        page = _page(packets, flags=flags, granule=granule, serial=self._serial, number=self._pages)
        self._pages += 1
        return page


def _floats(sound: Array) -> Samples:
    whole = sound.dtype == np.int16
    return sound.astype(np.float32) / np.float32(32_768) if whole else sound.astype(np.float32)


class OpusDecoder:
    """The decoder of one stream: takes its bytes as they come, cut anywhere, and gives the samples `[S]` they complete.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(self) -> None:
        av = _av()
        self._codec = av.CodecContext.create("libopus", "r")
        self._packet, self._error = av.Packet, av.FFmpegError
        self._bytes = b""
        self._begun = b""
        self._headers = 0
        self._skip = 0
        self._ticks = 0

    def __call__(self, encoded: bytes) -> Samples:
        """The samples that are complete now; raises `ServingError` for what is no Ogg Opus stream of one channel."""
        self._bytes += encoded
        sounds = [np.zeros(0, np.float32)]
        for packets, last_granule in self._pages():
            sounds += [self._decode(packet) for packet in packets]
            if last_granule is not None:
                beyond = self._ticks - last_granule
                whole = np.concatenate(sounds)
                return whole[: whole.size - max(0, beyond) // _TICKS]
        return np.concatenate(sounds)

    def _pages(self) -> Iterator[tuple[list[bytes], int | None]]:
        """The packets that each page completes, and where the sound is over with the page that ends the stream."""
        while len(self._bytes) >= _HEADER.size:
            magic, version, flags, granule, *_, segments = _HEADER.unpack_from(self._bytes)
            if magic != b"OggS" or version != 0:
                raise ServingError("the server's sound is no Ogg stream: it is broken, or cut in the middle")
            start = _HEADER.size + segments
            lacing = self._bytes[_HEADER.size : start]
            if len(lacing) < segments or len(self._bytes) < start + sum(lacing):
                return
            packets = []
            for size in lacing:
                self._begun += self._bytes[start : start + size]
                start += size
                if size < _MAX_LACING:
                    packets.append(self._begun)
                    self._begun = b""
            self._bytes = self._bytes[start:]
            yield packets, granule if flags & _END and granule != _NO_GRANULE else None

    def _decode(self, packet: bytes) -> Samples:
        if self._headers < 2:
            self._headers += 1
            if self._headers == 1:
                self._open(packet)
            return np.zeros(0, np.float32)
        try:
            frames = self._codec.decode(self._packet(packet))
        except self._error as error:
            raise ServingError(f"the server's sound cannot be decoded: {error}") from None
        sound = np.concatenate(
            [np.zeros(0, np.float32), *(_floats(frame.to_ndarray().reshape(-1)) for frame in frames)]
        )
        before, self._ticks = self._ticks, self._ticks + sound.size
        # The first samples are the codec's own; from there on every second one.
        samples: Samples = sound[max(0, self._skip - before) :: _TICKS]
        return samples

    def _open(self, head: bytes) -> None:
        if head[:8] != b"OpusHead" or head[9:10] != b"\x01":
            raise ServingError("the server's sound is no Opus stream of one channel")
        self._skip = int.from_bytes(head[10:12], "little")
        # Without the head the codec skips nothing by itself.
        self._codec.sample_rate, self._codec.layout, self._codec.format = 48_000, "mono", "flt"
        self._codec.open()


assert FRAME_SAMPLES % _PACKET == 0
