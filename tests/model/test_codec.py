"""The RVQ codec: shapes, exact streaming, fewer codebooks, storage, training, and its refusals."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from csm_model.codec import RvqCodec, RvqConfig, load_codec
from csm_model.codec.slots import rows_of
from csm_model.codec.source import DELAY
from csm_model.codec.training import Clip, CodecTrainer, CodecTraining
from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json, write_json
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_model.training.guards import DivergedError

DEMO_CODEC = Path(__file__).parents[2] / "deploy" / "demo" / "codec"


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "voicing"])
def codec(request: pytest.FixtureRequest) -> RvqCodec:
    torch.manual_seed(0)
    return RvqCodec(replace(RvqConfig.debug(), voicing=request.param)).eval()


def speech(samples: int, seed: int = 0) -> torch.Tensor:
    """A chirp with an envelope and a little noise: `[1, 1, samples]`."""
    time = torch.arange(samples) / SAMPLE_RATE
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    sound = 0.3 * torch.sin(2 * torch.pi * (150 + 400 * time) * time) * torch.sin(torch.pi * time * 2).abs()
    return (sound + 0.01 * noise)[None, None]


def assert_same_sound(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for a pitch whose last bit differs, which drifts by a hair of a cycle in a second."""
    assert actual.shape == expected.shape
    assert (actual - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (1920, 1), (1921, 2), (19_200, 10)])
def test_frames_are_the_samples_rounded_up(codec: RvqCodec, samples: int, frames: int) -> None:
    codes = codec.encode(speech(samples))
    assert codes.shape == (1, codec.num_codebooks, frames)
    assert codec.decode(codes).shape == (1, 1, frames * FRAME_SAMPLES)


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 7], [12], [3, 1, 8]])
def test_streaming_decode_equals_whole_decode_to_the_bit(codec: RvqCodec, pieces: list[int]) -> None:
    codes = codec.encode(speech(12 * FRAME_SAMPLES))
    stream = codec.streaming_decoder()
    joined = torch.cat([stream.step(part) for part in codes.split(pieces, dim=-1)], dim=-1)
    assert torch.equal(joined, codec.decode(codes))


