"""Generation: a pure function of its inputs, equal by every road, bounded, and polite about bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from csm_model.bundle import Bundle, load_bundle, read_manifest, write_bundle
from csm_model.config import TransformerConfig
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.frames import FRAME_SAMPLES
from csm_model.inference.context import ContextTurn
from csm_model.inference.draws import nearest_to_mean, noise, sample
from csm_model.inference.generator import Generator
from csm_model.inference.safety import MIN_FRAMES, frame_limit
from csm_model.inference.sampling import Sampling
from csm_model.quantize import RoundedLinear, quantize_rows
from csm_model.transformer import KVCache, Transformer


def codes_of(bundle: Bundle, **settings: object) -> torch.Tensor:
    stream = Generator(bundle).stream("Hello there.", 1, sampling=Sampling(**settings))  # type: ignore[arg-type]
    return torch.stack([frame.codes for frame in stream], dim=1)


def test_same_seed_same_speech_other_seed_other_speech(bundle: Bundle) -> None:
    assert torch.equal(codes_of(bundle, seed=3), codes_of(bundle, seed=3))
    one, other = codes_of(bundle, seed=3), codes_of(bundle, seed=4)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_stream_is_speech_in_pieces(bundle: Bundle) -> None:
    generator, sampling = Generator(bundle), Sampling(seed=5)
    stream = generator.stream("Hello there.", 0, sampling=sampling)
    pieces = [frame.audio for frame in stream]
    speech = generator.speak("Hello there.", 0, sampling=sampling)
    assert {piece.shape for piece in pieces} == {(FRAME_SAMPLES,)}
    assert np.array_equal(np.concatenate(pieces), speech.audio)
    decoded = bundle.codec.decode(speech.codes[None])[0, 0].numpy()
    assert np.array_equal(decoded, speech.audio)
    assert list(stream) == []
    assert stream.ended == speech.ended


def test_two_streams_at_once_do_not_touch(bundle: Bundle) -> None:
    generator = Generator(bundle)
    alone = [
        [frame.codes for frame in generator.stream("Good day.", speaker, sampling=Sampling(seed=speaker))]
        for speaker in (0, 1)
    ]
    a = generator.stream("Good day.", 0, sampling=Sampling(seed=0))
    b = generator.stream("Good day.", 1, sampling=Sampling(seed=1))
    mixed: list[list[torch.Tensor]] = [[], []]
    for turn in range(200):
        frame = next((a, b)[turn % 2], None)
        if frame is not None:
            mixed[turn % 2].append(frame.codes)
    assert [len(m) for m in mixed] == [len(s) for s in alone]
    assert all(torch.equal(x, y) for m, s in zip(mixed, alone, strict=True) for x, y in zip(m, s, strict=True))


def test_codes_stay_in_the_codebooks_and_speech_has_a_length(bundle: Bundle) -> None:
    for seed in range(5):
        codes = codes_of(bundle, seed=seed, temperature=5.0, depth_temperature=5.0, top_k=0)
        assert int(codes.max()) < bundle.model.config.codebook_size
        limit = frame_limit(len(bundle.tokenizer.encode("Hello there.", 1)))
        assert MIN_FRAMES <= codes.shape[1] <= limit


def test_max_frames_cuts_and_says_so(bundle: Bundle) -> None:
    speech = Generator(bundle).speak("Hello there.", 0, max_frames=4)
    assert speech.codes.shape[1] <= 4
    assert speech.ended == (speech.codes.shape[1] < 4)


def test_guidance_of_one_is_none_and_of_three_is_something(bundle: Bundle) -> None:
    plain = codes_of(bundle, seed=2)
    assert torch.equal(plain, codes_of(bundle, seed=2, guidance=1.0))
    guided = codes_of(bundle, seed=2, guidance=3.0)
    assert plain.shape != guided.shape or not torch.equal(plain, guided)


def test_guidance_of_the_depth_leaves_the_first_codebook_and_needs_guidance(bundle: Bundle) -> None:
    plain, guided = codes_of(bundle, seed=2), codes_of(bundle, seed=2, guidance=3.0)
    assert torch.equal(guided, codes_of(bundle, seed=2, guidance=3.0, depth_guidance=1.0))
    deep = codes_of(bundle, seed=2, guidance=3.0, depth_guidance=5.0)
    assert torch.equal(deep[:1, :1], guided[:1, :1])
    assert deep.shape != guided.shape or not torch.equal(deep, guided)
    assert torch.equal(plain, codes_of(bundle, seed=2, depth_guidance=5.0)), "without guidance there is none of it"


def test_a_mean_leaves_the_codebooks_before_and_after_to_be_drawn(bundle: Bundle) -> None:
    drawn = [codes_of(bundle, seed=seed, depth_mean=0) for seed in (2, 3)]
    meant = [codes_of(bundle, seed=seed, depth_mean=1) for seed in (2, 3)]
    for with_mean, without in zip(meant, drawn, strict=True):
        assert torch.equal(with_mean[:1, :1], without[:1, :1])
        assert with_mean.shape != without.shape or not torch.equal(with_mean, without)
    assert len(meant[0][1].unique()) < len(drawn[0][1].unique()), "random weights hardly move the odds, nor the mean"
    assert len(meant[0][2].unique()) > 1


def test_the_code_nearest_to_the_mean_need_not_be_a_likely_one() -> None:
    entries = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.1], [5.0, 5.0]], dtype=torch.float64)
    logits = torch.tensor([[2.0, 2.0, -9.0, -9.0, 99.0], [0.0, 9.0, 0.0, 0.0, 99.0], [-9.0, -9.0, -9.0, 2.0, 99.0]])
    meant = nearest_to_mean(logits, entries, temperature=torch.ones(3))
    assert meant.tolist() == [2, 1, 3], "the last id is none of the entries"
    cold = nearest_to_mean(logits, entries, temperature=torch.zeros(3))
    assert cold.tolist() == [2, 1, 3], "equal odds stay equal"
    warm = nearest_to_mean(torch.tensor([[1.0, 1.5, 0.0, -99.0]]), entries, temperature=torch.tensor([5.0]))
    sure = nearest_to_mean(torch.tensor([[1.0, 1.5, 0.0, -99.0]]), entries, temperature=torch.tensor([0.05]))
    assert (warm.tolist(), sure.tolist()) == ([2], [1])


def test_context_changes_speech(bundle: Bundle) -> None:
    generator = Generator(bundle)
    turn = ContextTurn(speaker=0, text="How are you?", codes=codes_of(bundle, seed=1))
    likely = Sampling(temperature=0.0, depth_temperature=0.0)  # random weights hardly move the odds, but the likeliest
    plain = generator.speak("I am fine.", 1, sampling=likely)
    after = generator.speak("I am fine.", 1, sampling=likely, context=[turn])
    assert plain.codes.shape != after.codes.shape or not torch.equal(plain.codes, after.codes)


@pytest.mark.parametrize(
    ("text", "speaker", "message"),
    [
        ("", 0, "nothing to say"),
        ("  ... !", 0, "nothing to say"),
        ("Hello.", 16, "speaker 16 is unknown: speakers are numbered 0 to 15"),
        ("Hello.", -1, "speaker -1 is unknown"),
        ("a" * 1001, 0, "1001 characters is too long"),
    ],
)
def test_bad_requests_are_refused_before_the_first_frame(bundle: Bundle, text: str, speaker: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Generator(bundle).stream(text, speaker)


def test_bad_context_is_refused(bundle: Bundle) -> None:
    generator, books = Generator(bundle), bundle.model.config.num_codebooks
    for codes, message in (
        (torch.zeros(books + 1, 3, dtype=torch.long), "context turn 0: codes of shape .* the model takes"),
        (torch.full((books, 3), 32), "another codec"),
    ):
        with pytest.raises(InputError, match=message):
            generator.stream("Hello.", 0, context=[ContextTurn(speaker=1, text="Hi.", codes=codes)])


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"seed": -1}, {"guidance": 11.0}],
)
def test_bad_sampling_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Sampling(**settings)  # type: ignore[arg-type]


def drawn(logits: torch.Tensor, *, temperature: float, top_k: int, seed: int = 0) -> torch.Tensor:
    """A draw from each row of `[B, V]`, with the noise of as many frames."""
    rows, ids = logits.shape
    gumbel = torch.cat([noise(seed, frame, (1, ids)) for frame in range(rows)])
    k = top_k or ids
    return sample(logits, gumbel, temperature=torch.full((rows,), temperature), top_k=torch.full((rows,), k), most=k)


def test_sample_keeps_to_the_top_k() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]])
    assert set(drawn(logits.expand(200, -1), temperature=2.0, top_k=2).tolist()) == {1, 2}
    assert int(drawn(logits, temperature=0.0, top_k=0)) == 1


def test_sample_draws_by_probability() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]])).expand(4000, -1)
    shares = torch.bincount(drawn(logits, temperature=1.0, top_k=0), minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.03, rtol=0)
    squared = torch.tensor([0.49, 0.04, 0.01]) / 0.54
    shares = torch.bincount(drawn(logits, temperature=0.5, top_k=0, seed=1), minlength=3) / 4000
    torch.testing.assert_close(shares, squared, atol=0.03, rtol=0)


def test_each_row_has_its_own_settings() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0]).expand(400, -1)
    cold, narrow, wide = (slice(0, 100), slice(100, 200), slice(200, 400))
    temperature, top_k = torch.full((400,), 5.0), torch.full((400,), 4)
    temperature[cold], top_k[narrow] = 0.0, 2
    gumbel = noise(0, 0, (400, 4))
    ids = sample(logits, gumbel, temperature=temperature, top_k=top_k, most=4)
    assert set(ids[cold].tolist()) == {1}
    assert set(ids[narrow].tolist()) == {1, 2}
    assert set(ids[wide].tolist()) == {0, 1, 2, 3}


def test_noise_is_a_function_of_seed_and_frame() -> None:
    assert torch.equal(noise(3, 7, (2, 5)), noise(3, 7, (2, 5)))
    kinds = [noise(seed, frame, (2, 5)) for seed in (0, 1, 2**63 - 1) for frame in (0, 1, 2)]
    assert len({tuple(each.flatten().tolist()) for each in kinds}) == 9


def test_noise_is_finite_so_that_no_temperature_takes_the_likeliest() -> None:
    """Frame 15 of seed 1 draws a 0 at CSM's size; times a temperature of 0, its infinite noise would win."""
    gumbel = noise(1, 15, (32, 2051))
    assert gumbel.isfinite().all()
    logits = torch.zeros(32, 2051)
    logits[:, 7] = 1.0
    ids = sample(logits, gumbel, temperature=torch.zeros(32), top_k=torch.full((32,), 2051), most=None)
    assert set(ids.tolist()) == {7}


