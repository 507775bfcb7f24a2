"""Requests as a bundle takes them: who may speak, whose sound may come with them, and that a server says no more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from csm_model.bundle import Bundle, load_bundle
from csm_model.errors import InputError
from csm_model.inference.context import ContextTurn
from csm_model.inference.generator import Generator
from csm_model.inference.narration import Narration
from csm_model.inference.safety import Bounds
from csm_model.inference.sentences import LONGEST
from csm_serving.server.local import LocalSpeech
from csm_serving.server.source import RequestReader
from csm_serving.server.tokens import TurnKey
from csm_serving.wire.protocol import Chunk, Resume, SamplingOptions, SpeechRequest, Turn

KEY = TurnKey(b"0123456789abcdef")


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Bundle:
    return load_bundle(bundle)


def resume_of(chunks: Iterable[Chunk]) -> Resume:
    chunks = list(chunks)
    return Resume(
        codes=np.stack([chunk.codes for chunk in chunks], axis=1),
        sentences=np.array([chunk.sentence for chunk in chunks], np.int32),
        token=chunks[-1].token,
    )


def test_a_bundle_whose_text_is_cut_by_bpe_is_spoken(bpe_bundle: Path) -> None:
    request = SpeechRequest(
        text="Hello 雨 <|end_of_text|>", speaker=1, max_frames=6, context=(Turn(speaker=0, text="How are you?"),)
    )
    chunks = list(LocalSpeech(bpe_bundle).open(request))
    context = [ContextTurn(speaker=0, text="How are you?")]
    offline = Generator(load_bundle(bpe_bundle)).speak(request.text, 1, context=context, max_frames=6)
    assert np.array_equal(np.stack([chunk.codes for chunk in chunks], axis=1), offline.codes.numpy())
    with pytest.raises(InputError, match="speaker 2 is"):
        next(LocalSpeech(bpe_bundle).open(SpeechRequest(text="Hello", speaker=2)))


def test_a_request_says_how_and_the_bundle_says_the_rest(loaded: Bundle) -> None:
    request = SpeechRequest(text="Hello.", sampling=SamplingOptions(top_k=3), seed=9, max_frames=50)
    asked = RequestReader(loaded, max_frames=20).read(request)
    sampling = asked.utterance.sampling
    assert (sampling.top_k, sampling.seed) == (3, 9)
    assert (sampling.temperature, sampling.guidance) == (loaded.sampling.temperature, loaded.sampling.guidance)
    assert asked.utterance.max_frames == 20
    assert RequestReader(loaded).read(SpeechRequest(text="Hello.")).utterance.max_frames is None


def test_turns_of_the_context_in_which_nothing_can_be_said_are_left_out_and_counted(loaded: Bundle) -> None:
    turns = [
        Turn(speaker=0, text=text) for text in ("How are you?", "...", "\N{THUMBS UP SIGN}", "Fine.", "\u4f60\u597d")
    ]
    asked = RequestReader(loaded).read(SpeechRequest(text="Hello.", context=tuple(turns))).utterance
    assert ([turn.text for turn in asked.context], asked.dropped) == (["How are you?", "Fine."], 3)


@pytest.mark.parametrize("trained", [1, 2, 4])
def test_turns_beyond_what_the_model_was_trained_with_are_left_out_and_counted(loaded: Bundle, trained: int) -> None:
    """As text, as codes that this service spoke, as sound, and mixed: the newest are heard, those with a word."""
    taught = replace(loaded, manifest={**loaded.manifest, "recipe": {"max_turns": trained}})
    reader = RequestReader(taught, key=KEY)
    codes = np.arange(12, dtype=np.int32).reshape(4, 3)
    token = KEY.begin("speaker:0", codes).token()
    kinds = [
        Turn(speaker=0, text="How are you?"),
        Turn(speaker=0, text="It rains.", codes=codes, token=token),
        Turn(speaker=1, text="Well?", audio=np.zeros(1920, np.float32)),
        Turn(speaker=1, text="..."),
    ]
    for kind in (*([turn] * 6 for turn in kinds[:3]), kinds * 2, kinds[::-1] * 2):
        asked = reader.read(SpeechRequest(text="Hello.", speaker=0, context=tuple(kind))).utterance
        narration = Narration(asked, bundle=taught, bounds=Bounds())
        narration.advance()
        assert narration.dropped == len(kind) - (trained - 1)
        sayable = [turn for turn in kind if turn.text != "..."]
        free = replace(loaded, manifest={**loaded.manifest, "recipe": {"max_turns": 0}})
        newest = tuple(sayable[len(sayable) - (trained - 1) :])
        alone = Narration(
            RequestReader(free, key=KEY).read(SpeechRequest(text="Hello.", speaker=0, context=newest)).utterance,
            bundle=free,
            bounds=Bounds(),
        )
        alone.advance()
        assert narration.speaking is not None
        assert alone.speaking is not None
        assert torch.equal(narration.speaking.layout.prompt.rows, alone.speaking.layout.prompt.rows)


def test_speakers_have_numbers_and_names(loaded: Bundle) -> None:
    reader = RequestReader(loaded)
    assert reader.read(SpeechRequest(text="Hello.", voice="kumo")).utterance.speaker == 1
    assert reader.read(SpeechRequest(text="Hello.", speaker=1)).voice.name == "kumo"
    with pytest.raises(InputError, match=r"speaker 2 is unknown: this bundle speaks as 0 \(heart\), 1 \(kumo\)"):
        reader.read(SpeechRequest(text="Hello.", speaker=2))
    with pytest.raises(InputError, match="voice 'anna' is unknown"):
        reader.read(SpeechRequest(text="Hello.", voice="anna"))


def test_sound_of_the_asked_speaker_needs_a_token_of_this_service(bundle: Path, loaded: Bundle) -> None:
    reader = RequestReader(loaded, key=KEY)
    codes = np.arange(12, dtype=np.int32).reshape(4, 3)
    token = KEY.begin("speaker:0", codes).token()
    stranger = np.zeros(1920, np.float32)
    for turn in (
        Turn(speaker=0, text="Hi.", codes=codes),
        Turn(speaker=0, text="Hi.", codes=codes, token=b"made up"),
        Turn(speaker=0, text="Hi.", codes=codes + 1, token=token),
        Turn(speaker=0, text="Hi.", audio=stranger),
    ):
        with pytest.raises(InputError, match="has not spoken"):
            reader.read(SpeechRequest(text="Hello.", speaker=0, context=(turn,)))
        assert RequestReader(loaded, key=KEY, client_voices="allow").read(
            SpeechRequest(text="Hello.", speaker=0, context=(turn,))
        )
    own = Turn(speaker=0, text="Hi.", codes=codes, token=token)
    others = Turn(speaker=1, text="Well?", audio=stranger)
    words = Turn(speaker=0, text="Only words.")
    asked = reader.read(SpeechRequest(text="Hello.", speaker=0, context=(own, others, words)))
    kept, heard, silent = (turn.codes for turn in asked.utterance.context)
    assert kept is not None
    assert torch.equal(kept, torch.from_numpy(codes.astype(np.int64)))
    assert heard is not None
    assert torch.equal(heard, loaded.codec.encode(torch.zeros(1, 1, 1920))[0])
    assert silent is None
    assert reader.is_quick(SpeechRequest(text="Hello.", context=(own,)))
    assert not reader.is_quick(SpeechRequest(text="Hello.", context=(others,)))


def test_turns_are_heard_by_the_name_of_who_spoke_them(loaded: Bundle) -> None:
    reader = RequestReader(loaded, key=KEY)
    codes = np.arange(12, dtype=np.int32).reshape(4, 3)
    heart, kumo = (KEY.begin(f"speaker:{number}", codes).token() for number in (0, 1))
    turns = (
        Turn(voice="kumo", text="Hi.", codes=codes, token=kumo),
        Turn(voice="heart", text="Ho.", codes=codes, token=heart),
        Turn(voice="kumo", text="So?"),
    )
    by_name = SpeechRequest(text="Hello.", context=turns, voice="kumo")
    for asked in (by_name, replace(by_name, voice=None, speaker=1)):
        utterance = reader.read(asked).utterance
        assert [turn.speaker for turn in utterance.context] == [1, 0, 1]
    for bad, words in (
        (Turn(voice="kumo", text="Hi.", codes=codes, token=heart), "context turn 0 brings sound of speaker 1"),
        (Turn(voice="anna", text="Hi."), "context turn 0: voice 'anna' is unknown"),
    ):
        with pytest.raises(InputError, match=words):
            reader.read(SpeechRequest(text="Hello.", voice="kumo", context=(bad,)))


@pytest.mark.parametrize("text", ["Hello there.", "Hello there. How are you? " + "It is sunny; we go out. " * 3])
def test_a_stream_that_broke_goes_on_where_it_was(bundle: Path, text: str) -> None:
    speech = LocalSpeech(bundle)
    whole = list(speech.open(SpeechRequest(text=text, seed=2)))
    assert (len(text) > LONGEST) == (max(chunk.sentence for chunk in whole) > 0)
    for count in (1, len(whole) // 2, len(whole) - 1):
        rest = list(speech.open(SpeechRequest(text=text, seed=2, resume=resume_of(whole[:count]))))
        assert [chunk.frame_index for chunk in rest] == list(range(count, len(whole)))
        for got, want in zip(rest, whole[count:], strict=True):
            assert (got.sentence, got.codes.tolist()) == (want.sentence, want.codes.tolist())
            assert np.array_equal(got.audio, want.audio)


def test_frames_of_others_are_not_gone_on_from(loaded: Bundle) -> None:
    codes = np.arange(12, dtype=np.int32).reshape(4, 3)
    token = KEY.begin("speaker:0", codes).token()
    resume = Resume(codes=codes, sentences=np.zeros(3, np.int32), token=token)
    reader = RequestReader(loaded, key=KEY)
    asked = reader.read(SpeechRequest(text="Hello.", speaker=0, resume=resume))
    assert asked.utterance.heard is not None
    after = np.concatenate([codes, codes[:, :1]], axis=1)
    assert KEY.verify("speaker:0", after, asked.chain.next(codes[:, 0]))
    for other in (RequestReader(loaded), reader):
        speaker = 0 if other is not reader else 1
        with pytest.raises(InputError, match="not spoken by this service"):
            other.read(SpeechRequest(text="Hello.", speaker=speaker, resume=resume))
