"""The corpus in the repository is what its script makes, and its held-out sentences are held out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from demo import demo_modules

from csm_serving.client.dialogue import read_dialogue

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "deploy" / "demo" / "corpus"
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def supervisions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CORPUS / "supervisions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def maker() -> Iterator[SimpleNamespace]:
    with demo_modules("make_corpora") as modules:
        yield modules.make_corpora


@pytest.fixture(scope="module")
def collector() -> Iterator[SimpleNamespace]:
    with demo_modules("collect_people") as modules:
        yield modules.collect_people


def texts(rows: list[dict[str, Any]], *splits: str) -> set[str]:
    return {row["text"] for row in rows if row["custom"]["split"] in splits}


def test_no_held_out_sentence_is_in_training(supervisions: list[dict[str, Any]]) -> None:
    held_out, trained = texts(supervisions, "test", "validation"), texts(supervisions, "train")
    assert len(held_out) > 100
    assert not held_out & trained


def test_no_held_out_sentence_is_in_the_base_corpus(supervisions: list[dict[str, Any]], maker: SimpleNamespace) -> None:
    base = {turn.text for item in maker.plan_base() for turn in item.turns}
    assert len(base) > 10_000
    assert not texts(supervisions, "test", "validation") & base


def test_the_base_has_never_heard_the_second_voice(maker: SimpleNamespace) -> None:
    voices = {voice for item in maker.plan_base() for voice in item.voices}
    assert maker.DEMO_VOICES[1] not in voices
    assert maker.DEMO_VOICES[0] in voices


def test_the_script_plans_the_corpus_as_it_is(supervisions: list[dict[str, Any]], maker: SimpleNamespace) -> None:
    planned = [
        (f"{item.id}-{number:02}", turn.text) for item in maker.plan_demo() for number, turn in enumerate(item.turns)
    ]
    assert planned == [(row["id"], row["text"]) for row in supervisions]


def test_every_record_names_licence_origin_and_voice(supervisions: list[dict[str, Any]]) -> None:
    for row in supervisions:
        assert row["custom"]["license"] == "Apache-2.0"
        assert row["custom"]["origin"].startswith("synthesised with")
        assert row["speaker"] == {"heart": "0", "kumo": "1"}[row["custom"]["voice"]]


def test_recordings_are_24_khz_mono_opus_of_the_length_named(supervisions: list[dict[str, Any]]) -> None:
    recordings = [json.loads(line) for line in (CORPUS / "recordings.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["recording_id"] for row in supervisions} == {recording["id"] for recording in recordings}
    for recording in recordings:
        info = soundfile.info(CORPUS / recording["sources"][0]["source"])
        assert (info.samplerate, info.channels, info.subtype) == (24_000, 1, "OPUS")
        assert info.frames == recording["num_samples"]


def test_corpus_fits_into_25_megabytes() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 25e6


def test_each_voice_has_48_held_out_sentences(supervisions: list[dict[str, Any]]) -> None:
    for speaker in ("0", "1"):
        assert sum(row["speaker"] == speaker and row["custom"]["split"] == "test" for row in supervisions) >= 48


def test_the_base_corpus_has_words_from_all_over_the_dictionary(maker: SimpleNamespace) -> None:
    words = {
        word for item in maker.plan_base() for turn in item.turns for word in turn.text.lower().strip("?.").split()
    }
    assert len(words) > 20_000


def test_further_voices_are_trained_on_or_measured(supervisions: list[dict[str, Any]], maker: SimpleNamespace) -> None:
    plan = maker.plan_voices()
    voices = {split: {voice for item in plan if item.split == split for voice in item.voices} for split in SPLITS}
    assert voices["test"]
    assert voices["validation"] <= voices["train"]
    assert not voices["test"] & (voices["train"] | {voice for item in maker.plan_base() for voice in item.voices})
    assert not texts(supervisions, "test", "validation") & {turn.text for item in plan for turn in item.turns}
    assert len({item.id for item in plan}) == len(plan)
    numbers = [maker.SPEAKER_IDS[voice] for voice in maker.SPEAKER_IDS]
    assert len(set(numbers)) == len(numbers)


def test_people_are_trained_on_or_measured_and_their_licences_are_named(collector: SimpleNamespace) -> None:
    voices = collector.VOICES.values()
    speakers = {split: {voice.speaker for voice in voices if voice.split == split} for split in ("train", "test")}
    assert min(len(names) for names in speakers.values()) >= 3
    assert sum(map(len, speakers.values())) == len({voice.speaker for voice in voices}), "nobody is in both splits"
    for name, voice in collector.VOICES.items():
        assert voice.license in {"CC-BY-3.0", "CC-BY-SA-3.0", "GPL-2"}
        assert name.endswith(f"-{voice.language.partition('-')[0]}")
    assert len({(voice.package, voice.pattern) for voice in voices}) == len(voices), "no file is of two voices"


def test_clips_of_a_voice_are_collected(
    collector: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_unpacked", lambda package, work: tmp_path / package)
    voice = collector.VOICES["small-fish-cs"]
    folder = tmp_path / voice.package / "usr" / "share" / "sound" / "cs"
    folder.mkdir(parents=True)
    tone = 0.1 * np.sin(np.arange(22_050 * 2) * 0.05)
    for name, sound in {
        "bat-m-one": tone, "bat-v-two": tone, "bat-m-short": tone[:5000], "bat-m-silent": 0 * tone
    }.items():  # fmt: skip
        soundfile.write(folder / f"{name}.ogg", sound, 22_050)
    collector._make(voice, tmp_path / "out", tmp_path)
    (clip,) = (tmp_path / "out").iterdir()
    assert clip.name == "sound-cs-bat-m-one.flac"
    sound, rate = soundfile.read(clip)
    assert (rate, len(sound)) == (24_000, pytest.approx(48_000, abs=100))
    assert np.abs(sound).max() == pytest.approx(0.7, abs=0.01)


def test_the_dialogue_of_the_demo_is_new_and_between_its_voices(
    supervisions: list[dict[str, Any]], maker: SimpleNamespace
) -> None:
    def words(text: str) -> tuple[str, ...]:
        return tuple(re.findall(r"[a-z']+", text.lower()))

    lines = read_dialogue(ROOT / "deploy" / "demo" / "dialogue.txt")
    assert 10 <= len(lines) <= 14
    assert {line.who for line in lines} == set(maker.DEMO_VOICES)
    trained = {words(text) for text in texts(supervisions, "train", "validation", "test")}
    trained |= {words(turn.text) for plan in maker.PLANS.values() for item in plan() for turn in item.turns}
    runs = {said[start : start + 5] for said in trained for start in range(len(said) - 4)}
    for line in lines:
        said = words(line.text)
        assert said not in trained
        assert not {said[start : start + 5] for start in range(len(said) - 4)} & runs, line.text
        assert len(line.text) <= 72, "longer than the turns of the demo's corpus"
