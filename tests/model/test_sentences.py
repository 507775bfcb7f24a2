"""Text becomes pieces at its sentences, whatever way it comes in, and nothing of it is lost."""

from __future__ import annotations

import random

import pytest

from csm_model.errors import InputError
from csm_model.inference.sentences import PAUSE_SECONDS, Break, SentenceSplitter, split_parts, split_text

NOVEL = """Dr. Smith arrived at 9:30 a.m. on Jan. 5, didn't he? “Stop!” he said. “Who... who is it?” Nobody answered…
Then, at 3.14 sharp (or so Mr. Jones says), the U.S. embassy called: "We are here." It was No. 7. No. It was not!

Buy the following:
- two eggs, e.g. brown ones
- milk etc. and so on
1. First this.
2. Then that

It was the best of times, it was the worst of times, it was the age of wisdom; it was the age of foolishness, it was \
the epoch of belief — it was the epoch of incredulity, and it was the season of Light because nobody had told them \
that it was over yet. これは文です。次の文です\uff01 And so do I. Then we left... — "Really?!" ... Yes.
"""


def texts(text: str, **settings: int) -> list[str]:
    return [piece.text for piece in split_text(text, **settings)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello there. How are you?", ["Hello there.", "How are you?"]),
        ("hello there. how are you? fine!", ["hello there.", "how are you?", "fine!"]),
        ("Dr. Who met Mrs. Jones.", ["Dr. Who met Mrs. Jones."]),
        ("It opens at 9 a.m. on Sunday. Come at 5 p.m. The door is open.",
         ["It opens at 9 a.m. on Sunday.", "Come at 5 p.m.", "The door is open."]),
        ("It costs 3.50 at example.com. Really.", ["It costs 3.50 at example.com.", "Really."]),
        ("He was born in 1990. Then he left.", ["He was born in 1990.", "Then he left."]),
        ("No. 5 is alive. No. It is not.", ["No. 5 is alive.", "No.", "It is not."]),
        ("J. K. Rowling and the U.S. Navy. So do I. Good.", ["J. K. Rowling and the U.S. Navy.", "So do I.", "Good."]),
        ("“Stop!” he said. “Go on.” She went.", ["“Stop!” he said.", "“Go on.”", "She went."]),
        ('(He left.) "Why?" Nobody knew.', ["(He left.)", '"Why?"', "Nobody knew."]),
        ("Well... maybe. Well... Perhaps… yes.", ["Well... maybe.", "Well...", "Perhaps… yes."]),
        ("What?! You... I see.", ["What?!", "You...", "I see."]),
        ("Buy this:\n- eggs\n- milk\nand bread", ["Buy this:", "- eggs", "- milk and bread"]),
        ("1. Eggs\n2. Milk\n\nThanks", ["1. Eggs", "2. Milk", "Thanks"]),
        ("# Title\nSome text\n## More\n> quoted\nthen", ["# Title", "Some text", "## More", "> quoted then"]),
        ("| a | b |\n| 1 | 2 |", ["| a | b |", "| 1 | 2 |"]),
        ("A line\nthat was wrapped in\n1990 by hand.", ["A line that was wrapped in 1990 by hand."]),
        ("これは文です。次の文です\uff01", ["これは文です。", "次の文です\uff01"]),
        ("... Hello. ... (yes) ...", ["... Hello.", "... (yes) ..."]),
        ("  \n ", []),
        ("?!", []),
    ],
)  # fmt: skip
def test_text_is_split_at_its_sentences(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_pauses_follow_the_punctuation() -> None:
    seconds = [PAUSE_SECONDS[kind] for kind in Break]
    assert seconds == sorted(set(seconds)), "a stronger break is a longer pause"
    pieces = split_text("One. Two:\n- three\n\nFour.")
    assert [piece.after for piece in pieces] == [Break.SENTENCE, Break.CLAUSE, Break.PARAGRAPH, Break.SENTENCE]
    assert [piece.pause for piece in pieces] == [5, 3, 11, 5]


def test_long_sentences_are_cut_where_it_hurts_least() -> None:
    clause = "it was the age of reason; it was cold, and wet and dark everywhere we went that day"
    first, *_ = split_text(clause, longest=40)
    assert (first.text, first.after) == ("it was the age of reason;", Break.CLAUSE)
    first, *_ = split_text(clause.replace(";", ""), longest=40)
    assert (first.text, first.after) == ("it was the age of reason it was cold,", Break.COMMA)
    first, *_ = split_text("we went over the hills and into the wide valley", longest=40)
    assert (first.text, first.after) == ("we went over the hills", Break.SPACE)
    first, second = split_text("the hour of the wolf—the hour when most people die", longest=40)
    assert (first.text, second.text) == ("the hour of the wolf—", "the hour when most people die")
    assert texts("a" * 50, longest=20) == ["a" * 20, "a" * 20, "a" * 10]


@pytest.mark.parametrize("longest", [20, 40, 120, 1000])
def test_no_piece_is_too_long_or_silent_and_nothing_is_lost(longest: int) -> None:
    pieces = texts(NOVEL, longest=longest)
    assert all(len(piece) <= longest or any(map(str.isdigit, piece)) for piece in pieces), "a form is not cut in two"
    assert max(map(len, pieces)) <= 4 * longest
    assert all(any(c.isalnum() for c in piece) and piece == piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(NOVEL.split())


@pytest.mark.parametrize("longest", [20, 60, 120])
def test_the_cuts_of_the_text_do_not_matter(longest: int) -> None:
    rng = random.Random(longest)
    whole = split_text(NOVEL, longest=longest)
    for _ in range(100):
        cuts = sorted(rng.choices(range(len(NOVEL) + 1), k=rng.randint(0, 60)))
        parts = [NOVEL[a:b] for a, b in zip([0, *cuts], [*cuts, len(NOVEL)], strict=True)]
        assert list(split_parts(parts, longest=longest)) == whole


def test_random_text_keeps_every_promise() -> None:
    rng = random.Random(0)
    alphabet = ["a", "Bob", "e.g.", "Mr.", "No.", "5", ".", "!", "?", "...", "…", ",", ";", ":", "—", "-", " ", " ",
                "\n", "\n\n", '"', "”", "“", "(", ")", "3.5", "。", "U.S.", "🙂", "and"]  # fmt: skip
    for _ in range(300):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 80)))
        pieces = split_text(text, longest=20)
        assert list(split_parts(text, longest=20)) == pieces
        assert all(len(p.text) <= 4 * 20 + 16 and any(c.isalnum() or c == "🙂" for c in p.text) for p in pieces)
        said = "".join(c for c in text if c.isalnum() or c == "🙂")
        assert "".join(c for p in pieces for c in p.text if c.isalnum() or c == "🙂") == said


def test_a_sentence_comes_out_with_the_first_character_after_it() -> None:
    splitter = SentenceSplitter()
    early = [len(splitter.feed(c)) for c in "Hi there. How"]
    assert early.index(1) == len("Hi there. ")
    assert [piece.text for piece in splitter.finish()] == ["How"]
    assert splitter.finish() == []
    assert splitter.feed("Then on. ") == []
    assert [piece.text for piece in splitter.finish()] == ["Then on."]


@pytest.mark.parametrize("longest", [19, 1001])
def test_a_senseless_bound_is_refused(longest: int) -> None:
    with pytest.raises(InputError, match=f"longest piece of {longest} characters: must be from 20 to 1000"):
        SentenceSplitter(longest=longest)
