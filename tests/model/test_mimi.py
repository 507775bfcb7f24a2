"""`MimiCodec` against the moshi package itself, with a Mimi of the true size and random weights (no hub needed).

Codes are moshi's own and must be equal. The decoder is the project's: it does moshi's sums in other groups, so that a
sound with a standard deviation of 0.36 may differ by rounding (fp32). Its streams equal its whole decode.
"""

from __future__ import annotations

import json
import threading

import pytest
import torch

from csm_model.codec.mimi import HUB_FILE, HUB_REPOSITORY, MimiCodec
from csm_model.errors import ArtifactError, AudioError, DigestError, InputError, MissingDependencyError

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def codec() -> MimiCodec:
    return MimiCodec.random(0)


@pytest.fixture(scope="module")
def moshi_mimi(codec: MimiCodec):
    """moshi's own model, made by moshi, with the same weights."""
    from moshi.models import loaders

    model = loaders.get_mimi(None, num_codebooks=32)
    model.load_state_dict(codec._model.state_dict())
    return model


def sound(frames: float, *, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """`[batch, 1, frames * 1920]`: noise over a tone, so that no two frames are alike."""
    samples = int(frames * 1920)
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / 24_000
    noise = torch.randn(batch, 1, samples, generator=generator)
    return 0.2 * noise + 0.3 * torch.sin(2 * torch.pi * 220 * time)


def random_codes(frames: int, *, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2048, (batch, 32, frames), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def moshi_says(call, argument: torch.Tensor) -> torch.Tensor:
    from moshi.utils.compile import no_compile

    with no_compile():
        return call(argument)


def test_shape_of_the_codec(codec: MimiCodec) -> None:
    assert (codec.num_codebooks, codec.codebook_size) == (32, 2048)
    assert not codec._model.training
    assert {parameter.dtype for parameter in codec._model.parameters()} == {torch.float32}


@pytest.mark.parametrize("samples", [1, 1919, 1920, 1921, 5000])
def test_frames_are_samples_over_1920_rounded_up(codec: MimiCodec, samples: int) -> None:
    codes = codec.encode(sound(3)[..., :samples])
    assert codes.shape == (1, 32, -(-samples // 1920))
    assert codes.dtype == torch.int64


def test_codes_equal_moshis_own(codec: MimiCodec, moshi_mimi) -> None:
    audio = sound(4.4, batch=2)
    codes = codec.encode(audio)
    assert torch.equal(codes, moshi_says(moshi_mimi.encode, audio))
    # The comparison would mean nothing if every frame had the same code.
    assert all(codes[:, codebook].unique().numel() > 5 for codebook in range(32))


def test_padding_of_a_batch_does_not_change_whole_frames(codec: MimiCodec) -> None:
    audio = sound(3)
    alone = codec.encode(audio)
    longer = codec.encode(torch.cat([audio, torch.zeros(1, 1, 3840)], dim=2))
    assert torch.equal(alone, longer[..., :3])


def test_decode_equals_moshis_own(codec: MimiCodec, moshi_mimi) -> None:
    codes = random_codes(4, batch=2)
    torch.testing.assert_close(codec.decode(codes), moshi_says(moshi_mimi.decode, codes), rtol=0, atol=TOLERANCE)


def test_streaming_decode_equals_whole_decode(codec: MimiCodec) -> None:
    codes = random_codes(8, batch=2)
    whole = codec.decode(codes)
    decoder = codec.streaming_decoder(batch_size=2)
    parts = [decoder.step(piece) for piece in codes.split([1, 1, 3, 2, 1], dim=2)]
    assert [part.shape[2] // 1920 for part in parts] == [1, 1, 3, 2, 1]
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_decode_equals_moshis_past_the_attention_context(codec: MimiCodec, moshi_mimi) -> None:
    """10 s are 125 frames: after that the ring of keys and values goes round."""
    codes = random_codes(135)
    decoder = codec.streaming_decoder()
    sound = torch.cat([decoder.step(piece) for piece in codes.split(45, dim=2)], dim=2)
    torch.testing.assert_close(sound, moshi_says(moshi_mimi.decode, codes), rtol=0, atol=TOLERANCE)
    by_frames = codec.slot_decoder(1)
    assert torch.equal(torch.cat([by_frames.step(piece, [0]) for piece in codes.split(1, dim=2)], dim=2), sound)


def test_streams_do_not_disturb_each_other(codec: MimiCodec) -> None:
    """Two decoders in turn, a whole decode and an encode between them, from several threads."""
    codes = [random_codes(4, seed=seed) for seed in (1, 2)]
    alone = [codec.decode(code) for code in codes]
    heard: dict[int, torch.Tensor] = {}
    expected, encoded = codec.encode(sound(1)), []

    def listen(stream: int) -> None:
        decoder = codec.streaming_decoder()
        parts = []
        for frame in range(4):
            parts.append(decoder.step(codes[stream][..., frame : frame + 1]))
            encoded.append(codec.encode(sound(1)))
        heard[stream] = torch.cat(parts, dim=2)

    threads = [threading.Thread(target=listen, args=(stream,)) for stream in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stream in (0, 1):
        assert torch.equal(heard[stream], alone[stream])
    assert len(encoded) == 8
    assert all(torch.equal(codes, expected) for codes in encoded)


@pytest.mark.parametrize("reserved", [-1, 2048, 2049, 2050])
def test_reserved_ids_are_refused_and_the_stream_goes_on(codec: MimiCodec, reserved: int) -> None:
    codes = random_codes(3)
    wrong = codes.clone()
    wrong[0, 7, 2] = reserved
    decoder = codec.streaming_decoder()
    for decode in (codec.decode, decoder.step):
        with pytest.raises(InputError, match=rf"code {reserved} at frame 2, codebook 7; Mimi knows 0 to 2047"):
            decode(wrong)
    assert torch.equal(decoder.step(codes), codec.decode(codes))


def test_wrong_shapes_are_refused(codec: MimiCodec) -> None:
    with pytest.raises(AudioError, match=r"\[batch, 1, samples\]"):
        codec.encode(torch.zeros(1, 2, 1920))
    with pytest.raises(AudioError, match="one sample or more"):
        codec.encode(torch.zeros(1, 1, 0))
    with pytest.raises(InputError, match=r"\[batch, 32, frames\]"):
        codec.decode(random_codes(2)[:, :8])
    with pytest.raises(InputError, match="integers from 0 to 2047"):
        codec.decode(random_codes(2).float())
    with pytest.raises(InputError, match="made for 2"):
        codec.streaming_decoder(2).step(random_codes(1))
    with pytest.raises(InputError, match="one stream or more"):
        codec.streaming_decoder(0)
    assert codec.decode(random_codes(0)).shape == (1, 1, 0)
    assert codec.streaming_decoder().step(random_codes(0)).shape == (1, 1, 0)


def test_saved_and_loaded_again(codec: MimiCodec, tmp_path) -> None:
    codec.save(tmp_path)
    loaded = MimiCodec.load(tmp_path)
    assert loaded.digest == codec.digest
    assert torch.equal(loaded.encode(sound(1)), codec.encode(sound(1)))

    config = json.loads((tmp_path / "codec.json").read_text())
    (tmp_path / "codec.json").write_text(json.dumps(config | {"num_codebooks": 8}))
    with pytest.raises(DigestError, match="the codec's digest is"):
        MimiCodec.load(tmp_path)


def test_fewer_codebooks_are_a_prefix(codec: MimiCodec) -> None:
    fewer = MimiCodec.random(0, num_codebooks=8)
    assert fewer.digest != codec.digest
    assert torch.equal(fewer.encode(sound(2)), codec.encode(sound(2))[:, :8])


@pytest.mark.parametrize("count", [0, 33])
def test_a_wrong_number_of_codebooks_is_refused(codec: MimiCodec, count: int) -> None:
    with pytest.raises(InputError, match=f"num_codebooks is {count}; Mimi has 1 to 32"):
        MimiCodec(codec._model, num_codebooks=count)


def test_weights_that_are_not_mimi(tmp_path) -> None:
    from safetensors.torch import save_file

    missing = tmp_path / "absent.safetensors"
    with pytest.raises(InputError, match="no such file of Mimi weights"):
        MimiCodec.from_weights(missing)
    with pytest.raises(InputError, match="no such file of Mimi weights"):
        MimiCodec.from_weights("weights/mimi.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights at all")
    with pytest.raises(ArtifactError, match="not Mimi weights in moshi's layout"):
        MimiCodec.from_weights(damaged)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(ArtifactError, match=f"use {HUB_FILE} of {HUB_REPOSITORY}"):
        MimiCodec.from_weights(other)
    (tmp_path / "codec.json").write_text('{"kind": "rvq"}')
    with pytest.raises(ArtifactError, match="does not describe a Mimi codec"):
        MimiCodec.load(tmp_path)


@pytest.mark.parametrize("name", [HUB_REPOSITORY, "hf://kyutai/some-repository/some-file.safetensors"])
def test_a_hub_that_cannot_be_reached_is_said_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"cannot be had from .* give its path as the weights") as caught:
        MimiCodec.from_weights(name)
    assert "\n" not in str(caught.value)


def test_the_same_seed_gives_the_same_codec(codec: MimiCodec) -> None:
    state = torch.random.get_rng_state()
    weight, again, other = (next(one._model.parameters()) for one in (codec, MimiCodec.random(0), MimiCodec.random(1)))
    assert torch.equal(weight, again)
    assert not torch.equal(weight, other)
    assert torch.equal(state, torch.random.get_rng_state()), "making a codec moved the caller's random numbers"