def test_cache_gives_what_the_whole_gives() -> None:
    config = TransformerConfig(layers=2, dim=32, heads=4, kv_heads=2, ffn_dim=64)
    torch.manual_seed(0)
    stack = Transformer(config, max_rows=64).eval()
    x = torch.randn(1, 20, 32)
    with torch.inference_mode():
        whole = stack(x)
        cache = KVCache(config, batch_size=1, rows=20)
        parts = torch.cat([stack(part, cache) for part in x.split([7, 1, 1, 8, 3], dim=1)], dim=1)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_int8_rounds_each_row_to_within_half_a_step() -> None:
    weight = torch.randn(5, 7) * torch.tensor([[0.01], [1.0], [100.0], [0.0], [3.0]])
    rounded, scale = quantize_rows(weight)
    assert rounded.dtype == torch.int8
    assert ((rounded * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()
    x = torch.randn(3, 7)
    layer = RoundedLinear(rounded, scale, in_features=7)
    torch.testing.assert_close(layer(x), x @ (rounded * scale[:, None]).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 0.05), ("int8", 0.05)])
def test_bundle_round_trip(
    bundle: Bundle, codec_folder: Path, tmp_path: Path, precision: str, tolerance: float
) -> None:
    write_bundle(
        tmp_path / "b", model=bundle.model, tokenizer=bundle.tokenizer, codec_folder=codec_folder,
        precision=precision, info={"speakers": {"0": "ann"}, "sampling": {"temperature": 0.5}},  # type: ignore[arg-type]
    )  # fmt: skip
    loaded = load_bundle(tmp_path / "b")
    assert loaded.sampling.temperature == 0.5
    rows = torch.randint(0, 30, (1, 10, bundle.model.config.num_codebooks + 1))
    mask = torch.ones_like(rows, dtype=torch.bool)
    with torch.inference_mode():
        before, after = bundle.model.hidden(rows, mask), loaded.model.hidden(rows, mask)
    assert (before - after.float()).abs().max() <= tolerance * before.abs().max()


