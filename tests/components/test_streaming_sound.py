"""Sound in blocks: the same samples as the whole at once, read once however many turns there are, or refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from csm_components.ingest import listening
from csm_components.ingest.audio import read_sound, to_model_rate, write_flac
from csm_components.ingest.checks import SoundMeter
from csm_components.ingest.decoding import AUDIO_SUFFIXES, AV_SUFFIXES, OpenSound, open_sound
from csm_components.ingest.listening import AskedSpan, listen
from csm_components.ingest.resampling import Resampler
from csm_components.ingest.scratch import open_scratch
from csm_model.errors import AudioError

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 23_999, 7_350)


def cut(length: int, rng: random.Random) -> list[int]:
    """Places where a sound is cut: blocks of one size, or of many, some of them empty."""
    if rng.random() < 0.5:
        size = rng.choice([1, 7, 147, 1000, 16_384, 65_536])
        return [*range(0, length, max(size, length // 200 + 1)), length]
    return sorted([0, length, *(rng.randint(0, length) for _ in range(rng.randint(0, 30)))])


@pytest.mark.parametrize("seed", range(60))
def test_blocks_are_resampled_to_the_very_samples_of_the_whole(seed: int) -> None:
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    rate = RATES[seed % len(RATES)]
    length = rng.choice([0, 1, 2, 3, rng.randint(4, 400), rng.randint(400, 40_000), 16_384, 65_537])
    sound = noise.uniform(-1, 1, length).astype(np.float32)
    common = Fraction(24_000, rate)
    wanted = (
        sound if rate == 24_000 else resample_poly(sound, common.numerator, common.denominator) if length else sound
    )
    resampler, places = Resampler(rate), cut(length, rng)
    blocks = [resampler.push(sound[start:end]) for start, end in pairwise(places)]
    np.testing.assert_array_equal(np.concatenate([*blocks, resampler.finish()]), wanted)
    np.testing.assert_array_equal(to_model_rate(sound, rate), wanted)


def voices(seconds: float, rate: int, channels: int) -> np.ndarray:
    """A tone of its own in each channel: `[S, C]`."""
    axis = np.arange(round(seconds * rate)) / rate
    tones = [0.3 * np.sin(2 * np.pi * 200 * (number + 1) * axis) for number in range(channels)]
    return np.stack(tones, axis=1).astype(np.float32)


KINDS = {
    ".m4a": ("mp4", "aac", 44_100),
    ".m4b": ("ipod", "aac", 44_100),
    ".mp4": ("mp4", "aac", 48_000),
    ".mov": ("mov", "aac", 22_050),
    ".aac": ("adts", "aac", 24_000),
    ".amr": ("amr", "libopencore_amrnb", 8_000),
    ".3gp": ("3gp", "libopencore_amrnb", 8_000),
    ".webm": ("webm", "libopus", 48_000),
    ".mka": ("matroska", "flac", 16_000),
    ".mkv": ("matroska", "libmp3lame", 32_000),
    ".wma": ("asf", "wmav2", 44_100),
}
"""Container, encoder and rate by suffix."""


def write_av(path: Path, sound: np.ndarray) -> int:
    """Writes samples `[S, C]` as the suffix asks; returns their rate."""
    container, codec, rate = KINDS[path.suffix]
    channels = sound.shape[1]
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono" if channels == 1 else "stereo")
        stream.bit_rate = 12_200 if "amr" in codec else 96_000
        for start in range(0, len(sound), 1024):
            block = np.ascontiguousarray((sound[start : start + 1024] * 32767).astype(np.int16).reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(block, "s16", "mono" if channels == 1 else "stereo")
            frame.rate, frame.pts = rate, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return rate


@pytest.mark.parametrize("suffix", sorted(KINDS))
def test_what_libsndfile_cannot_read_is_decoded(suffix: str, tmp_path: Path) -> None:
    channels = 1 if "amr" in KINDS[suffix][1] else 2
    rate = KINDS[suffix][2]
    sound = voices(3.0, rate, channels)
    path = tmp_path / f"a{suffix}"
    write_av(path, sound)
    found, its_rate = read_sound(path)
    assert its_rate == rate
    assert found.shape[1] == channels
    assert abs(len(found) - len(sound)) < 0.1 * rate
    for channel in range(channels):
        spectrum = np.abs(np.fft.rfft(found[:, channel]))
        assert np.argmax(spectrum) * rate / len(found) == pytest.approx(200 * (channel + 1), abs=5)


def test_every_suffix_that_is_said_to_be_read_is_tried() -> None:
    assert set(KINDS) == AV_SUFFIXES
    assert AV_SUFFIXES < AUDIO_SUFFIXES


@pytest.mark.parametrize("suffix", sorted(KINDS))
@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_are_no_sound_are_refused(suffix: str, seed: int, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(random.Random(seed).randbytes(20_000))
    with pytest.raises(AudioError, match=rf"a{suffix}: ") as refused:
        read_sound(path)
    assert "\n" not in str(refused.value)
    path.write_bytes(b"")
    with pytest.raises(AudioError, match="cannot be read as sound"):
        read_sound(path)


@pytest.mark.parametrize("suffix", [".m4a", ".webm", ".mka", ".wma"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_a_torn_container_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_av(path, voices(4.0, KINDS[suffix][2], 2))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AudioError, match=r"a\.\w+: (holds \d|cannot be read as sound)"):
        read_sound(path)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_blocks_of_a_file_are_the_whole_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, np.random.default_rng(3).uniform(-0.5, 0.5, (50_000, 2)), 44_100)
    whole, rate = soundfile.read(path, dtype="float32", always_2d=True)
    for size in (1_000, 4_096, 33_333):
        monkeypatch.setattr("csm_components.ingest.decoding.BLOCK", size)
        found, its_rate = read_sound(path)
        np.testing.assert_array_equal(found, whole)
        assert its_rate == rate


def test_flac_in_blocks_is_flac_at_once(tmp_path: Path) -> None:
    rng = random.Random(1)
    for channels in (1, 2, 3):
        pcm = np.random.default_rng(channels).integers(-3000, 3000, (40_000, channels)).astype(np.int16)
        soundfile.write(tmp_path / "whole.flac", pcm, 24_000, format="FLAC", subtype="PCM_16")
        blocks = [pcm[start:end] for start, end in pairwise(cut(len(pcm), rng))]
        length, digest = write_flac(tmp_path / "blocks.flac", blocks, channels)
        assert (tmp_path / "blocks.flac").read_bytes() == (tmp_path / "whole.flac").read_bytes()
        assert (length, digest) == (len(pcm), write_flac(tmp_path / "again.flac", [pcm], channels)[1])


@pytest.mark.parametrize("seed", range(20))
def test_a_meter_says_of_blocks_what_it_says_of_the_whole(seed: int) -> None:
    rng = random.Random(seed)
    sound = np.clip(np.random.default_rng(seed).normal(0, rng.choice([0.1, 0.8, 3.0]), 3_000), -1, 1).astype(np.float32)
    whole, blocks = SoundMeter(), SoundMeter()
    whole.add(sound)
    for start, end in pairwise(cut(len(sound), rng)):
        blocks.add(sound[start:end])
    assert (blocks.samples, blocks.clipped) == (whole.samples, whole.clipped)
    assert blocks.level_db == pytest.approx(whole.level_db, abs=1e-9)
    full = np.abs(sound) >= 0.999
    run = np.zeros(len(sound), bool)
    for start in range(len(sound) - 2):
        if full[start : start + 3].all():
            run[start : start + 3] = True
    assert whole.clipped == run.mean()


def counted(path: Path, turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Samples that are decoded, and samples that are handed to turns, when a file with many turns is listened to."""
    read = 0

    def noted(sound: OpenSound) -> Iterator[np.ndarray]:
        nonlocal read
        for block in sound.blocks():
            read += block.size
            yield block

    class Counted:
        def __init__(self, where: Path) -> None:
            self._opened = open_sound(where)

        def __enter__(self) -> OpenSound:
            sound = self._opened.__enter__()
            return OpenSound(rate=sound.rate, channels=sound.channels, codec=sound.codec, blocks=lambda: noted(sound))  # type: ignore[arg-type,return-value]

        def __exit__(self, *error: object) -> None:
            self._opened.__exit__(*error)  # type: ignore[arg-type]

    monkeypatch.setattr(listening, "open_sound", Counted)
    spans = [AskedSpan(channel=number % 2, start=2.2 * number, duration=3.0, kept=False) for number in range(turns)]
    with open_scratch(tmp_path) as scratch:
        heard = listen(path, spans, scratch)
    return read, sum(span.meter.samples for span in heard.spans if span is not None)


