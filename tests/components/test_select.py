"""Figures of turns, and which turns a policy takes by them."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import planted_faults
import pytest
from planted_faults import RATE, Clip, Judge, clips_of, faster, mp3, planted, short_answers

from csm_components.annotate.duplicates import find_duplicates, fingerprint
from csm_components.annotate.figures import compare_texts, measure
from csm_components.annotate.spectrum import bandwidth
from csm_components.ingest.bounds import OFF, FigureBounds
from csm_components.ingest.policy import Policy, parse_policy
from csm_components.ingest.records import Corpus, SourceConversation, SourceTurn
from csm_components.ingest.select import NARROW_BAND, Refusal, select, selected
from csm_model.errors import InputError

FIGURES: dict[str, tuple[str, str, float, float]] = {
    "clipped": ("clipped", "max_clipped", 0, 0.01),
    "loudness_db": ("too quiet", "min_loudness_db", -40, -60),
    "speech": ("no speech", "min_speech", 0.9, 0),
    "music": ("music", "max_music", 0, 1),
    "snr_db": ("noisy", "min_snr_db", 30, 3),
    "edge_silence_s": ("padded", "max_edge_silence_s", 0.2, 6),
    "longest_word": ("invented text", "max_longest_word", 8, 99),
    "unique_words": ("invented text", "min_unique_words", 0.9, 0.1),
    "wer_given_heard": ("wrong text", "max_wer", 0.1, 2),
    "speaker_certainty": ("uncertain speaker", "min_speaker_certainty", 0.9, 0.1),
    "overlap": ("crosstalk", "max_overlap", 0, 0.9),
}
"""The reason, the bound, a good value and a bad one."""
ALL = FigureBounds(min_speaker_certainty=0.5, max_overlap=0.5, narrow_band="drop")
TEXT = "What is the name of the street?"


def row(**figures: Any) -> dict[str, Any]:
    return {"text": TEXT, "text_heard": "Something else.", "figures": figures}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_beyond_its_bound_has_its_reason_and_says_both(name: str) -> None:
    reason, bound, _, bad = FIGURES[name]
    others = {other: values[2] for other, values in FIGURES.items()}
    assert select(row(**others), ALL).refused is None
    refused = select(row(**{**others, name: bad}), ALL).refused
    assert refused is not None
    assert refused[0] == reason
    assert (
        len([word for word in refused[1].replace("%", " ").split() if word.strip(",()").lstrip("-")[:1].isdigit()]) > 1
    )
    assert select(row(**{**others, name: bad}), ALL.model_copy(update={bound: OFF})).refused is None
    del others[name]
    assert select(row(**others), ALL).refused is None, "what was not measured breaks no bound"


def test_a_tighter_bound_never_takes_more() -> None:
    rng = random.Random(0)
    rows = [
        row(**{name: rng.uniform(*sorted(values[2:])) for name, values in FIGURES.items() if rng.random() < 0.8})
        for _ in range(300)
    ]
    for name, (_, bound, good, bad) in FIGURES.items():
        kept = [
            {
                place
                for place, each in enumerate(rows)
                if select(each, FigureBounds(**{bound: float(value)})).refused is None
            }
            for value in np.linspace(bad, good, 5)
        ]
        assert all(tighter <= looser for looser, tighter in pairwise(kept)), name


def turn(name: str, **figures: Any) -> SourceTurn:
    return SourceTurn(id=name, text=TEXT, speaker="a", audio=f"{name}.wav", text_heard=TEXT, figures=figures or None)


def corpus_of(*turns: SourceTurn) -> Corpus:
    source = SourceConversation(id="c", turns=turns)
    return Corpus(layout="jsonl", conversations=(source,), keep_speaker_numbers=True, speaker_names={})


def test_of_copies_the_first_that_is_good_is_taken() -> None:
    turns = [
        turn("a", snr_db=0.0),
        turn("b", duplicate_of="a"),
        turn("c", duplicate_of="a"),
        turn("d", snr_db=30.0),
        turn("e", duplicate_of="d"),
        turn("f"),
    ]
    marked, refused = selected(corpus_of(*turns), FigureBounds(), {})
    assert {name: found[0] for name, found in refused.items()} == {"a": "noisy", "c": "duplicate", "e": "duplicate"}
    assert marked == corpus_of(*turns)
    blocked: dict[str, Refusal] = {"d": ("blocked", "is on the blocklist")}
    _, refused = selected(corpus_of(*turns), FigureBounds(), blocked)
    assert {name: found[0] for name, found in refused.items()} == {"a": "noisy", "c": "duplicate", "d": "blocked"}


def test_a_narrow_band_is_marked_dropped_or_taken() -> None:
    corpus = corpus_of(turn("a", bandwidth_hz=4_078.0), turn("b", bandwidth_hz=11_000.0))
    marked, refused = selected(corpus, FigureBounds(), {})
    assert not refused
    assert [each.tags for each in marked.conversations[0].turns] == [(NARROW_BAND,), ()]
    assert selected(corpus, FigureBounds(min_bandwidth_hz=OFF), {}) == (corpus, {})
    _, refused = selected(corpus, FigureBounds(narrow_band="drop"), {})
    assert refused == {"a": ("narrow band", "ends at 4078 Hz, at least 5000 are needed")}


def test_languages_are_compared_where_the_text_is_surely_of_one() -> None:
    told = {"language_text": "de", "language_certainty": 0.9, "language_sound": "en"}
    assert select(row(**told), FigureBounds()).refused == (
        "wrong language",
        "its text is de (0.90 sure, at least 0.6 is), its sound is en",
    )
    assert select(row(**told | {"language_certainty": 0.4}), FigureBounds()).refused is None
    assert select(row(**told | {"language_sound": "de"}), FigureBounds()).refused is None
    assert select(row(**told | {"language_sound": "de"}), FigureBounds(languages=("en",))).refused is not None


def test_the_policy_has_the_bounds(tmp_path: Path) -> None:
    policy = parse_policy('[figures]\nmax_wer = "off"\nmin_snr_db = 6\n[text]\nmarks = "strip"\n', "p.toml", tmp_path)
    assert (policy.figures.max_wer, policy.figures.min_snr_db, policy.text.marks) == (OFF, 6.0, "strip")
    assert policy.digest != Policy().digest
    assert parse_policy(policy.to_toml(), "p.toml", tmp_path) == policy
    for wrong, words in (
        ("max_wer = -1", 'figures.max_wer -1: must be a number, 0 or more; "off" is no bound'),
        ("min_speech = true", 'figures.min_speech True: must be a number, 0 or more and 1 or less; "off" is no bound'),
        ("languages = []", "figures.languages"),
        ("max_were = 1", "did you mean max_wer"),
    ):
        with pytest.raises(InputError) as raised:
            parse_policy(f"[figures]\n{wrong}\n", "p.toml", tmp_path)
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)


def test_what_is_heard_is_compared_with_what_is_given() -> None:
    assert compare_texts("Yes.", "Yes, yes, yes, yes, yes") == {"wer_given_heard": 0.0, "unheard_words": 0}
    assert compare_texts("You pay fifteen dollars for four people.", "You pay $15.") == {
        "wer_given_heard": pytest.approx(3 / 7, abs=1e-4),
        "unheard_words": 3,
    }
    assert compare_texts("Um, well, I do.", "I do.")["unheard_words"] == 0
    assert "unheard_words" not in compare_texts("Yes.", "")
    assert compare_texts("...", "Yes.") == {}


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return clips_of("test", 40, 11)


def test_a_lifted_narrow_band_is_found(clips: list[Clip]) -> None:
    lifted = planted(clips, np.random.default_rng(0))["a telephone's band"][1]
    assert all(bandwidth(clip.sound, RATE) < 5_000 for clip in lifted)
    assert all(bandwidth(clip.sound, RATE) > 7_000 for clip in clips)


def test_figures_of_the_sound_follow_the_sound(clips: list[Clip]) -> None:
    rng = np.random.default_rng(2)
    for clip in clips[:8]:
        ratios = []
        for decibels in (30, 10, 0, -10):
            level = float(np.sqrt(np.mean(np.square(clip.sound)))) * 10 ** (-decibels / 20)
            noisy = (clip.sound + level * rng.standard_normal(len(clip.sound))).astype(np.float32)
            ratios.append(measure(noisy, RATE, text="x")["snr_db"])
        assert ratios == sorted(ratios, reverse=True)
        whole, half = (measure(np.float32(gain) * noisy, RATE, text="x") for gain in (1, 0.5))
        assert whole["loudness_db"] - half["loudness_db"] == pytest.approx(6.02, abs=0.02)
        assert whole["snr_db"] == pytest.approx(half["snr_db"], abs=0.1)
    assert measure(np.zeros(RATE, np.float32), RATE, text="x", speech=[]) == {
        "clipped": 0.0,
        "characters_per_second": 1.0,
        "speech": 0.0,
        "edge_silence_s": 1.0,
        "longest_word": 1,
    }
    assert measure(np.zeros(0, np.float32), RATE, text="") == {}


def test_near_duplicates_are_found_and_nothing_else(clips: list[Clip]) -> None:
    changes = {
        "mp3": mp3,
        "gain": lambda sound: np.float32(0.3) * sound,
        "fast": lambda sound: faster(sound, 1.05),
        "slow": lambda sound: mp3(faster(np.float32(0.5) * sound, 0.96)),
    }
    rows = [(clip.id, fingerprint(clip.sound, RATE)) for clip in clips]
    assert find_duplicates(rows) == {}
    long = [clip for clip in clips if fingerprint(clip.sound, RATE).shape]
    copies = [
        (f"{clip.id} {name}", fingerprint(change(clip.sound), RATE))
        for clip in long
        for name, change in changes.items()
    ]
    found = find_duplicates(rows + copies)
    right = [name for name, _ in copies if found.get(name) == name.split()[0]]
    assert len(right) >= 0.95 * len(copies)
    assert all(found[name] == name.split()[0] for name in found), "no turn is taken for another's copy"
    assert find_duplicates([("a", rows[0][1]), ("b", rows[0][1])]) == {"b": "a"}


def test_planted_faults_are_caught_each_under_its_own_reason(clips: list[Clip]) -> None:
    judge = Judge()
    assert [judge(clip) for clip in clips[:5]] == ["kept"] * 5
    assert [judge(clip) for clip in list(short_answers(clips_of("test", 400, 5)))[:5]].count("kept") >= 4
    for kind, (reason, made) in planted(clips[:3], np.random.default_rng(0)).items():
        if kind != "two dialogues at once":  # where one drowns the other, nothing is heard of it
            found = [judge(clip, duplicates=reason == "duplicate") for clip in made]
            assert found.count(reason) >= 2, f"{kind}: {found}"


def test_the_bounds_of_the_benchmark_are_the_packaged_ones() -> None:
    assert FigureBounds(narrow_band="drop") == planted_faults.BOUNDS
