"""Words are counted as they are heard, not as they are written, and nothing more is forgiven."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest

from csm_components.evaluate.wer import (
    bootstrap_interval,
    corpus_wer,
    normalise,
    wer_interval,
    word_errors,
)

SAME = [
    ("It opens at nine thirty.", "It opens at 9:30"),
    ("It opens at nine thirty.", "It opens at 930."),
    ("It opens at nine thirty.", "It opens at 9.30."),
    ("It opens at nine thirty.", "it opens at 9-30"),
    ("The meeting is at ten forty", "the meeting is at 1040"),
    ("nine hundred and thirty", "930"),
    ("nine hundred thirty", "930"),
    ("nine o'clock", "9:00"),
    ("at nine", "at 9:00"),
    ("nine o'clock", "9 o' clock"),
    ("nine o'clock", "nine o’clock"),  # noqa: RUF001
    ("nine oh five", "9:05"),
    ("a quarter past two", "a quarter past 2"),
    ("half past six", "half past 6."),
    ("twelve dollars", "$12"),
    ("one dollar", "$1"),
    ("twelve dollars and fifty cents", "$12.50"),
    ("twelve fifty", "$12.50"),
    ("five thousand dollars", "$5,000"),
    ("two million euros", "€2 million"),
    ("a hundred dollars for two people", "$100 for 2 people"),
    ("one hundred and five", "105"),
    ("twenty twenty six", "2026"),
    ("two thousand and twenty six", "2026"),
    ("nineteen hundred", "1900"),
    ("fifty percent", "50%"),
    ("twenty degrees", "20°"),
    ("twenty degrees Celsius", "20°C"),
    ("the eighth", "the 8th"),
    ("on the third floor", "on the 3rd floor"),
    ("the twenty first", "the 21st"),
    ("twenty-five", "25"),
    ("three point one four", "3.14"),
    ("half an hour", "½ an hour"),
    ("zero zero seven", "007"),
    ("Let us meet at seven", "Let's meet at 7"),
    ("It is sunny", "It's sunny"),
    ("I am sorry", "I'm sorry"),
    ("I will have soup", "I'll have soup"),
    ("You had better go", "You'd better go"),
    ("I cannot come", "I can't come"),
    ("it was not cold", "It wasn't cold"),
    ("the theater", "the Theatre"),
    ("a gray coat", "a grey coat"),
    ("the bookshop is closed", "the book shop is closed"),
    ("an ice cream", "an icecream"),
    ("a cafe", "a café"),
    ("Doctor Smith", "Dr. Smith"),
    ("all right", "alright"),
    ("three p.m.", "3pm"),
    ("fish and chips", "fish & chips"),
    ("", "..."),
]

DIFFERENT = [
    ("we're here", "were here", 1, 2),
    ("she'll go", "shell go", 1, 2),
    ("I'll pay", "ill pay", 1, 2),
    ("nine thirty", "nine thirteen", 1, 2),
    ("nine thirty", "9:40", 1, 2),
    ("twelve dollars", "$20", 1, 2),
    ("the third", "the 4th", 1, 2),
    ("a cup of tea", "cup of tea", 1, 4),
    ("to the two", "too the two", 1, 3),
    ("the cat sat on the mat", "the cat sat mat", 2, 6),
    ("the cat sat", "the big cat has sat", 2, 3),
    ("hello", "", 1, 1),
    ("", "hello there", 2, 0),
    ("one two three", "four five six", 3, 3),
]


@pytest.mark.parametrize(("said", "heard"), SAME)
def test_two_writings_of_the_same_words(said: str, heard: str) -> None:
    for left, right in ((said, heard), (heard, said)):
        errors = word_errors(left, right)
        assert errors.total == 0, errors.steps


@pytest.mark.parametrize(("said", "heard", "wrong", "words"), DIFFERENT)
def test_errors_by_hand(said: str, heard: str, wrong: int, words: int) -> None:
    errors = word_errors(said, heard)
    assert (errors.total, errors.words) == (wrong, words), errors.steps


def test_the_plainest_reading() -> None:
    assert normalise("It's 9:30, and costs $12.") == "it's nine thirty and costs twelve dollars"
    assert normalise("We're NOT the 'same'!") == "we're not the same"


def test_kinds_of_errors_and_the_alignment() -> None:
    errors = word_errors("I would like black coffee please", "I'd like a black cough")
    assert (errors.substitutions, errors.deletions, errors.insertions, errors.words) == (1, 1, 1, 6)
    wrong = [(step.said, step.heard) for step in errors.steps if not step.right]
    assert set(wrong) == {("", "a"), ("coffee", "cough"), ("please", "")}
    assert errors.rate == pytest.approx(0.5)


def test_plain_words_agree_with_jiwer() -> None:
    words = "red blue green black white gold pink".split()
    rng = np.random.default_rng(3)
    for _ in range(60):
        said, heard = (" ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(2))
        theirs = jiwer.process_words(said, heard)
        assert word_errors(said, heard).total == theirs.substitutions + theirs.deletions + theirs.insertions


def test_long_sentences_weigh_more() -> None:
    errors = [word_errors("a b c d e f g h", "a b c d e f g h"), word_errors("two", "three")]
    assert corpus_wer(errors) == pytest.approx(1 / 9)
    assert corpus_wer([]) == 0.0


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    rate, hits = 0.2, 0
    for trial in range(200):
        words = rng.integers(4, 14, size=60)
        wrong = rng.binomial(words, rate)
        low, high = bootstrap_interval(wrong.tolist(), words.tolist(), draws=400, seed=trial)
        hits += low <= rate <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_is_the_same_every_time() -> None:
    errors = [word_errors("one two three", heard) for heard in ("one two three", "one two", "one", "two three four")]
    assert wer_interval(errors) == wer_interval(errors)
    low, high = wer_interval(errors)
    assert low <= corpus_wer(errors) <= high
    assert bootstrap_interval([]) == (0.0, 0.0)
