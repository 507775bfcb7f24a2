"""Sound as it travels: rounded once, or one Opus stream whose every chunk can be heard at once."""

from __future__ import annotations

import io
import itertools
import sys

import numpy as np
import pytest
import soundfile

from csm_model.errors import MissingDependencyError
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_serving.wire import messages
from csm_serving.wire.encodings import decoder_of, encode_int16, encoder_of
from csm_serving.wire.errors import ServingError
from csm_serving.wire.protocol import Chunk, End

FRAMES = 25
OPUS_DELAY = 156  # samples that libopus holds back at 24 kHz


def tones(frames: int = FRAMES) -> np.ndarray:
    """A voice of sorts: harmonics of a gliding pitch, with pauses."""
    time = np.arange(frames * FRAME_SAMPLES) / SAMPLE_RATE
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * time)) / SAMPLE_RATE
    voice = sum(np.sin(pitch * harmonic) / harmonic for harmonic in range(1, 12))
    return (0.2 * voice * (np.sin(2 * np.pi * 1.5 * time) > -0.7)).astype(np.float32)


def travel(audio: np.ndarray, encoding: str) -> tuple[list[np.ndarray], list[bytes], End]:
    """What the client makes of each response, the bytes of each, and the end."""
    encode, decode = encoder_of(encoding), decoder_of(encoding)  # type: ignore[arg-type]
    heard, encoded = [], []
    for index, piece in enumerate(audio.reshape(-1, FRAME_SAMPLES)):
        chunk = Chunk(audio=piece, frame_index=index, codes=np.zeros(4, np.int32))
        again = messages.decode_response(messages.encode_chunk(chunk, encode), decode)
        assert isinstance(again, Chunk)
        heard.append(again.audio)
        encoded.append(again.encoded)
    end = messages.decode_response(messages.encode_end(End(ended=True), encode), decode)
    assert isinstance(end, End)
    return [*heard, end.audio], [*encoded, end.encoded], end


def test_floats_travel_as_they_are() -> None:
    audio = tones(3)
    heard, encoded, end = travel(audio, "float32")
    np.testing.assert_array_equal(np.concatenate(heard), audio)
    assert set(encoded) == {b""}
    assert end == End(ended=True)


def test_integers_are_the_nearest_and_clipped() -> None:
    values = np.array([0, 1, -1, 1.5, -7, 0.4 / 32767, 0.6 / 32767, -0.6 / 32767], np.float32)
    assert encode_int16(values)["AUDIO_INT16"].tolist() == [0, 32767, -32767, 32767, -32767, 0, 1, -1]
    audio = tones(3)
    heard, _, _ = travel(audio, "int16")
    assert np.abs(np.concatenate(heard) - audio).max() <= 0.5001 / 32767


def test_an_opus_stream_joined_is_a_file_of_the_same_length() -> None:
    audio = tones()
    heard, encoded, _ = travel(audio, "opus")
    assert [piece.size for piece in heard[:3]] == [FRAME_SAMPLES - OPUS_DELAY, FRAME_SAMPLES, FRAME_SAMPLES]
    assert heard[-1].size == OPUS_DELAY
    sound = np.concatenate(heard)
    assert sound.shape == audio.shape
    read, rate = soundfile.read(io.BytesIO(b"".join(encoded)), dtype="float32")
    assert rate == SAMPLE_RATE
    assert read.shape == audio.shape
    np.testing.assert_allclose(sound, read, rtol=0, atol=2 / 32768)  # this decoder rounds to 16 bits


def test_opus_is_not_shifted_and_is_small() -> None:
    audio = tones()
    heard, encoded, _ = travel(audio, "opus")
    sound = np.concatenate(heard)
    inner = slice(2_000, -2_000)
    products = {lag: float(np.dot(audio[inner], np.roll(sound, -lag)[inner])) for lag in range(-100, 101)}
    assert max(products, key=products.__getitem__) == 0
    bits = 8 * len(b"".join(encoded)) / (audio.size / SAMPLE_RATE)
    assert bits < 16 * SAMPLE_RATE / 4


def test_an_opus_stream_may_be_cut_anywhere() -> None:
    _, encoded, _ = travel(tones(6), "opus")
    whole = b"".join(encoded)
    at_once = decoder_of("opus")
    assert at_once is not None
    wanted = at_once(whole)
    rng = np.random.default_rng(1)
    cuts = [0, *sorted(rng.integers(0, len(whole), 60).tolist()), len(whole)]
    decode = decoder_of("opus")
    assert decode is not None
    pieces = [decode(whole[start:stop]) for start, stop in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(pieces), wanted)


def test_every_page_has_its_checksum() -> None:
    """libogg passes over a page whose checksum is wrong: with one byte changed, its 80 ms are gone."""
    audio = tones(6)
    _, encoded, _ = travel(audio, "opus")
    broken = bytearray(b"".join(encoded))
    broken[len(b"".join(encoded[:3])) + 60] ^= 1
    read, _ = soundfile.read(io.BytesIO(bytes(broken)), dtype="float32")
    assert read.size < audio.size


def test_nothing_said_is_no_stream() -> None:
    assert encoder_of("opus")(None) == {}


@pytest.mark.parametrize("damage", ["magic", "head", "packet"])
def test_what_is_no_opus_is_said_so(damage: str) -> None:
    _, encoded, _ = travel(tones(2), "opus")
    whole = bytearray(b"".join(encoded))
    if damage == "magic":
        whole[0] ^= 1
    elif damage == "head":
        whole[28] ^= 1
    else:
        whole[whole.index(b"OggS", 60) + 31 :] = bytes(whole[whole.index(b"OggS", 60) + 31 :])[::-1]
    decode = decoder_of("opus")
    assert decode is not None
    with pytest.raises(ServingError, match=r"the server's sound"):
        decode(bytes(whole))


def test_without_pyav_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for make in (encoder_of, decoder_of):
        with pytest.raises(MissingDependencyError, match="pip install av, or ask for float32 or int16"):
            make("opus")
