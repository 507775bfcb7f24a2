"""The pieces of ingest: splits, speakers, licences, checks, names."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csm_components.ingest.audio import from_pcm, to_model_rate, to_pcm
from csm_components.ingest.catalogue import catalogue, manifest_of, thin_out
from csm_components.ingest.checks import check_sound, clipped_share, plain_text
from csm_components.ingest.conversations import Conversation, RecordedTurn
from csm_components.ingest.convert import file_name
from csm_components.ingest.licenses import FREE_LICENSES, canonical, license_of_text
from csm_components.ingest.policy import Rules, parse_policy
from csm_components.ingest.readers.librispeech import sentence
from csm_components.ingest.records import Corpus, SourceConversation, SourceTurn, Split
from csm_components.ingest.speakers import PLACES, number_in_conversation, number_speakers, over_corpus
from csm_components.ingest.splits import LONG_RUN, LONG_SENTENCE, Leak, given_split, leaked, make_splits
from csm_components.tokenise.tokenizer import choose_tokenizer
from csm_model.errors import InputError
from csm_model.text import PhonemeTokenizer


def test_splits_stay_when_a_corpus_grows() -> None:
    small = make_splits([f"c{number}" for number in range(200)])
    large = make_splits([f"c{number}" for number in range(400)])
    assert all(large[name] == split for name, split in small.items())
    counts = {split: list(large.values()).count(split) for split in ("train", "validation", "test")}
    assert counts["train"] > 300
    assert 20 < counts["test"] < 60
    assert 8 < counts["validation"] < 40


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("seed", range(20))
def test_small_corpora_have_every_split_they_can(count: int, seed: int) -> None:
    splits = make_splits([f"{seed}-{number}" for number in range(count)])
    assert set(splits.values()) == set(("train", "validation", "test")[:count])
    assert len(splits) == count


def test_given_splits() -> None:
    assert given_split("x", {"dev"}) == "validation"
    assert given_split("x", {None}) is None
    with pytest.raises(InputError, match="several splits"):
        given_split("x", {"train", "test"})
    with pytest.raises(InputError, match="unknown split 'holdout'"):
        given_split("x", {"holdout"})


def test_leaks_are_found_by_their_words() -> None:
    held_out = {
        "a": plain_text("It's   RAINING, my dear!"),
        "b": plain_text("It is dry."),
        "c": plain_text("Yes, I do."),
    }
    learnt = [("t", plain_text("it's raining my DEAR")), ("u", plain_text("It is dry")), ("v", plain_text("yes I do"))]
    assert leaked(held_out, learnt) == {"a": Leak("t", 5)}


@pytest.mark.parametrize("seed", range(30))
def test_a_leak_is_a_whole_sentence_or_a_long_run_of_words(seed: int) -> None:
    rng = random.Random(seed)

    def text(words: int) -> str:
        return " ".join(rng.choice("abcdefghijklmnop") for _ in range(words))

    learnt = {f"t{number}": text(rng.randint(1, 40)) for number in range(40)}
    held_out, wanted = {}, set()
    for number in range(40):
        source = rng.choice([*learnt.values()]).split()
        length = rng.randint(1, len(source))
        begin = rng.randrange(len(source) - length + 1)
        around = [text(rng.randint(0, 3)) for _ in range(2)] if rng.random() < 0.5 else ["", ""]
        words = " ".join([around[0], *source[begin : begin + length], around[1]]).split()
        held_out[f"h{number}"] = " ".join(words)
    for name, said in held_out.items():
        words = said.split()
        runs = {tuple(words[start : start + LONG_RUN]) for start in range(len(words) - LONG_RUN + 1)}
        for other in learnt.values():
            theirs = other.split()
            shared = any(tuple(theirs[start : start + LONG_RUN]) in runs for start in range(len(theirs)))
            if (said == other and len(words) >= LONG_SENTENCE) or shared:
                wanted.add(name)
    assert leaked(held_out, learnt.items()).keys() == wanted


def talks(count: int, short: float) -> list[tuple[str, list[str]]]:
    """Conversations whose turns are short answers, by this share, and else sentences that nobody says twice."""
    rng = random.Random(count)
    answers = ["yeah", "uh huh", "right", "yes I know", "no not really no"]
    rows = []
    for number in range(count):
        turns = [
            rng.choice(answers[:4]) if rng.random() < short else f"the story {number} {turn} of a day in {rng.random()}"
            for turn in range(120)
        ]
        rows.append((f"talk-{number:04}", turns))
    return rows


def found_in(rows: list[tuple[str, list[str]]]) -> tuple[Corpus, list[dict[str, Any]]]:
    """A corpus of conversations of two people each, whom no other has, and the part of each."""
    parts = [
        {
            "id": name, "file": f"audio/{name}.flac", "samples": 9, "pcm_sha256": "", "rejections": [],
            "turns": [
                {"id": f"{name}-{at}", "text": text, "speaker": f"{name}-{at % 2}", "samples": 9, "voice": None,
                 "license": "MIT", "origin": None, "start": 0}
                for at, text in enumerate(turns)
            ],
        }
        for name, turns in rows
    ]  # fmt: skip
    corpus = Corpus(
        layout="jsonl",
        conversations=tuple(
            SourceConversation(
                id=name,
                turns=tuple(
                    SourceTurn(id=f"{name}-{at}", text=text, speaker=f"{name}-{at % 2}", audio="a.wav")
                    for at, text in enumerate(turns)
                ),
            )
            for name, turns in rows
        ),
        keep_speaker_numbers=True,
        speaker_names={},
    )
    return corpus, parts


def test_ten_thousand_callers_fit_a_base_with_sixteen_places(tmp_path: Path) -> None:
    corpus, parts = found_in([(f"call-{number:04}", [f"Hello {number}.", "Hello."]) for number in range(5_000)])
    found = catalogue(corpus, parts, (), None)
    manifest = manifest_of(corpus, found, inputs="", cuts_sha256="")
    assert manifest["people"]["count"] == 10_000
    PhonemeTokenizer(num_speakers=16).save(tmp_path / "tokenizer.json")
    conversations = [
        Conversation(
            id=part["id"], split=part["split"], folder=tmp_path, file=part["file"], samples=9, pcm_sha256="",
            turns=tuple(
                RecordedTurn(
                    id=turn["id"], text=turn["text"], speaker=turn["speaker"], start=0.0, duration=1.0,
                    start_sample=0, samples=9, license="MIT", person=turn["person"],
                )
                for turn in part["turns"]
            ),
        )
        for part in found.conversations
    ]  # fmt: skip
    tokenizer = choose_tokenizer(None, None, base=tmp_path / "tokenizer.json", conversations=conversations)
    assert tokenizer.num_speakers == 16


def test_short_answers_are_kept_in_every_split() -> None:
    corpus, parts = found_in(talks(100, 0.24))
    found = catalogue(corpus, parts, (), None)
    assert not found.rejections
    assert sum(len(part["turns"]) for part in found.conversations) == 100 * 120
    # 200 people, two to a talk: each talk has its own 0 and 1, and knows who they are.
    assert found.speakers == {"0": "speaker 0", "1": "speaker 1"}
    for part in found.conversations:
        assert [turn["speaker"] for turn in part["turns"]] == [0, 1] * 60
        assert {turn["person"] for turn in part["turns"]} == {f"{part['id']}-0", f"{part['id']}-1"}
    over = catalogue(corpus, parts, (), None, "corpus")
    assert len(over.speakers) == 200
    assert "person" not in over.conversations[0]["turns"][0]
    assert over.digest != found.digest


@pytest.mark.parametrize("seed", range(20))
def test_numbers_count_over_the_corpus_while_they_fit(seed: int) -> None:
    rng = random.Random(seed)
    labels = [f"p{number}" for number in range(rng.randint(1, 40))]
    numbers = number_speakers(labels, keep_numbers=True)
    assert over_corpus("auto", numbers) == (len(labels) <= PLACES)
    assert over_corpus("corpus", numbers)
    assert not over_corpus("conversation", numbers)
    said = [rng.choice(labels) for _ in range(30)]
    alone = number_in_conversation(said)
    assert sorted(alone.values()) == list(range(len(set(said))))
    firsts = [alone[label] for at, label in enumerate(said) if label not in said[:at]]
    assert firsts == sorted(firsts)


def test_speakers() -> None:
    assert number_speakers({"0", "6", "2"}, keep_numbers=True) == {"0": 0, "2": 2, "6": 6}
    assert number_speakers({"1089", "84"}, keep_numbers=True) == {"84": 0, "1089": 1}
    assert number_speakers({"2", "10"}, keep_numbers=False) == {"2": 0, "10": 1}
    assert number_speakers({"bob", "ann", "7"}, keep_numbers=True) == {"7": 0, "ann": 1, "bob": 2}
    assert number_speakers({"bob"}, keep_numbers=True, given={"bob": 4, "eve": 5}) == {"bob": 4}
    with pytest.raises(InputError, match="no number was given for speaker 'bob'"):
        number_speakers({"bob"}, keep_numbers=True, given={})
    with pytest.raises(InputError, match="must differ"):
        number_speakers({"a", "b"}, keep_numbers=True, given={"a": 1, "b": 1})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SPDX-License-Identifier: MIT\n", "MIT"),
        ("CC-BY-4.0\n", "CC-BY-4.0"),
        ("Creative Commons\n\nAttribution-ShareAlike 3.0 Unported\n...", "CC-BY-SA-3.0"),
        ("Attribution-NonCommercial 4.0 International: you may not sell", "CC-BY-NC-4.0"),
        ("This is free:\nhttps://creativecommons.org/licenses/by/4.0/ applies to all of it", "CC-BY-4.0"),
        ("                 Apache License\n           Version 2.0, January 2004\n and more of it", "Apache-2.0"),
        ("CC0 1.0 Universal, a dedication to everybody in the world", "CC0-1.0"),
        ("Ask my lawyer before you even open a file of this", None),
    ],
)
def test_licence_files(text: str, name: str | None) -> None:
    assert license_of_text(text) == name


def test_licence_names() -> None:
    assert canonical("cc by-sa 4.0", FREE_LICENSES) == "CC-BY-SA-4.0"
    assert canonical("public domain", FREE_LICENSES) == "Public-Domain"
    assert canonical("CC-BY-NC-4.0", FREE_LICENSES) is None
    with pytest.raises(InputError, match="licenses: allows none"):
        parse_policy("[licenses]", "policy.toml", Path())


def test_clipping_is_runs_at_full_scale() -> None:
    tone = np.sin(np.arange(24_000) * 0.02).astype(np.float32)
    assert clipped_share(tone * 0.99) == 0.0
    assert clipped_share(np.clip(tone * 3, -1, 1)) > 0.5
    peaks = tone * 0.5
    peaks[::100] = 1.0  # single peaks are no clipping
    assert clipped_share(peaks) == 0.0


def test_common_speech_passes(say) -> None:  # type: ignore[no-untyped-def]
    for text in ("Yes.", "Hello, how are you today?", "5", "The number is 555-1234, I believe."):
        assert check_sound(say(text), 24_000, text, Rules()) is None


def test_sound_conversions() -> None:
    samples = np.array([-1.5, -1, -0.5, 0, 0.25, 0.99999, 1.5], np.float32)
    pcm = to_pcm(samples)
    assert pcm.tolist() == [-32768, -32768, -16384, 0, 8192, 32767, 32767]
    np.testing.assert_array_equal(to_pcm(from_pcm(pcm)), pcm)
    for rate in (8_000, 16_000, 22_050, 44_100, 48_000):
        seconds = np.arange(rate) / rate
        got = to_model_rate(np.sin(2 * np.pi * 440 * seconds).astype(np.float32), rate)
        wanted = np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)
        assert len(got) == 24_000
        assert np.abs(got - wanted)[500:-500].max() < 0.01


def test_names() -> None:
    assert sentence("MISTER BROWN AND I  WENT OUT") == "Mister brown and I went out"
    assert sentence("Mr Brown and I") == "Mr Brown and I"
    assert file_name("84-121123") == "84-121123"
    assert file_name("calls/17") != file_name("calls-17")
    assert "/" not in file_name("../../x")
    assert len(file_name("x" * 500)) < 100


def test_a_part_of_a_corpus_has_all_its_splits() -> None:
    def source(number: int, split: Split | None) -> SourceConversation:
        turn = SourceTurn(id=f"{number}-0", text="Hello.", speaker="0", audio=f"{number}.wav")
        return SourceConversation(id=f"{number:03}", turns=(turn,), split=split)

    given: list[Split] = ["test"] * 10 + ["train"] * 85 + ["validation"] * 5
    for splits in (given, [None] * 100):
        corpus = Corpus(
            layout="jsonl",
            conversations=tuple(source(number, split) for number, split in enumerate(splits)),
            keep_speaker_numbers=True,
            speaker_names={},
        )
        part = thin_out(corpus, 10).conversations
        assert 9 <= len(part) <= 11
        assert {item.split for item in part} == set(splits)
        assert thin_out(corpus, 1000) == corpus
    with pytest.raises(InputError, match="0 conversations"):
        thin_out(corpus, 0)