def test_work_grows_with_the_sound_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    for turns in (20, 40, 80):
        seconds = 2.2 * turns + 0.8
        soundfile.write(tmp_path / "call.flac", voices(seconds, 8_000, 2), 8_000)
        read, measured = counted(tmp_path / "call.flac", turns, tmp_path, monkeypatch)
        assert read == 2 * round(seconds * 8_000)  # each sample of each channel once
        figures.append(measured)
    assert figures == [24_000 * turns for turns in (20, 40, 80)]  # and no more than each turn's own


@pytest.mark.parametrize("seed", range(10))
def test_lanes_give_back_what_they_were_given(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csm_components.ingest.scratch.IN_MEMORY", 10_000)  # some in memory, and then in a file
    monkeypatch.setattr("csm_components.ingest.scratch._JOINED", 512)
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    with open_scratch(tmp_path) as scratch:
        lanes = [scratch.lane() for _ in range(3)]
        kept = [np.zeros(0, np.int16)] * 3
        for _ in range(100):
            number = rng.randrange(3)
            pcm = noise.integers(-30_000, 30_000, rng.choice([0, 1, 100, 700])).astype(np.int16)
            lanes[number].append(pcm)
            kept[number] = np.concatenate((kept[number], pcm))
            start = rng.randrange(len(kept[number]) + 1)
            stop = start + rng.randrange(1_000)
            wanted = np.zeros(stop - start, np.int16)
            wanted[: len(kept[number][start:stop])] = kept[number][start:stop]
            np.testing.assert_array_equal(lanes[number].read(start, stop), wanted)
        assert [len(lane) for lane in lanes] == [len(pcm) for pcm in kept]
    assert not list(tmp_path.iterdir())
