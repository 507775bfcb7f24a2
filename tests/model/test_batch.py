"""Many streams in one model: each says what it says alone, whenever it comes in, and goes on where it broke off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from csm_model.bundle import Bundle
from csm_model.config import debug_config
from csm_model.errors import InputError
from csm_model.inference.batch import Frame, SpeechBatch
from csm_model.inference.context import ContextTurn, VoicePrompt
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.generator import Generator
from csm_model.inference.narration import BETWEEN, Heard, Utterance
from csm_model.inference.prefixes import PrefixCache
from csm_model.inference.prompt import text_rows
from csm_model.inference.safety import Bounds, Reason
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel

OFF = Bounds(silent_frames=0, repeated_frames=0)
DEEP = Sampling(guidance=2.0, depth_guidance=3.0, depth_mean=2)
LONG = "Hello there. How are you today? It is sunny; we go out."


def asked(text: str = "Good day to you.", seed: int = 0, **given: object) -> Utterance:
    given.setdefault("sampling", Sampling(seed=seed))
    return Utterance(text=text, speaker=seed % 2, **given)  # type: ignore[arg-type]


def run(batch: SpeechBatch, slots: Sequence[int], most: int = 10_000) -> dict[int, list[Frame]]:
    """Steps streams together until all of them are over, or `most` steps are made."""
    frames: dict[int, list[Frame]] = defaultdict(list)
    for _ in range(most):
        live = [slot for slot in slots if batch.over(slot) is None and not batch.waits(slot)]
        if not live:
            break
        for slot in live:
            if batch.reads(slot):
                batch.prefill(slot)
        sounding = [slot for slot in live if batch.sounds(slot)]
        if sounding:
            batch.step(sounding, lambda slot, frame: frames[slot].append(frame))
    return frames


def alone(bundle: Bundle, utterance: Utterance) -> list[Frame]:
    batch = SpeechBatch(bundle, slots=1, bounds=OFF)
    batch.open(0, utterance)
    return run(batch, [0])[0]


def codes_of(frames: Sequence[Frame]) -> torch.Tensor:
    return torch.stack([frame.codes for frame in frames], dim=1)


def same(frames: Sequence[Frame], others: Sequence[Frame]) -> bool:
    return (
        [(f.index, f.sentence) for f in frames] == [(f.index, f.sentence) for f in others]
        and torch.equal(codes_of(frames), codes_of(others))
        and all(np.array_equal(f.audio, o.audio) for f, o in zip(frames, others, strict=True))
    )


def variety(bundle: Bundle) -> list[Utterance]:
    books = bundle.model.config.num_codebooks
    said = torch.randint(0, 32, (books, 9), generator=torch.Generator().manual_seed(1))
    turn = ContextTurn(speaker=1, text="Well, well.", codes=said)
    voice = VoicePrompt(speaker=0, text="This is me.", codes=said[:, :5])
    return [
        asked(seed=1),
        asked(LONG, seed=2, context=(turn,)),
        asked("Guided.", seed=3, sampling=Sampling(seed=3, guidance=2.0)),
        asked("In a voice of its own.", seed=4, voice=voice),
        asked("Hot.", seed=5, sampling=Sampling(seed=5, temperature=2.0, depth_temperature=1.5, top_k=0)),
        asked("Most likely.", seed=6, sampling=Sampling(temperature=0.0, depth_temperature=0.0), max_frames=20),
    ]


@pytest.mark.parametrize("joins", ["together", "one after another", "in other slots"])
def test_a_stream_says_among_others_what_it_says_alone(bundle: Bundle, joins: str) -> None:
    all_asked = variety(bundle)
    expected = [alone(bundle, one) for one in all_asked]
    batch = SpeechBatch(bundle, slots=len(all_asked) + 2, bounds=OFF)
    slots = [(5 * n + 3) % batch.slots if joins == "in other slots" else n for n in range(len(all_asked))]
    heard: dict[int, list[Frame]] = defaultdict(list)
    for slot, one in zip(slots, all_asked, strict=True):
        batch.open(slot, one)
        if joins != "together":
            opened = slots[: slots.index(slot) + 1]
            for mine, frames in run(batch, opened, most=5).items():
                heard[mine] += frames
    for slot, frames in run(batch, slots).items():
        heard[slot] += frames
    for slot, frames in zip(slots, expected, strict=True):
        assert same(heard[slot], frames), f"slot {slot}"


def test_a_slot_that_was_used_before_is_as_good_as_new(bundle: Bundle) -> None:
    batch = SpeechBatch(bundle, slots=2, bounds=OFF)
    for one in variety(bundle):
        batch.open(1, one)
        frames = run(batch, [1])[1]
        batch.close(1)
        assert same(frames, alone(bundle, one))


def test_left_in_the_middle_a_stream_takes_nothing_from_the_others(bundle: Bundle) -> None:
    batch = SpeechBatch(bundle, slots=3, bounds=OFF)
    for slot in range(3):
        batch.open(slot, asked(seed=slot))
    heard = run(batch, [0, 1, 2], most=6)
    batch.close(1)
    batch.open(1, asked("Somebody else.", seed=7))
    for slot, frames in run(batch, [0, 1, 2]).items():
        heard[slot] += [] if slot == 1 else frames
    assert same(heard[0], alone(bundle, asked(seed=0)))
    assert same(heard[2], alone(bundle, asked(seed=2)))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_a_broken_stream_goes_on_from_any_frame_as_if_nothing_had_been(bundle: Bundle, number: int) -> None:
    utterance = variety(bundle)[number]
    whole = alone(bundle, utterance)
    for count in sorted({1, 2, len(whole) // 3, len(whole) // 2, len(whole) - 1}):
        heard = Heard(codes=codes_of(whole[:count]), sentences=tuple(frame.sentence for frame in whole[:count]))
        assert same(alone(bundle, replace(utterance, heard=heard)), whole[count:]), f"after {count} of {len(whole)}"


@pytest.mark.parametrize("short", [False, True])
def test_streams_that_go_on_are_led_through_together_as_if_each_were_alone(bundle: Bundle, short: bool) -> None:
    utterances = variety(bundle)
    wholes = [alone(bundle, utterance) for utterance in utterances]
    counts = [max(1, len(whole) - 2 - number) for number, whole in enumerate(wholes)]
    batch = SpeechBatch(bundle, slots=len(wholes), bounds=OFF)
    for slot, (utterance, whole, count) in enumerate(zip(utterances, wholes, counts, strict=True)):
        heard = Heard(codes=codes_of(whole[:count]), sentences=tuple(frame.sentence for frame in whole[:count]))
        batch.open(slot, replace(utterance, heard=heard))
    while going_on := [slot for slot in range(len(wholes)) if batch.leads(slot)]:
        batch.lead(going_on, short=short)
    found = run(batch, range(len(wholes)))
    for slot, (whole, count) in enumerate(zip(wholes, counts, strict=True)):
        assert same(found[slot], whole[count:]), slot


def test_a_long_resume_is_led_through_bit_by_bit_and_takes_text_meanwhile(bundle: Bundle) -> None:
    whole = alone(bundle, asked(LONG, seed=2, sentences=True))
    count = len(whole) - 2
    heard = Heard(codes=codes_of(whole[:count]), sentences=tuple(frame.sentence for frame in whole[:count]))
    batch = SpeechBatch(bundle, slots=1, bounds=OFF)
    batch.open(0, asked(LONG[:-5], seed=2, more=True, heard=heard))
    batch.add(0, LONG[-5:], more=False)
    reads = 0
    while batch.reads(0):
        assert not batch.sounds(0)
        assert not batch.waits(0)
        assert batch.over(0) is None
        batch.prefill(0)
        reads += 1
    assert reads >= count // 8, "no more than a few frames at once"
    assert same(run(batch, [0])[0], whole[count:])


def test_all_of_it_heard_is_only_over(bundle: Bundle) -> None:
    whole = alone(bundle, asked(seed=1, max_frames=6))
    batch = SpeechBatch(bundle, slots=1, bounds=OFF)
    heard = Heard(codes=codes_of(whole), sentences=(0,) * len(whole))
    batch.open(0, asked(seed=1, max_frames=6, heard=heard))
    assert not run(batch, [0])
    assert batch.over(0) is (Reason.CUT if len(whole) == 6 else Reason.ENDED)


def test_frames_that_do_not_fit_the_text_are_no_beginning_of_it(bundle: Bundle) -> None:
    batch = SpeechBatch(bundle, slots=1, bounds=OFF)
    for sentences in ((1, 1, 1), (0, BETWEEN, 0), (0, 0, 2)):
        heard = Heard(codes=torch.zeros(bundle.model.config.num_codebooks, 3, dtype=torch.long), sentences=sentences)
        with pytest.raises(InputError, match="does not fit the text"):
            batch.open(0, asked("Only one sentence.", heard=heard))


def test_text_in_parts_is_the_text_and_a_stream_waits_for_it(bundle: Bundle) -> None:
    batch = SpeechBatch(bundle, slots=2, bounds=OFF)
    batch.open(0, asked("Hello the", seed=2, more=True))
    batch.open(1, asked(seed=5))
    heard = run(batch, [0, 1])
    assert not heard[0]
    assert batch.waits(0)
    batch.add(0, "re. How are you to", more=True)
    heard[0] += run(batch, [0])[0]
    assert batch.waits(0)
    assert {frame.sentence for frame in heard[0]} == {0}
    batch.add(0, "day? It is sunny; we go out.", more=False)
    heard[0] += run(batch, [0])[0]
    assert batch.over(0) is not None
    assert same(heard[0], alone(bundle, asked(LONG, seed=2, sentences=True)))
    with pytest.raises(InputError, match="has ended"):
        batch.add(0, "More.", more=False)
    assert BETWEEN in {frame.sentence for frame in heard[0]}
    assert same(heard[1], alone(bundle, asked(seed=5)))


def test_a_text_that_comes_to_nothing_fails_its_stream(bundle: Bundle) -> None:
    batch = SpeechBatch(bundle, slots=1, bounds=OFF)
    batch.open(0, asked("...", more=True))
    with pytest.raises(InputError, match="nothing to say"):
        batch.add(0, " !", more=False)
    assert isinstance(batch.over(0), InputError)


def test_the_most_frames_bound_all_sentences_and_the_pauses_between_them(bundle: Bundle) -> None:
    whole = alone(bundle, asked(LONG, seed=2, sentences=True))
    for most in range(1, len(whole), 7):
        frames = alone(bundle, asked(LONG, seed=2, sentences=True, max_frames=most))
        assert len(frames) <= most
        assert same(frames, whole[: len(frames)])
        assert frames[-1].sentence != BETWEEN


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_prompt_that_is_read_in_chunks_is_the_prompt(bundle: Bundle, rows: int) -> None:
    for one in variety(bundle)[:4]:
        batch = SpeechBatch(bundle, slots=1, bounds=OFF, prefill_rows=rows)
        batch.open(0, one)
        assert torch.equal(codes_of(run(batch, [0])[0]), codes_of(alone(bundle, one)))


def test_a_voice_is_read_once_and_copied_from_then_on(bundle: Bundle) -> None:
    codes = torch.randint(0, 32, (bundle.model.config.num_codebooks, 6), generator=torch.Generator().manual_seed(4))
    voice = VoicePrompt(speaker=0, text="This is me.", codes=codes)
    one = asked("In a voice of its own.", seed=4, voice=voice)
    fresh = alone(bundle, one)
    batch = SpeechBatch(bundle, slots=2, bounds=OFF)
    for slot, (hits, misses) in enumerate([(0, 1), (1, 1)]):
        batch.open(slot, one)
        assert (batch.prefixes.hits, batch.prefixes.misses) == (hits, misses)
        assert same(run(batch, [slot])[slot], fresh)
    forgetful = SpeechBatch(bundle, slots=1, bounds=OFF, prefixes=PrefixCache(0))
    for _ in range(2):
        forgetful.open(0, one)
        assert same(run(forgetful, [0])[0], fresh)
        forgetful.close(0)
    assert forgetful.prefixes.hits == 0


def test_the_batch_says_what_the_generator_says(bundle: Bundle) -> None:
    speech = Generator(bundle, bounds=OFF).speak("Good day to you.", 1, sampling=Sampling(seed=1))
    frames = alone(bundle, asked(seed=1))
    assert torch.equal(codes_of(frames), speech.codes)
    assert np.array_equal(np.concatenate([frame.audio for frame in frames]), speech.audio)


def test_nothing_in_a_frame_waits_for_the_numbers_in_it() -> None:
    """On the meta device tensors have no numbers: whoever asks for one fails."""
    config = debug_config(text_vocab_size=64, num_codebooks=4, codebook_size=32)
    model = CsmModel(config).to("meta")
    decoder = FrameDecoder(model, slots=4, rows=64, entries=torch.rand(4, 32, 5))
    for slot, sampling in enumerate([Sampling(), Sampling(guidance=2.0), DEEP, Sampling(top_k=0)]):
        decoder.begin(slot, sampling)
        decoder.read(slot, Prompt(*text_rows([1, 2, 3], config)))
    for slots in ([0], [2, 1], [3, 0, 1, 2]):
        frame = decoder.draw(slots, [True] * len(slots))
        assert frame.codes.shape == (len(slots), 4)
        assert frame.codes.is_meta
        decoder.feed(slots, frame.codes)
    assert [decoder.held(slot) for slot in range(4)] == [5, 5, 5, 4]


@pytest.mark.parametrize("part", ["draw", "feed"])
def test_a_frame_is_one_graph(part: str) -> None:
    config = debug_config(text_vocab_size=64, num_codebooks=4, codebook_size=32)
    torch.manual_seed(0)
    model = CsmModel(config).eval().requires_grad_(False)
    decoder = FrameDecoder(model, slots=3, rows=64, entries=torch.rand(4, 32, 5))
    for slot, sampling in enumerate([Sampling(), DEEP, Sampling(seed=3)]):
        decoder.begin(slot, sampling)
        decoder.read(slot, Prompt(*text_rows([1, 2, 3], config)))
    slots = [2, 0, 1]
    step = decoder._prepare(slots, [True] * 3)
    eager = decoder.draw(slots, [True] * 3)
    with torch.inference_mode():
        if part == "draw":
            whole = torch.compile(decoder._draw, fullgraph=True, backend="eager")
            assert torch.equal(whole(step).codes, eager.codes)
        else:
            whole = torch.compile(decoder._feed, fullgraph=True, backend="eager")
            whole(decoder._sequences(slots), eager.codes[[0, 1, 2, 2]], 4)
            state = decoder._state.clone()
            for slot in range(3):
                decoder.begin(slot, decoder._sampling[slot], keep=3)
            decoder.feed(slots, eager.codes)
            torch.testing.assert_close(decoder._state, state)
