"""What is read before speech: both ways of a voice prompt, and what is dropped where it is too much."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from csm_model.bundle import Bundle
from csm_model.errors import InputError
from csm_model.inference.context import ContextTurn, Layout, VoicePrompt, lay_out
from csm_model.inference.generator import Generator
from csm_model.inference.safety import Reason, frame_limit
from csm_model.inference.sampling import Sampling

TEXT = "I am fine."


def codes(bundle: Bundle, frames: int, first: int = 0) -> torch.Tensor:
    config = bundle.model.config
    count = torch.arange(first, first + config.num_codebooks * frames)
    return (count % config.codebook_size).view(config.num_codebooks, frames)


def laid_out(bundle: Bundle, *, max_rows: int | None = None, text: str = TEXT, **settings: object) -> Layout:
    config = bundle.model.config
    if max_rows is not None:
        config = dataclasses.replace(config, max_rows=max_rows)
    return lay_out(text, 1, tokenizer=bundle.tokenizer, config=config, **settings)  # type: ignore[arg-type]


def text_of(bundle: Bundle, text: str, speaker: int) -> list[int]:
    return bundle.tokenizer.encode(text, speaker)


def pattern(bundle: Bundle, layout: Layout) -> list[int | tuple[int, ...]]:
    """Each row as its text id, or as its codes."""
    rows, mask, _ = layout.prompt
    found: list[int | tuple[int, ...]] = []
    for row, counts in zip(rows.tolist(), mask.tolist(), strict=True):
        assert counts in ([False] * (len(row) - 1) + [True], [True] * (len(row) - 1) + [False])
        found.append(row[-1] if counts[-1] else tuple(row[:-1]))
    return found


def frames_of(sound: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(frame) for frame in sound.T.tolist()]


def test_segments_are_text_sound_and_the_closing_row(bundle: Bundle) -> None:
    end = (bundle.model.config.end_code,) * bundle.model.config.num_codebooks
    voice = VoicePrompt(speaker=1, text="This is me.", codes=codes(bundle, 4))
    turn = ContextTurn(speaker=0, text="How are you?", codes=codes(bundle, 3, first=5))
    silent = ContextTurn(speaker=1, text="Well.")
    layout = laid_out(bundle, voice=voice, context=[turn, silent])
    assert pattern(bundle, layout) == [
        *text_of(bundle, "This is me.", 1), *frames_of(voice.codes), end,
        *text_of(bundle, "How are you?", 0), *frames_of(turn.codes), end,
        *text_of(bundle, "Well.", 1),
        *text_of(bundle, TEXT, 1),
    ]  # fmt: skip
    assert layout.dropped == 0


def test_a_continued_prompt_is_the_beginning_of_the_turn(bundle: Bundle) -> None:
    end = (bundle.model.config.end_code,) * bundle.model.config.num_codebooks
    voice = VoicePrompt(speaker=1, text="This is me. ", codes=codes(bundle, 4), style="continue")
    turn = ContextTurn(speaker=0, text="How are you?", codes=codes(bundle, 3, first=5))
    layout = laid_out(bundle, voice=voice, context=[turn])
    said = text_of(bundle, f"This is me. {TEXT}", 1)
    assert pattern(bundle, layout) == [
        *text_of(bundle, "How are you?", 0), *frames_of(turn.codes), end, *said, *frames_of(voice.codes),
    ]  # fmt: skip
    assert layout.limit == frame_limit(len(text_of(bundle, TEXT, 1))), "the prompt was said already"
    unread = layout.prompt.unread
    assert unread is not None
    hidden = (layout.prompt.mask & ~unread).any(1)
    begin = len(layout.prompt.rows) - len(said) - 4
    assert hidden.nonzero().flatten().tolist() == list(range(begin + 2, begin + len(said))), "only its words are hidden"


def test_a_prompt_is_continued_by_its_speaker_alone(bundle: Bundle) -> None:
    voice = VoicePrompt(speaker=0, text="This is me.", codes=codes(bundle, 4), style="continue")
    with pytest.raises(InputError, match="voice prompt of speaker 0 cannot be continued by speaker 1"):
        laid_out(bundle, voice=voice)
    assert laid_out(bundle, voice=dataclasses.replace(voice, style="segment")).dropped == 0
    with pytest.raises(InputError, match="style 'clone' of a voice prompt: must be segment or continue"):
        dataclasses.replace(voice, style="clone")
    with pytest.raises(InputError, match="voice prompt: codes must be from 0 to 31"):
        laid_out(bundle, voice=dataclasses.replace(voice, codes=voice.codes + 32))


@pytest.mark.parametrize("style", ["segment", "continue"])
def test_the_oldest_turns_are_dropped_whole_and_the_voice_never(bundle: Bundle, style: str) -> None:
    voice = VoicePrompt(speaker=1, text="This is me.", codes=codes(bundle, 6), style=style)  # type: ignore[arg-type]
    turns = [ContextTurn(speaker=n % 2, text=f"Turn {n}.", codes=codes(bundle, 10 + n, first=n)) for n in range(4)]
    alone = laid_out(bundle, voice=voice)
    least = len(alone.prompt.rows) + alone.limit
    sizes = [len(text_of(bundle, turn.text, turn.speaker)) + 11 + n for n, turn in enumerate(turns)]
    for kept in range(5):
        needed = least + sum(sizes[4 - kept :])
        exact = laid_out(bundle, voice=voice, context=turns, max_rows=needed)
        assert (exact.dropped, len(exact.prompt.rows)) == (4 - kept, needed - exact.limit)
        assert pattern(bundle, exact) == pattern(bundle, laid_out(bundle, voice=voice, context=turns[4 - kept :]))
        if kept:
            assert laid_out(bundle, voice=voice, context=turns, max_rows=needed - 1).dropped == 5 - kept
    with pytest.raises(InputError, match=rf"{least} rows are needed.*the model holds {least - 1}; give a shorter text"):
        laid_out(bundle, voice=voice, max_rows=least - 1)


def test_a_turn_that_does_not_fit_takes_those_before_it_along(bundle: Bundle) -> None:
    """A short turn from before a dropped one would stand beside what it was never said beside."""
    turns = [
        ContextTurn(speaker=0, text="Hi."),
        ContextTurn(speaker=1, text="A long one.", codes=codes(bundle, 2048)),
        ContextTurn(speaker=0, text="Yes."),
    ]
    layout = laid_out(bundle, context=turns)
    assert layout.dropped == 2
    assert pattern(bundle, layout) == [*text_of(bundle, "Yes.", 0), *text_of(bundle, TEXT, 1)]


@pytest.mark.parametrize("most", [0, 1, 2, 5, None])
def test_no_more_turns_are_heard_than_are_to_be(bundle: Bundle, most: int | None) -> None:
    """Random contexts, with room and without: what is laid out is the newest of the newest."""
    draw = random.Random(9 if most is None else most)
    for _ in range(20):
        turns = [
            ContextTurn(speaker=n % 2, text=f"Turn {n}.", codes=codes(bundle, draw.randint(1, 40)) if n % 3 else None)
            for n in range(draw.randint(0, 5))
        ]
        rows = draw.choice([None, len(laid_out(bundle).prompt.rows) + laid_out(bundle).limit + draw.randint(0, 90)])
        heard = turns if most is None else turns[max(0, len(turns) - most) :]
        layout = laid_out(bundle, context=turns, turns=most, max_rows=rows)
        alone = laid_out(bundle, context=heard, max_rows=rows)
        assert pattern(bundle, layout) == pattern(bundle, alone)
        assert layout.dropped == alone.dropped + len(turns) - len(heard)


def test_speech_after_dropped_turns_is_speech_without_them(bundle: Bundle) -> None:
    generator, sampling = Generator(bundle), Sampling(seed=3)
    old = ContextTurn(speaker=0, text="Old.", codes=codes(bundle, 2040))
    new = ContextTurn(speaker=0, text="New.", codes=codes(bundle, 5))
    both = generator.speak(TEXT, 1, context=[old, new], sampling=sampling)
    one = generator.speak(TEXT, 1, context=[new], sampling=sampling)
    assert torch.equal(both.codes, one.codes)
    assert (both.dropped, one.dropped) == (1, 0)


@pytest.mark.parametrize("style", ["segment", "continue"])
def test_a_voice_prompt_changes_speech_and_speech_still_ends(bundle: Bundle, style: str) -> None:
    generator = Generator(bundle)
    voice = VoicePrompt(speaker=1, text="This is me.", codes=codes(bundle, 6), style=style)  # type: ignore[arg-type]
    sampling = Sampling(seed=1, guidance=2.0)
    with_voice = generator.speak(TEXT, 1, voice=voice, sampling=sampling)
    again = generator.speak(TEXT, 1, voice=voice, sampling=sampling)
    without = generator.speak(TEXT, 1, sampling=sampling)
    assert torch.equal(with_voice.codes, again.codes)
    assert with_voice.codes.shape != without.codes.shape or not torch.equal(with_voice.codes, without.codes)
    assert with_voice.reason in set(Reason)
