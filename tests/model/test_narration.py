"""A long text is one sound: sentence by sentence, each after the ones before, through one state of the codec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from csm_model.bundle import Bundle
from csm_model.codec import load_codec
from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_model.inference.batch import SpeechBatch, silence_codes
from csm_model.inference.context import ContextTurn, VoicePrompt
from csm_model.inference.generator import Generator, SpokenFrames
from csm_model.inference.narration import Narration, Utterance, sentence_seed, trained_turns
from csm_model.inference.safety import SILENCE_FLOOR, Bounds, Reason
from csm_model.inference.sampling import Sampling

TEXT = "Hello there. How are you?\n\nIt is sunny; we go out."
OFF = Bounds(silent_frames=0, repeated_frames=0)
DEMO_CODEC = Path(__file__).parents[2] / "deploy" / "demo" / "codec"


def spoken(speech: SpokenFrames) -> tuple[torch.Tensor, np.ndarray]:
    frames = list(speech)
    return torch.stack([frame.codes for frame in frames], dim=1), np.concatenate([frame.audio for frame in frames])


def seed_that_ends(generator: Generator, texts: list[str]) -> int:
    """A seed with which the model ends every one of them, spoken after one another."""
    for seed in range(200):
        speech = generator.narrate("\n\n".join(texts), 0, sampling=Sampling(seed=seed))
        spoken(speech)
        if speech.ended:
            return seed
    raise AssertionError("no seed ends")


def test_the_sound_is_the_whole_decode_of_all_codes(bundle: Bundle) -> None:
    speech = Generator(bundle, bounds=OFF).narrate(TEXT, 1, sampling=Sampling(seed=4))
    codes, audio = spoken(speech)
    assert np.array_equal(bundle.codec.decode(codes[None])[0, 0].numpy(), audio)
    assert [sentence.piece.text for sentence in speech.sentences] == [
        "Hello there.", "How are you?", "It is sunny; we go out.",
    ]  # fmt: skip
    first, second, third = speech.sentences
    assert (first.begin, second.begin) == (0, first.frames + first.piece.pause)
    assert third.begin == second.begin + second.frames + second.piece.pause
    assert codes.shape[1] == third.begin + third.frames
    pause = codes[:, first.frames : second.begin]
    assert torch.equal(pause, silence_codes(bundle.codec, first.piece.pause))
    assert second.piece.pause > first.piece.pause > 0


def test_parts_of_the_text_are_spoken_as_they_come(bundle: Bundle) -> None:
    generator, sampling = Generator(bundle, bounds=OFF), Sampling(seed=4)
    given = []

    def parts() -> Iterator[str]:
        for part in ("Hel", "lo there. H", "ow are ", "you?\n", "\nIt is sunny; we", " go out."):
            given.append(part)
            yield part

    speech = generator.narrate(parts(), 1, sampling=sampling)
    first = next(speech)
    assert given == ["Hel", "lo there. H"], "the first sentence is spoken before the rest is there"
    codes = torch.stack([first.codes, *(frame.codes for frame in speech)], dim=1)
    assert torch.equal(codes, spoken(generator.narrate(TEXT, 1, sampling=sampling))[0])


def test_one_sentence_is_what_the_generator_says(bundle: Bundle) -> None:
    generator, sampling = Generator(bundle), Sampling(seed=9)
    codes, audio = spoken(generator.narrate("How are you?", 0, sampling=sampling))
    plain = generator.speak("How are you?", 0, sampling=sampling)
    assert torch.equal(codes, plain.codes)
    assert np.array_equal(audio, plain.audio)


def test_each_sentence_hears_the_ones_before_that_the_model_ended(bundle: Bundle) -> None:
    generator = Generator(bundle, bounds=OFF)
    seed = seed_that_ends(generator, ["Hello there.", "How are you?"])
    voice = VoicePrompt(speaker=0, text="Me.", codes=torch.zeros(bundle.codec.num_codebooks, 2, dtype=torch.long))
    for given in (None, voice):
        speech = generator.narrate("Hello there. How are you?", 0, voice=given, sampling=Sampling(seed=seed))
        codes, _ = spoken(speech)
        first, second = speech.sentences
        said = ContextTurn(speaker=0, text="Hello there.", codes=codes[:, : first.frames])
        alone = generator.stream(
            "How are you?", 0, context=[said] if first.reason is Reason.ENDED else [], voice=given,
            sampling=Sampling(seed=sentence_seed(seed, 1)),
        )  # fmt: skip
        assert torch.equal(torch.stack([frame.codes for frame in alone], 1), codes[:, second.begin :])
    deaf = generator.narrate("Hello there. How are you?", 0, sampling=Sampling(seed=seed), turns=0)
    codes, _ = spoken(deaf)
    plain = generator.stream("How are you?", 0, sampling=Sampling(seed=sentence_seed(seed, 1)))
    assert torch.equal(torch.stack([frame.codes for frame in plain], 1), codes[:, deaf.sentences[1].begin :])


def test_what_was_stopped_is_no_context_and_silence_needs_no_pause(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csm_model.inference.safety.SILENCE_FLOOR", 10.0)
    generator = Generator(bundle, bounds=Bounds(silent_frames=3, repeated_frames=0))
    speech = generator.narrate("Hello there. How are you?", 0, sampling=Sampling(seed=2))
    codes, _ = spoken(speech)
    assert not speech.ended
    assert [(s.begin, s.frames, s.reason) for s in speech.sentences] == [
        (0, 3, Reason.SILENCE), (3, 3, Reason.SILENCE),
    ]  # fmt: skip
    alone = generator.speak("How are you?", 0, sampling=Sampling(seed=sentence_seed(2, 1)))
    assert torch.equal(alone.codes, codes[:, 3:])


def test_seeds_differ_and_are_the_same_again() -> None:
    seeds = {sentence_seed(seed, index) for seed in (0, 1, 2**63 - 1) for index in range(50)}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sentence_seed(7, 0) == 7
    assert sentence_seed(7, 3) == sentence_seed(7, 3)


def test_turns_are_as_many_as_in_training() -> None:
    assert trained_turns({"recipe": {"max_turns": 2}}) == 1
    assert trained_turns({"recipe": {"max_turns": 0}}) is None
    assert trained_turns({}) is None


@pytest.mark.parametrize("text", ["How are you?", "Hello there. How are you?"], ids=["one", "sentences"])
@pytest.mark.parametrize("trained", [1, 2, 3])
def test_a_whole_conversation_is_heard_as_far_as_the_model_was_trained(bundle: Bundle, text: str, trained: int) -> None:
    """Not a bit of what is older is in the speech, and how many turns that are is told."""
    taught = replace(bundle, manifest={**bundle.manifest, "recipe": {"max_turns": trained}})
    free = replace(bundle, manifest={key: value for key, value in bundle.manifest.items() if key != "recipe"})
    sound = torch.arange(bundle.codec.num_codebooks * 3).view(-1, 3) % bundle.model.config.codebook_size
    turns = [ContextTurn(speaker=n % 2, text=f"Turn {n}.", codes=sound if n % 2 else None) for n in range(4)]
    newest = turns[len(turns) - (trained - 1) :]
    asked = Utterance(text=text, speaker=0, sampling=Sampling(seed=3), sentences=text.count(".") > 0, max_frames=12)
    heard = SpokenFrames(SpeechBatch(taught, slots=1), replace(asked, context=tuple(turns)))
    alone = SpokenFrames(SpeechBatch(free, slots=1), replace(asked, context=tuple(newest), turns=trained - 1))
    assert torch.equal(spoken(heard)[0], spoken(alone)[0])
    assert (heard.dropped, alone.dropped) == (len(turns) - len(newest), 0)
    all_of_it = SpokenFrames(SpeechBatch(free, slots=1), replace(asked, context=tuple(turns)))
    next(all_of_it)
    assert all_of_it.dropped == 0, "a bundle without a recipe hears all that fit"


def narration_of(text: str | list[str], bundle: Bundle, **asked: object) -> Narration:
    """A narration that has all of its text."""
    parts = [text] if isinstance(text, str) else text
    first, *rest = parts
    narration = Narration(
        Utterance(text=first, speaker=0, more=bool(rest), **asked),  # type: ignore[arg-type]
        bundle=bundle,
        bounds=OFF,
    )
    for number, part in enumerate(rest, 1):
        narration.add(part, more=number < len(rest))
    return narration


def said_by(narration: Narration) -> list[tuple[str, int]]:
    """Every sentence, and the frames of silence before it; spoken without a model."""
    said = []
    while narration.advance():
        said.append((narration._piece.text if narration._piece else "", narration.pause))
        while narration.pause:
            narration.passed()
        narration.finish(Reason.ENDED)
    return said


@pytest.mark.parametrize(
    "foreign", ["你好世界。", "مرحبا.", "שלום.", "こんにちは。", "Привет мир.", "👍👍", "$$$", ":)"]
)
def test_what_cannot_be_said_is_left_out_and_the_rest_is_said(bundle: Bundle, foreign: str) -> None:
    before, after = "Hello there, this is the first sentence of a rather long text.", "And then he left the house."
    narration = narration_of(f"{before} {foreign} {after}", bundle)
    assert [text for text, _ in said_by(narration)] == [before, after]
    assert set(narration.left_out) == set(foreign) - set(".。 ")
    assert narration.reason is Reason.ENDED


@pytest.mark.parametrize("parts", [["Hello 你好 world"], ["Hel", "lo 你", "好 wor", "ld"]])
def test_left_out_signs_are_counted_in_whole_texts_and_parts(bundle: Bundle, parts: list[str]) -> None:
    narration = narration_of(parts, bundle)
    assert [text for text, _ in said_by(narration)] == ["Hello world"]
    assert narration.left_out == "你好"


def test_a_text_that_ends_with_what_cannot_be_said_ends_well(bundle: Bundle) -> None:
    narration = narration_of("Hello there. How are you today, my friend? " + "你好。" * 60, bundle)
    assert [text for text, _ in said_by(narration)] == ["Hello there.", "How are you today, my friend?"]
    assert narration.left_out == "你好" * 60
    assert narration.reason is Reason.ENDED
    assert not narration.waiting


@pytest.mark.parametrize("text", ["你好", "👍", "# *", "你好。" * 50, "$$$ ... ?!"])
def test_a_text_with_nothing_left_is_refused_at_once(bundle: Bundle, text: str) -> None:
    with pytest.raises(InputError, match="nothing to say") as caught:
        narration_of(text, bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Call 777777777, 888888888, 999999999, 777777777, 888888888.",
        "We sold 17,345 in May and 28,977 in June and 31,255 in July and 44,188 in August.",
        "The numbers are 4,815,162 and 3,423,108, and last year 2,718,281 and 1,618,033 came.",
        "1234567890123456789012345678901234567",
        "9" * 300,
        "https://www.example.com/a/b/c?d=1&e=2&f=3&g=4&h=5",
    ],
)
@pytest.mark.parametrize("parted", [False, True])
def test_no_sentence_is_longer_than_those_of_training(bundle: Bundle, text: str, parted: bool) -> None:
    tokenizer = bundle.tokenizer
    narration = narration_of(list(text) if parted else text, bundle)
    said = [words for words, _ in said_by(narration)]
    assert all(tokenizer.sounds(tokenizer.encode(words, 0)) <= tokenizer.longest_turn for words in said)
    assert len(said) > 1
    together = "".join(character for character in " ".join(said) if character.isalpha())
    assert together == "".join(character for character in tokenizer.read(text).words if character.isalpha())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hi <break time='1s'/> there.", [("Hi", 0), ("there.", 12)]),
        ("<break time='500ms'/>Hi.", [("Hi.", 6)]),
        ("One. <break time='2s'/> Two.", [("One.", 0), ("Two.", 25)]),
        ("One. <break time='80ms'/> Two.", [("One.", 0), ("Two.", 5)]),
        ("One. <break time='1s'/> <break time='1s'/>\n\n你好。 Two.", [("One.", 0), ("Two.", 24)]),
        ("Hi. <break time='1s'/>", [("Hi.", 0)]),
    ],
)
@pytest.mark.parametrize("parted", [False, True])
def test_pauses_that_are_asked_for_are_kept(
    bundle: Bundle, text: str, said: list[tuple[str, int]], parted: bool
) -> None:
    asked = {} if parted else {"sentences": True}
    assert said_by(narration_of(list(text) if parted else text, bundle, **asked)) == said


def test_an_unknown_speaker_is_refused_at_once(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="speaker 99 is unknown"):
        Generator(bundle).narrate("Hello.", 99)


def test_nothing_to_say_is_refused(bundle: Bundle) -> None:
    for text in ("", "... ?!", iter(["", " "])):
        with pytest.raises(InputError, match="nothing to say"):
            next(Generator(bundle).narrate(text, 0))
    with pytest.raises(InputError, match="turns -1"):
        Generator(bundle).narrate("Hello.", 0, turns=-1)


def test_pauses_of_the_demo_codec_are_silent_and_do_not_click() -> None:
    codec = load_codec(DEMO_CODEC)
    rng = torch.Generator().manual_seed(0)
    time = torch.arange(12 * FRAME_SAMPLES) / 24_000
    buzz = 0.1 * sum(torch.cos(2 * torch.pi * 150 * k * time) / k for k in range(1, 9))
    with torch.inference_mode():
        voice = codec.encode((buzz + 0.001 * torch.randn(len(time), generator=rng))[None, None])
        pause = silence_codes(codec, 6)
        sound = codec.decode(torch.cat([voice, pause[None], voice], dim=2))[0, 0]
    levels = sound.view(-1, FRAME_SAMPLES).square().mean(1).sqrt()
    assert levels[4:12].min() > 20 * SILENCE_FLOOR
    assert levels[13:18].max() < SILENCE_FLOOR
    steps = sound.diff().abs()
    inside = steps[4 * FRAME_SAMPLES : 12 * FRAME_SAMPLES].max()
    assert steps[12 * FRAME_SAMPLES - 10 : 19 * FRAME_SAMPLES].max() <= inside, "no jump greater than the voice's own"


@pytest.mark.parametrize("most", range(1, 20))
def test_a_pause_that_leaves_no_frame_for_words_ends_the_stream_or_is_refused(bundle: Bundle, most: int) -> None:
    """Of `most` frames a pause of 6 stands before the first word, or one of 12 after a word that takes three."""
    first = Narration(Utterance(text="<break time='500ms'/>Hi.", speaker=0, max_frames=most), bundle=bundle, bounds=OFF)
    if most <= 6:
        with pytest.raises(InputError, match=f"max_frames {most}: the pause before the first word takes 6; .* least 7"):
            first.advance()
    else:
        assert first.advance()
    later = Narration(
        Utterance(text="Hi <break time='1s'/> there.", speaker=0, max_frames=most), bundle=bundle, bounds=OFF
    )
    later.advance()
    for _ in range(min(3, most)):
        later.see(torch.zeros(4, dtype=torch.long), np.ones(FRAME_SAMPLES, np.float32))
    if later.speaking is not None:
        later.finish(Reason.ENDED)
    assert later.advance() == (most > 3 + 12)
    assert later.reason is (None if most > 3 + 12 else Reason.CUT)
