"""The pieces of ingest: splits, speakers, licences, checks, names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from csm_components.ingest.audio import from_pcm, to_model_rate, to_pcm
from csm_components.ingest.catalogue import thin_out
from csm_components.ingest.checks import check_sound, clipped_share, plain_text
from csm_components.ingest.convert import file_name
from csm_components.ingest.licenses import FREE_LICENSES, canonical, license_of_text
from csm_components.ingest.policy import Rules, parse_policy
from csm_components.ingest.readers.librispeech import sentence
from csm_components.ingest.records import Corpus, SourceConversation, SourceTurn, Split
from csm_components.ingest.speakers import number_speakers
from csm_components.ingest.splits import given_split, leaked, make_splits
from csm_model.errors import InputError


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
    train = {"a": plain_text("It's   RAINING!"), "b": plain_text("It is dry.")}
    assert leaked(train, {"t": plain_text("it's raining")}) == {"a": "t"}


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
