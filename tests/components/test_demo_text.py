"""The collected text and the suite of new sentences: how they are made, and that they are what they are said to be."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from demo import FOLDER, demo_modules

from csm_components.evaluate.suite import read_suite
from csm_model.errors import DigestError
from csm_model.text import PhonemeTokenizer

TEXT = FOLDER / "text"
MODULES = (
    "context delivery grammar make_corpora patterns selection sentences suite text_sources topics voices words".split()
)


@pytest.fixture(scope="module")
def demo() -> Iterator[SimpleNamespace]:
    with demo_modules(*MODULES) as modules:
        yield modules


@pytest.fixture(scope="module")
def lines(demo: SimpleNamespace) -> list[tuple[str, str]]:
    return demo.sentences.read_lines(TEXT / "lines.tsv.xz")


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((TEXT / "sources.json").read_text(encoding="utf-8"))


# What a passage becomes.


@pytest.mark.parametrize(
    ("passage", "sentences"),
    [
        ("\u201cI can\u2019t,\u201d said Mr. Hill. \u201cGo!\u201d", ["I can't, said Mr. Hill.", "Go!"]),
        ("We met Dr. No at 5 p.m. sharp. It rained.", ["We met Dr. No at 5 p.m. sharp.", "It rained."]),
        ("She was _very_ glad--and said so. Why?", ["She was very glad \u2014 and said so.", "Why?"]),
        ("Short; kept whole.", ["Short; kept whole."]),
    ],
)
def test_a_passage_is_split_at_its_sentences(demo: SimpleNamespace, passage: str, sentences: list[str]) -> None:
    assert list(demo.sentences.split(passage)) == sentences


def test_a_long_sentence_is_said_clause_by_clause(demo: SimpleNamespace) -> None:
    long = "The road was wet and the horses were tired after so long a day; nobody had eaten since they left the inn."
    assert list(demo.sentences.split(long)) == [
        "The road was wet and the horses were tired after so long a day.",
        "Nobody had eaten since they left the inn.",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "Write to someone@example.org today.",
        "Look at www.example.org for more.",
        "Travel to <planet> with the goods.",
        "It was then that we met John Smith.",
        "Press the | key twice.",
        "no capital at the beginning.",
        "No end at the end",
        "Too short.",
        "No no no no, said he.",
        "One two three four five six seven eight nine ten one two three four five six seven eight nine.",
    ],
)
def test_what_is_not_for_speaking_is_left_out(demo: SimpleNamespace, sentence: str) -> None:
    assert demo.sentences.spoken(sentence) is None


def test_a_sentence_is_kept_in_the_normalisers_words(demo: SimpleNamespace) -> None:
    spoken = demo.sentences.spoken("It took 45 minutes in 1998.")
    assert spoken == "It took forty-five minutes in nineteen ninety-eight."
    assert demo.sentences.sounds("The blorptang was kept.") is None, "no word of the dictionary"
    assert demo.sentences.sounds("The blorptang was kept.", guess=True)
    assert demo.sentences.sounds("Very " * 40 + "long.") is None


# The sources, each in the form its package has.


def characters(*texts: str) -> bytes:
    body = b"".join(b"\0\4\0\x09" + struct.pack(">i", len(text)) + text.encode() for text in texts)
    return struct.pack(">i", len(body)) + zlib.compress(body)


NOVELS = characters("One", "two.", "", "Three.", "") + characters("Four.", "")
GLOSSES = b'  1 a "licence"\n0017 29 v | to sigh; "she sighed"; "Who sighed?"\n'
SPACE = b'xmlns="http://projectmallard.org/1.0/"'
PAGE = b"<page " + SPACE + b"><p>Press <key>F</key>\n now.</p><p>Type <cmd>ls</cmd>.</p></page>"
TALK = b'\t\t`"Go," he says.`\n\tcolor "red"\n\t\tdialog "Come in."\n'


@pytest.mark.parametrize(
    ("reader", "data", "passages"),
    [
        ("_novels", NOVELS, ["One two.", "Three.", "Four."]),
        ("_examples", GLOSSES, ["She sighed.", "Who sighed?"]),
        ("_paragraphs", PAGE, ["Press F now."]),
        ("_paragraphs", b"<page>&broken;</page>", []),
        ("_conversations", TALK, ['"Go," he says.', "Come in."]),
        ("_messages", b'x=_ "He said ""no"".\nTwice."\ny="id"\n', ['He said "no".\nTwice.']),
    ],
)
def test_a_source_yields_its_passages(demo: SimpleNamespace, reader: str, data: bytes, passages: list[str]) -> None:
    assert list(getattr(demo.text_sources, reader)(data)) == passages


def test_another_archive_than_the_pinned_one_is_refused(demo: SimpleNamespace, tmp_path: Path) -> None:
    source = demo.text_sources.SOURCES["examples"]
    (tmp_path / source.packages[0].file_name).write_bytes(b"something else")
    with pytest.raises(DigestError, match="expected 61060d960f9a"):
        next(demo.text_sources.passages(source, tmp_path))


def test_patterns_are_sentences_that_can_be_said(demo: SimpleNamespace) -> None:
    drawn = list(islice(demo.patterns.sentences(Random(1)), 600))
    assert {kind for kind, _ in drawn} == set(demo.patterns.TEMPLATES)
    assert sum(any(map(str.isdigit, text)) for _, text in drawn) > 300
    said = [demo.sentences.in_words(text) for _, text in drawn]
    assert sum(words is not None for words in said) > 480
    assert not any(re.search(r"[^A-Za-z ,.?!;:'\u2026\u2014-]", words) for words in said if words)


# Selection.


def test_the_choice_is_nearer_to_the_reference_than_what_is_first(demo: SimpleNamespace) -> None:
    rng = Random(5)
    words = ["ab", "cd", "ef", "gh", "ij"]
    line = demo.selection.Line

    def drawn(weights: list[int]) -> object:
        text = " ".join(rng.choices(words, weights, k=6))
        return line(source="s", text=text, sounds=tuple(text))

    reference = demo.selection.shares({"s": [drawn([1, 1, 1, 1, 1]) for _ in range(300)]})
    pool = [drawn([9, 1, 1, 1, 1]) for _ in range(600)]
    chosen = demo.selection.choose(pool, reference, [], 1500)
    assert chosen == demo.selection.choose(pool, reference, [], 1500)
    assert len({id(each) for each in chosen}) == len(chosen)
    assert 1500 <= sum(len(each.text) for each in chosen) < 1530

    def bits(lines: list) -> float:
        return demo.selection.divergence(reference["words"], demo.selection.totals(lines)["words"])

    assert bits(chosen) < 0.5 * bits(pool[: len(chosen)])


# What is in the repository.


def test_the_text_is_small_and_every_line_is_once(lines: list[tuple[str, str]], facts: dict) -> None:
    assert sum(path.stat().st_size for path in TEXT.rglob("*") if path.is_file()) < 1e6
    assert 1_050_000 < sum(len(text) for _, text in lines) < 1_200_000
    assert len({text.lower() for _, text in lines}) == len(lines)
    counted = {name: source["chosen"] for name, source in facts["sources"].items()} | facts["generated"]["chosen"]
    assert Counter(source for source, _ in lines) == counted


def test_every_source_names_its_licence_and_is_pinned(facts: dict, demo: SimpleNamespace) -> None:
    assert set(facts["sources"]) == set(demo.text_sources.SOURCES)
    for name, source in facts["sources"].items():
        assert source["license"] == demo.text_sources.SOURCES[name].license
        assert all(re.fullmatch("[0-9a-f]{64}", package["sha256"]) for package in source["packages"])
        assert "licen" in (TEXT / "licenses" / f"{name}.txt").read_text(encoding="utf-8").lower()


def test_lines_are_read_as_they_are_written(lines: list[tuple[str, str]], demo: SimpleNamespace) -> None:
    tokenizer = PhonemeTokenizer()
    for _, text in Random(2).sample(lines, 400):
        assert tokenizer.read(text).words == text
        assert tokenizer.sounds_in(text) <= demo.sentences.MOST_SOUNDS + 3


def test_no_line_has_an_address_or_a_full_name(lines: list[tuple[str, str]], demo: SimpleNamespace) -> None:
    prose = [text for source, text in lines if not source.startswith("pattern:")]
    assert not [text for text in prose if demo.sentences._FULL_NAME.search(text)]
    assert not [text for _, text in lines if re.search(r"[@/\d<>]", text)]


def test_the_text_is_nearer_to_real_english_than_the_grammar(facts: dict) -> None:
    against = facts["against_held_out_text"]
    for kind in ("phonemes", "diphones", "words"):
        assert against["chosen"][f"bits_{kind}"] < 0.5 * against["grammar"][f"bits_{kind}"]
    assert against["chosen"]["running_words_covered"] > 0.9


# The suite.


@pytest.fixture(scope="module")
def suite(demo: SimpleNamespace) -> list[str]:
    return [demo.sentences.in_words(item.text) for item in read_suite(demo.suite.SUITE)]


def test_the_suite_has_200_sentences_of_five_kinds(demo: SimpleNamespace, suite: list[str]) -> None:
    items = read_suite(demo.suite.SUITE)
    assert len(items) == len({demo.sentences.plain(text) for text in suite}) == 200
    assert Counter(item.kind for item in items) == {
        "plain": 90,
        "question": 40,
        "number": 35,
        "name": 20,
        "letters": 15,
    }
    assert all(demo.sentences.sounds(text, guess=True) for text in suite)


def test_no_run_of_three_words_of_the_suite_is_trained_on_unless_english_has_it_anyway(
    demo: SimpleNamespace, suite: list[str], lines: list[tuple[str, str]]
) -> None:
    times = json.loads((TEXT / "trigrams.json").read_text(encoding="utf-8"))
    runs = {run for text in suite for run in demo.sentences.trigrams(text)}
    assert {" ".join(run) for run in runs} == set(times)
    plans = (demo.make_corpora.plan_demo(), demo.make_corpora.plan_base(), demo.make_corpora.plan_context())
    trained = [turn.text for plan in plans for item in plan for turn in item.turns] + [text for _, text in lines]
    found = {run: text for text in trained for run in demo.sentences.trigrams(text) if run in runs}
    strange = {run: text for run, text in found.items() if not demo.suite.is_english_anyway(times[" ".join(run)])}
    assert not strange
    assert len(found) < 0.15 * len(runs)


def test_the_suite_is_as_new_as_unseen_english(facts: dict) -> None:
    in_training = facts["trigrams_in_training"]
    assert in_training["suite"] <= in_training["held-out text"]