def test_int8_bundle_speaks_and_is_smaller(bundle: Bundle, codec_folder: Path, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "int8"):
        folder = tmp_path / precision
        write_bundle(folder, model=bundle.model, tokenizer=bundle.tokenizer, codec_folder=codec_folder,
                     precision=precision, info={})  # type: ignore[arg-type]  # fmt: skip
        sizes[precision] = (folder / "model.safetensors").stat().st_size
    assert sizes["int8"] < 0.6 * sizes["fp32"]
    assert Generator(load_bundle(tmp_path / "int8")).speak("Hello.", 0).audio.size


def test_changed_missing_or_absent_files_are_named(bundle_folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle_folder, copy)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(DigestError, match=r"tokenizer.json: its digest is not the one"):
        load_bundle(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(DigestError, match="missing; copy the bundle again"):
        load_bundle(copy)
    with pytest.raises(InputError, match="not a bundle"):
        read_manifest(tmp_path)


def test_bundle_without_codec_needs_the_right_one(bundle: Bundle, codec_folder: Path, tmp_path: Path) -> None:
    info = {"codec_digest": bundle.codec.digest}
    write_bundle(
        tmp_path / "b", model=bundle.model, tokenizer=bundle.tokenizer, codec_folder=None, precision="fp16", info=info
    )
    with pytest.raises(ArtifactError, match="carries no codec"):
        load_bundle(tmp_path / "b")
    assert load_bundle(tmp_path / "b", codec_folder=codec_folder).codec.digest == bundle.codec.digest
    write_bundle(
        tmp_path / "c", model=bundle.model, tokenizer=bundle.tokenizer, codec_folder=None, precision="fp16",
        info={"codec_digest": "0" * 64},
    )  # fmt: skip
    with pytest.raises(DigestError, match="trained on the codes of 000000000000"):
        load_bundle(tmp_path / "c", codec_folder=codec_folder)
