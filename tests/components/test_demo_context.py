"""The corpus with planted context: what is planted, that it is in the sound, and that its maker goes on."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from demo import demo_modules

from csm_model.errors import InputError

MODULES = (
    "context",
    "delivery",
    "grammar",
    "make_corpora",
    "measure_context",
    "sentences",
    "topics",
    "voices",
    "words",
)
TEXT = "The bakery opens at seven on Monday."


@pytest.fixture(scope="module")
def demo() -> Iterator[SimpleNamespace]:
    with demo_modules(*MODULES) as modules:
        yield modules


def talks(demo: SimpleNamespace, kind: str, count: int = 200) -> list[list]:
    return [demo.context.talk(kind, random.Random(seed), turns=6) for seed in range(count)]


def differences(delivery) -> tuple[float, float, float]:
    return math.log(delivery.pace), delivery.level, math.log(delivery.pitch_range)


@pytest.mark.parametrize("figure", range(3))
def test_an_answer_takes_over_how_its_question_was_said(demo: SimpleNamespace, figure: int) -> None:
    pairs, unrelated = [], []
    for talk in talks(demo, "follows"):
        values = [differences(said.delivery)[figure] for said in talk]
        assert [said.follows for said in talk] == [None, 0, None, 2, None, 4]
        pairs += [(values[i - 1], values[i]) for i in (1, 3, 5)]
        unrelated += [(values[i - 1], values[i]) for i in (2, 4)]
    assert np.corrcoef(np.array(pairs).T)[0, 1] > 0.9
    assert np.polyfit(*np.array(pairs).T, 1)[0] == pytest.approx(demo.context.FOLLOWED, abs=0.05)
    assert abs(np.corrcoef(np.array(unrelated).T)[0, 1]) < 0.2, "the next question is said in its own way"


@pytest.mark.parametrize("figure", range(3))
def test_a_speaker_stays_in_a_mood_and_is_not_the_others(demo: SimpleNamespace, figure: int) -> None:
    own, others = [], []
    for talk in talks(demo, "mood"):
        for said in talk:
            if said.follows is not None:
                before = talk[said.follows]
                assert before.turn.speaker == said.turn.speaker
                own.append([differences(each.delivery)[figure] for each in (before, said)])
        first = {said.turn.speaker: differences(said.delivery)[figure] for said in reversed(talk)}
        others.append([first[0], first[1]])
    assert np.corrcoef(np.array(own).T)[0, 1] > 0.85
    assert abs(np.corrcoef(np.array(others).T)[0, 1]) < 0.2


def test_the_word_that_stands_out_is_the_one_that_the_question_had_wrong(demo: SimpleNamespace) -> None:
    foci = set()
    for talk in talks(demo, "contrast"):
        for question, answer in zip(talk[::2], talk[1::2], strict=True):
            words = answer.turn.text.strip(".").replace(",", "").split()
            asked = set(question.turn.text.strip("?").split())
            place = answer.delivery.emphasis
            assert question.delivery.emphasis is None
            # "No" and the verb's other form are new in every answer; of the rest, one word is.
            assert [i for i, word in enumerate(words) if word not in asked and i not in (0, 2)] == [place]
            foci.add(place)
    assert foci == set(demo.context._FOCI.values())


def test_a_plan_is_the_same_each_time_and_holds_out_its_texts(demo: SimpleNamespace) -> None:
    plan = demo.make_corpora.plan_context()
    assert plan == demo.make_corpora.plan_context()
    texts = {split: {turn.text for item in plan if item.split == split for turn in item.turns} for split in SPLITS}
    demo_held_out = {
        turn.text for item in demo.make_corpora.plan_demo() if item.split != "train" for turn in item.turns
    }
    assert not texts["train"] & (texts["test"] | texts["validation"] | demo_held_out)
    assert {said.kind for item in plan if item.split == "test" for said in item.said} == set(demo.context.KINDS)
    assert len({item.id for item in plan}) == len(plan)


SPLITS = ("train", "validation", "test")


def spoken(demo: SimpleNamespace, voice: str = "heart", text: str = TEXT, **how):
    return demo.delivery.speak_as(voice, text, demo.delivery.Delivery(**how), seed=1)


def measured(demo: SimpleNamespace, text: str = TEXT, **how):
    audio, planted = spoken(demo, text=text, **how)
    return demo.measure_context.measure(audio, text, 24_000, planted.get("emphasis_s"))


@pytest.mark.parametrize("voice", ["heart", "heart-78"])
def test_a_turn_said_plainly_is_the_voices_own(demo: SimpleNamespace, voice: str) -> None:
    audio, _ = spoken(demo, voice)
    own = demo.voices.speak(voice, TEXT, seed=1)
    np.testing.assert_allclose(audio / np.abs(audio).max() * 0.7, own, atol=1e-5)


def test_pace_level_and_range_are_in_the_sound_as_planted(demo: SimpleNamespace) -> None:
    plain = measured(demo)
    fast, slow = measured(demo, pace=1.25), measured(demo, pace=0.8)
    assert fast.pace - slow.pace == pytest.approx(math.log(1.25 / 0.8), rel=0.3)
    assert measured(demo, level=-30.0).level == pytest.approx(-30.0, abs=0.05)
    wide, narrow = measured(demo, pitch_range=1.6), measured(demo, pitch_range=0.5)
    assert narrow.pitch_range < plain.pitch_range < wide.pitch_range
    assert wide.pitch_range - narrow.pitch_range == pytest.approx(math.log(1.6 / 0.5), rel=0.3)
    assert wide.pace == pytest.approx(plain.pace, abs=0.01), "one thing is changed at a time"


@pytest.mark.parametrize("word", [1, 4, 5, 7])
def test_a_word_stands_out_in_pitch_and_loudness(demo: SimpleNamespace, word: int) -> None:
    text = "No, Anna bought the red scarf on Monday."
    marked, (_, planted) = measured(demo, text, emphasis=word), spoken(demo, text=text, emphasis=word)
    begin, end = planted["emphasis_s"]
    assert 0.1 < end - begin < 0.8
    plain = demo.measure_context.measure(spoken(demo, text=text)[0], text, 24_000, (begin, end))
    assert marked.emphasis_semitones > plain.emphasis_semitones + 2
    assert marked.emphasis_db > plain.emphasis_db + 2


def test_what_cannot_be_planted_is_refused(demo: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="has no word 8"):
        spoken(demo, emphasis=8)
    with pytest.raises(InputError, match="'alpha': its pitch cannot be asked for"):
        spoken(demo, "alpha")


def test_a_killed_run_goes_on_and_ends_with_the_same_manifest(demo: SimpleNamespace, tmp_path: Path) -> None:
    def run() -> None:
        command = ["context", "--out", str(tmp_path), "--limit", "2", "--workers", "1"]
        assert demo.make_corpora.main(command) == 0

    run()
    manifest = (tmp_path / "supervisions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in manifest.splitlines()]
    assert len(rows) == 12
    assert all(row["custom"]["planted"]["pace"] > 0 for row in rows)
    kept, lost = sorted((tmp_path / "parts").iterdir())
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "audio" / f"{lost.stem}.opus").write_bytes(b"half a file")
    run()
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "supervisions.jsonl").read_text(encoding="utf-8") == manifest
    assert (tmp_path / "audio" / f"{lost.stem}.opus").stat().st_size > 10_000
    figures = demo.measure_context.figures(list(demo.measure_context._turns(tmp_path)))
    assert figures["turns"] == 12
    assert figures["level"]["correlation"] > 0.99