def test_decoder_for_training_is_the_same_function(codec: RvqCodec) -> None:
    codes = codec.encode(speech(12 * FRAME_SAMPLES))
    with torch.inference_mode():
        latent = codec.quantizer.decode(codes)
        controls = codec.decoder.controls(latent)
        stream = codec.slot_decoder(1)
        steps = [stream._controls(latent[:, [t]], rows_of([0], 1, 1, latent.device)) for t in range(latent.shape[1])]
        whole = codec.decoder(controls)
    for together, apart in zip(controls, zip(*steps, strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(apart, dim=1), rtol=1e-4, atol=1e-6)
    assert_same_sound(whole, codec.decode(codes)[:, 0])


def test_codes_do_not_depend_on_what_comes_later(codec: RvqCodec) -> None:
    sound = speech(20 * FRAME_SAMPLES)
    assert torch.equal(codec.encode(sound)[..., :8], codec.encode(sound[..., : 8 * FRAME_SAMPLES]))


def test_sound_does_not_depend_on_codes_to_come(codec: RvqCodec) -> None:
    codes = codec.encode(speech(12 * FRAME_SAMPLES))
    assert torch.equal(codec.decode(codes)[..., : 7 * FRAME_SAMPLES], codec.decode(codes[..., :7]))


def test_codec_of_another_version_is_refused(codec: RvqCodec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    weights = load_file(tmp_path / "codec.safetensors")
    weights["decoder.head.weight"] = weights.pop("decoder.source.head.weight")
    save_file(weights, tmp_path / "codec.safetensors")
    with pytest.raises(ArtifactError, match="not those of this version's RvqCodec; train the codec again"):
        load_codec(tmp_path)


def test_batch_gives_what_each_gives_alone(codec: RvqCodec) -> None:
    both = torch.cat([speech(9600, 1), speech(9600, 2)])
    codes = codec.encode(both)
    assert torch.equal(codes[1:], codec.encode(both[1:]))
    assert torch.equal(codec.decode(codes)[1:], codec.decode(codes[1:]))


def test_encoding_and_decoding_in_several_threads(codec: RvqCodec) -> None:
    sounds = [speech(9600, seed) for seed in range(4)]
    codes = [codec.encode(sound) for sound in sounds]
    decoded = [codec.decode(one) for one in codes]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(codec.encode, sounds * 4))
        assert all(torch.equal(one, codes[index % 4]) for index, one in enumerate(again))
        heard = list(pool.map(codec.decode, codes * 4))
        assert all(torch.equal(one, decoded[index % 4]) for index, one in enumerate(heard))


def test_fewer_codebooks_still_decode(codec: RvqCodec) -> None:
    codes = codec.encode(speech(9600))
    sounds = [codec.decode(codes[:, :books]) for books in range(1, codec.num_codebooks + 1)]
    assert all(sound.shape == sounds[0].shape for sound in sounds)
    assert not torch.equal(sounds[0], sounds[-1])


def test_refusals(codec: RvqCodec) -> None:
    codes = codec.encode(speech(9600))
    with pytest.raises(InputError, match=r"code 32 is outside 0\.\.31"):
        codec.decode(torch.full_like(codes, 32))
    with pytest.raises(InputError, match=r"takes \[batch, 1..4, frames\]"):
        codec.decode(codes[0])
    with pytest.raises(InputError, match="at least one sample"):
        codec.encode(torch.zeros(1, 1, 0))


def test_stored_codec_is_the_same(codec: RvqCodec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    loaded = load_codec(tmp_path)
    assert isinstance(loaded, RvqCodec)
    assert loaded.digest == codec.digest
    again = load_codec(tmp_path)
    codes = loaded.encode(speech(9600))
    assert torch.equal(again.encode(speech(9600)), codes)
    loaded.save(tmp_path / "copy")
    for name in ("codec.json", "codec.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert torch.equal(load_codec(tmp_path / "copy").decode(codes), loaded.decode(codes))
    assert ("voicing" in read_json(tmp_path / "codec.json")["config"]) == codec.config.voicing


def test_the_demos_codec_is_stored_as_it_is_read(tmp_path: Path) -> None:
    codec = load_codec(DEMO_CODEC)
    assert isinstance(codec, RvqCodec)
    codec.save(tmp_path)
    for name in ("codec.json", "codec.safetensors"):
        assert (tmp_path / name).read_bytes() == (DEMO_CODEC / name).read_bytes()


@pytest.mark.parametrize("value", [1, 0, "yes", None, 0.5])
def test_voicing_is_there_or_not(codec: RvqCodec, tmp_path: Path, value: object) -> None:
    codec.save(tmp_path)
    stored = read_json(tmp_path / "codec.json")
    write_json(tmp_path / "codec.json", {**stored, "config": {**stored["config"], "voicing": value}})
    with pytest.raises(ArtifactError, match=r"voicing is .*; it must be true or false"):
        load_codec(tmp_path)
    write_json(tmp_path / "codec.json", {**stored, "config": {**stored["config"], "voicing": not codec.config.voicing}})
    with pytest.raises(ArtifactError, match="not those of this version's RvqCodec"):
        load_codec(tmp_path)


def test_damaged_or_foreign_codec_is_refused(codec: RvqCodec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    stored = read_json(tmp_path / "codec.json")
    write_json(tmp_path / "codec.json", {**stored, "digest": "0" * 64})
    with pytest.raises(ArtifactError, match="do not match the digest"):
        load_codec(tmp_path)
    write_json(tmp_path / "codec.json", {**stored, "kind": "wav"})
    with pytest.raises(ArtifactError, match="'wav' is not a codec"):
        load_codec(tmp_path)


def clips() -> list[Clip]:
    sounds = [(speech(n, seed)[0, 0] * 20_000).to(torch.int16).numpy() for seed, n in enumerate((9600, 12_000, 15_000))]
    return [Clip(audio=sound, phonemes=[3, 4, 5]) for sound in sounds]


@pytest.mark.parametrize("stage", ["joint", "decoder"])
def test_training_learns_and_resumes(stage: str, tmp_path: Path) -> None:
    config = CodecTraining(
        stage=stage,
        minutes=30,
        max_steps=24,
        batch_seconds=2.0,
        learning_rate=2e-2,
        log_every=1,  # type: ignore[arg-type]
    )
    codec = CodecTrainer(clips(), config, tmp_path, sizes=RvqConfig.debug()).run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["mel"] < rows[0]["mel"]
    resumed = CodecTrainer(clips(), config, tmp_path, sizes=RvqConfig.debug())
    assert resumed.step == rows[-1]["step"] == config.max_steps
    assert load_codec(tmp_path).digest == codec.digest


def test_a_codec_that_diverged_is_not_saved(tmp_path: Path) -> None:
    config = CodecTraining(stage="decoder", minutes=30, max_steps=20, batch_seconds=2.0, learning_rate=1e38)
    with pytest.raises(DivergedError, match=r"step \d+ of the codec: the (loss|gradient norm) is (nan|inf)"):
        CodecTrainer(clips(), config, tmp_path, sizes=RvqConfig.debug()).run()
    assert not (tmp_path / "training.pt").exists()
    for wrong in (math.nan, math.inf, "1e-3", True):
        with pytest.raises(InputError, match=r"learning_rate .*: must be a (finite )?number"):
            CodecTraining(learning_rate=wrong)  # type: ignore[arg-type]


def test_decoder_stage_keeps_the_codes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    codec = RvqCodec(RvqConfig.debug())
    before = codec.eval().encode(speech(19_200))
    config = CodecTraining(stage="decoder", minutes=30, max_steps=3, batch_seconds=2.0)
    after = CodecTrainer(clips(), config, tmp_path, codec=codec, sizes=codec.config).run()
    assert torch.equal(after.encode(speech(19_200)), before)


def test_a_decoder_stage_that_kept_more_goes_on(tmp_path: Path) -> None:
    """Its checkpoint once held the head of the phonemes too, which only the joint stage trains."""
    config = CodecTraining(stage="decoder", minutes=30, max_steps=3, batch_seconds=2.0)
    trained = CodecTrainer(clips(), config, tmp_path, sizes=RvqConfig.debug()).run()
    path = tmp_path / "training.pt"
    state = torch.load(path, weights_only=True)
    assert "phoneme_head" not in state
    torch.save({**state, "phoneme_head": {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}}, path)
    resumed = CodecTrainer(clips(), config, tmp_path, sizes=RvqConfig.debug())
    assert resumed.step == 3
    assert resumed.run().digest == trained.digest


def test_a_codec_learns_voicing_anew_and_keeps_the_codes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    codec = RvqCodec(RvqConfig.debug()).eval()
    codes = codec.encode(speech(19_200))
    begun = codec.with_voicing().eval()
    assert begun.with_voicing() is begun
    assert torch.equal(begun.encode(speech(19_200)), codes)
    assert torch.equal(begun.decode(codes), codec.decode(codes)), "a voice everywhere is what there was before"
    config = CodecTraining(stage="decoder", minutes=30, max_steps=12, batch_seconds=2.0, log_every=1, judged_from=0.5)
    after = CodecTrainer(clips(), config, tmp_path, codec=begun, sizes=begun.config).run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["voicing"] < rows[0]["voicing"]
    assert "judge" not in rows[0]
    assert "judge" in rows[-1]
    assert torch.equal(after.encode(speech(19_200)), codes)


def test_more_codebooks_keep_the_codes_of_those_before() -> None:
    torch.manual_seed(3)
    codec = RvqCodec(RvqConfig.debug()).eval()
    codes = codec.encode(speech(19_200))
    assert codec.with_codebooks(codec.num_codebooks) is codec
    more = codec.with_codebooks(6).eval()
    assert more.encode(speech(19_200)).shape[1] == 6
    assert torch.equal(more.encode(speech(19_200))[:, :4], codes)
    assert torch.equal(more.decode(codes), codec.decode(codes))
    assert torch.equal(more.decode(more.encode(speech(19_200))), codec.decode(codes)), "empty codebooks add nothing"
    assert torch.equal(codec.with_codebooks(2).eval().encode(speech(19_200)), codes[:, :2])


def test_empty_codebooks_are_fitted_to_what_the_others_leave() -> None:
    torch.manual_seed(4)
    codec = RvqCodec(RvqConfig.debug()).eval()
    more = codec.with_codebooks(6).eval()
    assert (codec.quantizer.filled, more.quantizer.filled) == (4, 4)
    latents = codec.encoder(speech(192_000)[:, 0])[0]
    errors = [(latents - codec.quantizer.decode(codec.quantizer.encode(latents[None]))[0]).square().mean()]
    more.quantizer.fit(latents, first=4)
    assert more.quantizer.filled == 6
    codes = more.quantizer.encode(latents[None])
    assert torch.equal(codes[:, :4], codec.quantizer.encode(latents[None]))
    errors += [(latents - more.quantizer.decode(codes[:, :books])[0]).square().mean() for books in (5, 6)]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.8 * errors[1]


def test_pitch_is_learnt_from_the_first_two_codebooks(tmp_path: Path) -> None:
    config = CodecTraining(
        minutes=30, max_steps=30, batch_seconds=2.0, learning_rate=2e-2, log_every=1, early_weight=3.0
    )
    CodecTrainer(clips(), config, tmp_path, sizes=replace(RvqConfig.debug(), voicing=True)).run()
    early = [json.loads(line)["early"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(early[-5:]) < 0.8 * np.mean(early[:5])


def test_low_voices_are_half_of_the_batches(tmp_path: Path) -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    sounds = [
        sum(np.cos(2 * np.pi * hertz * k * time) / k for k in range(1, 9)) * 8000 for hertz in (90, 240, 240, 240, 240)
    ]
    tones = [Clip(audio=np.asarray(sound, np.int16), phonemes=[]) for sound in sounds]
    trainer = CodecTrainer(tones, CodecTraining(low_share=0.5), tmp_path, sizes=RvqConfig.debug())
    drawn = trainer._drawn(np.random.default_rng(0), 400)
    assert 160 < drawn.count(0) < 240
    assert set(drawn) == set(range(5))


def test_a_moved_clip_changes_pitch_and_length_alone(tmp_path: Path) -> None:
    trainer = CodecTrainer(clips(), CodecTraining(moved_share=1.0), tmp_path, sizes=RvqConfig.debug())
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    sound = (0.5 * np.sin(2 * np.pi * 200 * time)).astype(np.float32)
    moved = trainer._moved(sound, np.random.default_rng(1))
    factor = len(sound) / len(moved)
    assert factor != 1.0
    found = np.abs(np.fft.rfft(moved)).argmax() * SAMPLE_RATE / len(moved)
    assert found == pytest.approx(200 * factor, rel=0.01)
    assert np.abs(moved).max() == pytest.approx(0.5, rel=0.02)


def test_joint_training_goes_on_from_loaded_codebooks(tmp_path: Path) -> None:
    torch.manual_seed(3)
    codec = RvqCodec(RvqConfig.debug())
    before = codec.quantizer.codebooks.clone()
    config = CodecTraining(stage="joint", minutes=30, max_steps=1, batch_seconds=2.0)
    after = CodecTrainer(clips(), config, tmp_path, codec=codec, sizes=codec.config).run().quantizer.codebooks
    moved = (after - before).norm() / before.norm()
    assert 0 < moved < 0.2, "one step of an average that has seen much moves it a little"


def test_training_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no clips to train the codec from"):
        CodecTrainer([], CodecTraining(), tmp_path, sizes=RvqConfig.debug())


def test_delay_is_the_overlap_of_the_windows() -> None:
    assert DELAY == 720
    assert pytest.approx(0.03) == DELAY / SAMPLE_RATE


def test_clip_is_sixteen_bit() -> None:
    assert all(clip.audio.dtype == np.int16 for clip in clips())
