"""The vocoder of pulses and noise, and the pitch that it is trained towards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from csm_model.codec.pitch import HOP, in_range, middle_pitch, track_pitch
from csm_model.codec.source import BANDS, DELAY, Controls, HarmonicNoise, minimum_phase
from csm_model.frames import SAMPLE_RATE

SILENT = -12.0


def glide(first: float, last: float, seconds: float = 1.0) -> tuple[Tensor, Tensor]:
    """A buzz of ten harmonics whose pitch moves evenly: sound `[1, S]` and its pitch at every sample `[S]`."""
    pitch = torch.linspace(first, last, round(seconds * SAMPLE_RATE))
    phase = 2 * torch.pi * (pitch.double() / SAMPLE_RATE).cumsum(0)
    harmonics = [torch.cos(k * phase) / k for k in range(1, 11)]
    return (0.1 * torch.stack(harmonics).sum(0)).float()[None], pitch


def controls(hertz: float, steps: int, *, pulses: float, noise: float) -> Controls:
    flat = torch.ones(1, steps, BANDS)
    return Controls(pitch=torch.full((1, steps), hertz), pulses=pulses * flat, noise=noise * flat)


def spectrum(sound: Tensor) -> Tensor:
    """Power of a second of sound `[S]`, one bin a hertz."""
    return torch.fft.rfft(sound * torch.hann_window(len(sound))).abs().square()


@pytest.mark.parametrize(("first", "last"), [(90, 110), (180, 260), (350, 300)])
def test_pitch_is_found_where_it_is(first: float, last: float) -> None:
    sound, pitch = glide(first, last)
    found, voiced = track_pitch(sound)
    assert found.shape == voiced.shape == (1, 100)
    inner = slice(3, -6)
    assert voiced[0, inner].all()
    expected = pitch[HOP - 1 :: HOP][inner]
    torch.testing.assert_close(found[0, inner], expected, rtol=0.01, atol=0.0)


def test_a_step_an_octave_off_is_not_in_range() -> None:
    pitch, voiced = torch.full((1, 20), 90.0), torch.ones(1, 20, dtype=torch.bool)
    pitch[0, 5], pitch[0, 6], pitch[0, 7], voiced[0, 8] = 180.0, 45.0, 120.0, False
    assert torch.equal(in_range(pitch, voiced).logical_not().nonzero()[:, 1], torch.tensor([5, 6, 8]))
    assert not in_range(pitch, torch.zeros_like(voiced)).any(), "a clip without a voice has no middle"


def test_the_middle_pitch_of_a_clip() -> None:
    low, _ = glide(60, 60, seconds=2.0)
    assert middle_pitch((low[0] * 32767).to(torch.int16).numpy()) == pytest.approx(60, rel=0.02)
    assert np.isnan(middle_pitch(np.zeros(SAMPLE_RATE, np.int16)))
    assert np.isnan(middle_pitch(np.zeros(10, np.int16)))


def test_log_odds_against_a_voice_make_the_pulses_softer() -> None:
    source = HarmonicNoise(8, voicing=True)
    asked = torch.zeros(1, 3, source.head.out_features)
    asked[0, :, -1] = torch.tensor([3.0, 0.0, -5.0])
    controls = source.limited(asked)
    assert torch.equal(controls.pulses[0, :, 7], torch.tensor([0.0, 0.0, -5.0]))
    assert torch.equal(controls.noise, torch.zeros(1, 3, BANDS))
    assert torch.equal(source.limited(asked[..., :-1]).pulses, torch.zeros(1, 3, BANDS)), "never asked, never softer"


def test_noise_and_silence_have_no_pitch() -> None:
    noise = 0.1 * torch.randn(1, SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    assert track_pitch(noise)[1].float().mean() < 0.05
    assert not track_pitch(torch.zeros(1, SAMPLE_RATE))[1].any()


def test_pulses_sound_at_the_pitch_and_its_harmonics_alone() -> None:
    source = HarmonicNoise(8).eval()
    steps = SAMPLE_RATE // HOP
    sound = source.step(controls(200.0, steps + 4, pulses=0.0, noise=SILENT), source.initial_state(1))
    power = spectrum(sound[0, DELAY : DELAY + SAMPLE_RATE])
    bins = torch.arange(len(power))
    near = (bins % 200 <= 3) | (bins % 200 >= 197)
    assert power[near].sum() > 0.999 * power.sum()
    harmonics = power[200:11_000:200]
    assert harmonics.max() < 2 * harmonics.min(), "a flat gain gives harmonics of one loudness"


def test_pulses_and_noise_of_the_same_gain_are_equally_loud() -> None:
    source = HarmonicNoise(8).eval()
    sounds = [
        source.step(controls(150.0, 104, pulses=pulses, noise=noise), source.initial_state(1))[0, 4 * HOP :]
        for pulses, noise in ((0.0, SILENT), (SILENT, 0.0))
    ]
    loudness = [float(sound.square().mean()) for sound in sounds]
    assert loudness == pytest.approx([1.0, 1.0], rel=0.1)


def test_steps_in_pieces_are_the_whole() -> None:
    torch.manual_seed(0)
    source = HarmonicNoise(8).eval()
    with torch.inference_mode():
        whole = source.controls(torch.randn(2, 40, 8))
        state = source.initial_state(2)
        parts = zip(*(part.split([8, 24, 8], dim=1) for part in whole), strict=True)
        joined = torch.cat([source.step(Controls(*part), state) for part in parts], dim=1)
        expected = source.step(whole, source.initial_state(2))
    torch.testing.assert_close(joined, expected, rtol=1e-3, atol=1e-4)


def test_minimum_phase_keeps_the_gain_and_comes_at_once() -> None:
    log_gain = -2.0 * torch.linspace(0, 1, 481) + torch.cos(torch.linspace(0, 6, 481))
    response = torch.polar(torch.exp(log_gain), minimum_phase(log_gain))
    torch.testing.assert_close(response.abs().log(), log_gain, rtol=1e-3, atol=1e-3)
    impulse = torch.fft.irfft(response)
    assert impulse[:480].square().sum() > 0.999 * impulse.square().sum(), "causal"
    assert impulse[0] > 0.5 * impulse.abs().max()
