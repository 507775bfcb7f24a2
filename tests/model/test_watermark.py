"""The mark in the stream: as long, not late, the same in any company, found by Perth's own network, and read back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from csm_model.errors import ArtifactError, AudioError, DigestError, InputError, MissingDependencyError
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_model.watermark import comb, open_detector, open_watermark, perth
from csm_model.watermark.filters import BIN_HZ, BINS, WINDOW, SlotFilter, minimum_phase
from csm_model.watermark.fixed import FixedDetector, FixedMark
from csm_model.watermark.silentcipher import MESSAGE, SilentCipher, _CarrierDecoder, _Encoder, _MessageDecoder

CORPUS = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "corpus" / "audio"
PAYLOAD = 40_321


def speech(number: int, seconds: float = 6.0) -> torch.Tensor:
    """A conversation of the demo's corpus."""
    samples, rate = soundfile.read(sorted(CORPUS.glob("*.opus"))[number], dtype="float32")
    assert rate in (24_000, 48_000)
    return torch.from_numpy(samples[:: rate // SAMPLE_RATE][: int(seconds * SAMPLE_RATE)].copy())


def frames(audio: torch.Tensor) -> torch.Tensor:
    return audio[: len(audio) // FRAME_SAMPLES * FRAME_SAMPLES].view(-1, FRAME_SAMPLES)


@pytest.fixture(scope="module")
def detector() -> FixedDetector:
    return FixedDetector()


@pytest.fixture(scope="module")
def mark() -> FixedMark:
    return FixedMark(PAYLOAD)


def test_a_stream_is_the_whole_sound_marked_to_the_bit_in_any_company_and_slot(mark: FixedMark) -> None:
    sounds = [frames(speech(number)) for number in range(4)]
    whole = [mark.mark(sound.reshape(-1)) for sound in sounds]
    marker = mark.slot_marker(6)
    slots = {0: 5, 1: 2, 2: 0, 3: 3}
    made: dict[int, list[torch.Tensor]] = {number: [] for number in slots}
    rng = np.random.default_rng(0)
    while any(len(made[number]) < len(sounds[number]) for number in slots):
        asked = [n for n in slots if len(made[n]) < len(sounds[n]) and rng.random() < 0.6]
        rng.shuffle(asked)
        if asked:
            audio = torch.stack([sounds[number][len(made[number])] for number in asked])
            for number, out in zip(asked, marker.step(audio, [slots[n] for n in asked]), strict=True):
                made[number].append(out)
    for number in slots:
        assert torch.equal(torch.cat(made[number]), whole[number])


def test_the_filter_is_the_convolution_and_not_late() -> None:
    """Chunks leave no seam: they are one convolution with the taps, from the first sample on."""
    taps = minimum_phase(perth.gains() + comb.gains(PAYLOAD))
    sound = frames(speech(2, 3.0)).reshape(-1)
    whole = np.convolve(sound.double().numpy(), taps)[: len(sound)]
    assert np.abs(FixedMark(PAYLOAD).mark(sound).numpy() - whole).max() < 1e-6
    impulse = torch.zeros(WINDOW * 2)
    impulse[0] = 0.5
    assert np.abs(FixedMark(PAYLOAD).mark(impulse).numpy()[:WINDOW] - taps / 2).max() < 1e-6
    assert abs(taps[0]) > 0.9, "what comes first is the sound itself"


def test_the_taps_have_the_gains_that_were_asked_for_at_minimum_phase() -> None:
    wanted = perth.gains() + comb.gains(PAYLOAD)
    answer = np.fft.rfft(minimum_phase(wanted), WINDOW * 8)[::8]
    assert np.abs(20 * np.log10(np.abs(answer)) - wanted)[:-1].max() < 0.35, "the taps end after 64 ms"
    flat = minimum_phase(np.full(BINS, -6.0))
    assert flat[0] == pytest.approx(10 ** (-6 / 20))
    assert np.abs(flat[1:]).max() < 1e-12


def test_a_reset_slot_begins_in_silence(mark: FixedMark) -> None:
    sound = frames(speech(0))
    marker = mark.slot_marker(2)
    first = marker.step(sound[3:4], [1])
    marker.step(sound[4:5], [1])
    assert not torch.equal(marker.step(sound[3:4], [1]), first)
    marker.reset(1)
    assert torch.equal(marker.step(sound[3:4], [1]), first)


@pytest.mark.parametrize("samples", [0, 1, 1919, 1920, 1921, 30_000])
def test_any_length_comes_back_as_long(mark: FixedMark, samples: int) -> None:
    sound = speech(1, 2.0)
    whole, part = mark.mark(sound), mark.mark(sound[:samples])
    assert part.shape == (samples,)
    complete = samples // FRAME_SAMPLES * FRAME_SAMPLES
    assert torch.equal(whole[:complete], part[:complete])
    assert torch.allclose(whole[:samples], part, atol=1e-6), "the last frame, whose end is not there"


def test_silence_stays_silent_and_loud_sound_in_its_range(mark: FixedMark) -> None:
    assert not mark.mark(torch.zeros(4000)).any()
    square = torch.sign(torch.sin(torch.arange(24_000) * 0.05))
    assert mark.mark(square).abs().max() == 1.0


@pytest.mark.parametrize("number", range(3))
def test_it_is_found_read_and_not_seen_where_it_is_not(mark: FixedMark, detector: FixedDetector, number: int) -> None:
    sound = speech(number)
    found = detector.find(mark.mark(sound))
    assert found.marked
    assert found.whole.presence > 0.5
    assert found.payload == PAYLOAD
    assert found.whole.chance <= comb.LONGEST_CHANCE
    unmarked = detector.find(sound)
    assert not unmarked.marked
    assert unmarked.payload is None


@pytest.mark.parametrize("attack", ["louder", "quieter", "late", "int16", "16 kHz", "30 dB noise", "faster"])
def test_it_lasts(mark: FixedMark, detector: FixedDetector, attack: str) -> None:
    marked = mark.mark(speech(7))
    noise = torch.randn(len(marked), generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(marked)
    changed = {
        "louder": marked * 3,
        "quieter": marked * 0.05,
        "late": marked[777:],
        "int16": (marked * 32767).round() / 32767,
        "16 kHz": torch.fft.irfft(spectrum * (torch.arange(len(spectrum)) < len(spectrum) * 2 / 3)),
        "30 dB noise": marked + noise * marked.square().mean().sqrt() / 10**1.5,
        "faster": torch.fft.irfft(spectrum[: len(spectrum) * 20 // 21], len(marked) * 20 // 21),
    }[attack]
    found = detector.find(changed)
    assert found.payload == PAYLOAD
    assert found.whole.speed == (1.05 if attack == "faster" else 1.0)
    if attack != "faster":
        assert found.whole.presence > 0.5


def test_perths_own_encoder_adds_the_comb_whatever_it_hears(detector: FixedDetector) -> None:
    """That the mark is a fixed comb is no assumption: the network says so, of noise and of speech."""
    network = perth.PerthNetwork()
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal(20 * SAMPLE_RATE))
    noise = torch.from_numpy(walk - np.convolve(walk, np.ones(480) / 480, "same")).float()
    comb_db = perth.gains()[: perth.BAND] / perth.STRENGTH
    for sound in (noise / noise.abs().max() * 0.5, speech(3), speech(50)):
        window = torch.hann_window(WINDOW)
        spectra = torch.stft(sound, WINDOW, 240, window=window, return_complex=True).abs()[None]
        added = network.added(spectra)[0].mean(1).numpy()
        assert np.corrcoef(added, comb_db)[0, 1] > 0.998
        assert np.abs(added - comb_db).max() < 0.3


def test_perths_own_mark_is_found_too(detector: FixedDetector) -> None:
    sound = speech(4)
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(sound, WINDOW, 240, window=window, return_complex=True)
    added = perth.PerthNetwork().added(spectrum.abs()[None])[0]
    spectrum[: perth.BAND] *= 10 ** (added / 20)
    found = detector.find(torch.istft(spectrum, WINDOW, 240, window=window, length=len(sound)))
    assert found.marked
    assert found.whole.presence > 0.9
    assert found.payload is None


def test_where_in_a_long_sound_it_is(mark: FixedMark, detector: FixedDetector) -> None:
    speaking = [speech(number, 12.0) for number in range(3)]
    found = detector.find(torch.cat([speaking[0], mark.mark(speaking[1]), speaking[2]]))
    begin, end = len(speaking[0]) / SAMPLE_RATE, (len(speaking[0]) + len(speaking[1])) / SAMPLE_RATE
    inside = [window for window in found.windows if window.begin >= begin and window.end <= end]
    outside = [window for window in found.windows if window.end <= begin or window.begin >= end]
    assert found.payload == PAYLOAD
    assert inside
    assert outside
    assert all(window.marked for window in inside)
    assert not any(window.marked for window in outside)


def test_another_key_reads_nothing(detector: FixedDetector) -> None:
    marked = open_watermark(f"perth:{PAYLOAD}", key="ab" * 16).mark(speech(5))
    assert open_detector(key="AB" * 16).find(marked).payload == PAYLOAD
    public = detector.find(marked)
    assert public.payload is None
    assert public.whole.presence > 0.5, "Perth's comb has no key"


def test_false_alarms_keep_to_the_bound() -> None:
    """The bound on chance holds for shapes that are not like noise, too: a slope, a hill, a few lines."""
    rng = np.random.default_rng(1)
    bins = np.arange(2 * 96 + comb.TEETH * comb.TOOTH_BINS)
    rows = [rng.standard_normal(len(bins)), np.sin(bins / 7), bins * 0.01, (bins % 50 == 0) * 6.0]
    rows += [rng.standard_normal(len(bins)) ** 3 for _ in range(60)]
    readings = comb.read(np.stack(rows).astype(np.float32))
    assert not any(reading.found for reading in readings)
    assert np.mean([reading.chance < 0.5 for reading in readings]) < 0.5


@pytest.mark.parametrize("sound", ["silence", "noise", "clicks"])
def test_other_sounds_are_not_marked(detector: FixedDetector, sound: str) -> None:
    time = torch.arange(3 * SAMPLE_RATE)
    found = detector.find(
        {
            "silence": torch.zeros(len(time)),
            "noise": 0.1 * torch.randn(len(time), generator=torch.Generator().manual_seed(3)),
            "clicks": (time % 4800 == 0).float(),
        }[sound]
    )
    assert not found.marked
    assert found.whole.presence == found.whole.presence, "a number, even for silence"


def test_too_little_sound_is_said(detector: FixedDetector) -> None:
    with pytest.raises(AudioError, match=r"a sound of 0\.10 s: a mark is looked for in 0\.25 s or more"):
        detector.find(torch.zeros(2400))


@pytest.mark.parametrize(
    "spec", ["", "on", "perth:", "perth:x", "perth:65536", "perth:-1", "perth: 1", "Perth", "silentcipher", "off:1"]
)
def test_other_names_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match=r"watermark '|payload 65536 of a watermark"):
        open_watermark(spec)


def test_off_is_no_watermark_and_nothing_to_find() -> None:
    assert open_watermark("off") is None
    with pytest.raises(InputError, match="nothing to find"):
        open_detector("off")
    assert open_watermark("perth").kind == "perth:0"
    assert open_watermark("perth:7").kind == "perth:7"


@pytest.mark.parametrize("key", ["", "00", "zz" * 16, "ab" * 15])
def test_a_bad_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match="openssl rand -hex 32") as refused:
        open_watermark("perth", key=key)
    assert not key or f"'{key}'" not in str(refused.value)


def test_marking_needs_no_package_and_finding_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csm_model.watermark.perth.importlib.util.find_spec", lambda name: None)
    assert open_watermark("perth").mark(speech(0)).any()
    with pytest.raises(MissingDependencyError, match="resemble-perth is not installed"):
        open_detector()


def test_weights_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.pth.tar"
    other.write_bytes(b"other weights")
    monkeypatch.setattr(perth, "_weights_path", lambda: other)
    with pytest.raises(DigestError, match=r"not the weights of resemble-perth 1\.0\.1"):
        open_detector()


def test_the_package_itself_is_not_imported(detector: FixedDetector) -> None:
    assert not [name for name in sys.modules if name.partition(".")[0] == "perth"]


def test_bins_are_those_of_perth() -> None:
    assert pytest.approx(32_000 / 2048) == BIN_HZ
    assert isinstance(FixedMark().slot_marker(1), SlotFilter)


# SilentCipher: its weights are its authors'; random ones of a small size have the same arithmetic.


def small_silentcipher(folder: Path, **changes: Any) -> Path:
    options = {
        "SR": 16_000,
        "N_FFT": 256,
        "HOP_LENGTH": 128,
        "message_band_size": 100,
        "message_dim": 5,
        "message_len": 21,
        "message_sdr": 30,
        "enc_n_layers": 3,
        "dec_c_n_layers": 4,
        "frame_level_normalization": True,
    }
    (folder / "hparams.yaml").write_text(yaml.safe_dump(options | changes))
    torch.manual_seed(0)
    networks = {"enc_c": _Encoder(3, 5, 100), "dec_c": _CarrierDecoder(4), "dec_m_0": _MessageDecoder(5, 100)}
    for name, network in networks.items():
        state = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
        torch.save(state, folder / f"{name}.ckpt")
    return folder


def test_silentcipher_adds_its_message_as_loud_as_it_says(tmp_path: Path) -> None:
    sound = speech(0, 1.0)
    quiet = open_watermark(f"silentcipher:{small_silentcipher(tmp_path)}")
    marked = quiet.mark(sound)
    assert quiet.kind == "silentcipher"
    assert marked.shape == sound.shape
    loud = open_watermark(f"silentcipher:{small_silentcipher(tmp_path, message_sdr=20)}").mark(sound)
    plain = open_watermark(f"silentcipher:{small_silentcipher(tmp_path, message_sdr=200)}").mark(sound)
    ratio = (loud - plain).square().sum() / (marked - plain).square().sum()
    assert float(ratio) == pytest.approx(10, rel=0.15)
    assert torch.equal(quiet.mark(torch.zeros(5000)), torch.zeros(5000))


def test_silentcipher_marks_no_live_stream(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="marks whole sounds, not live streams; serve with perth"):
        open_watermark(f"silentcipher:{small_silentcipher(tmp_path)}").slot_marker(4)


def test_silentcipher_reads_a_message_from_wherever_it_begins(tmp_path: Path) -> None:
    """The decoder's networks are replaced by a known message, cut at any symbol."""
    reader = SilentCipher(small_silentcipher(tmp_path))
    assert open_detector(f"silentcipher:{tmp_path}").find(speech(0, 1.0)).windows == ()
    for start in range(0, 21, 5):
        symbols = reader._said.repeat(6)[start : start + 90]
        reader._message = torch.nn.Module()
        reader._message.main = lambda carrier: carrier
        reader._message.linear = lambda heard, symbols=symbols: torch.nn.functional.one_hot(symbols, 5).T[
            None, :, :, None
        ]
        found = reader.find(speech(0, 1.0)).whole
        assert found.marked
        assert found.payload == int.from_bytes(bytes(MESSAGE), "big")
        assert found.presence == 1.0


def test_a_folder_without_silentciphers_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hparams\.yaml, enc_c\.ckpt, dec_c\.ckpt, dec_m_0\.ckpt missing"):
        open_watermark(f"silentcipher:{tmp_path / 'absent'}")
    small_silentcipher(tmp_path, message_len=5)
    with pytest.raises(ArtifactError, match="must be 21 of 5"):
        open_watermark(f"silentcipher:{tmp_path}")
    small_silentcipher(tmp_path, message_band_size=90)
    with pytest.raises(ArtifactError, match=r"enc_c\.ckpt: not weights of this network"):
        open_watermark(f"silentcipher:{tmp_path}")
    (tmp_path / "enc_c.ckpt").write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match=r"enc_c\.ckpt"):
        open_watermark(f"silentcipher:{tmp_path}")
    (tmp_path / "hparams.yaml").write_text("[1]")
    with pytest.raises(ArtifactError, match="not the options"):
        open_watermark(f"silentcipher:{tmp_path}")
