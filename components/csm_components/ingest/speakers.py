"""Numbers for speakers: the model knows people by small integers.

A few voices that are to be called by number keep one number over the whole corpus. The thousands of people of a corpus
of calls cannot: there numbers count in each conversation, from 0, by who speaks first, and say only who is who in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from csm_model.errors import InputError

Numbering = Literal["auto", "corpus", "conversation"]
"""Where the numbers of speakers count; `auto` is the corpus while it needs no more than `PLACES`."""
PLACES = 16
"""Speakers that every tokenizer has room for."""

LARGEST_KEPT = 255
"""Labels from 0 to this are taken for numbers already given; greater ones are names that happen to be digits."""


def number_speakers(
    labels: Collection[str], *, keep_numbers: bool, given: Mapping[str, int] | None = None
) -> dict[str, int]:
    """A number for each label: as `given`, else the label itself where all are small numbers, else 0, 1, ... in order.

    Raises `InputError` when `given` leaves a label out or gives one number twice.
    """
    ordered = sorted(
        set(labels), key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)
    )
    if given is not None:
        missing = [label for label in ordered if label not in given]
        if missing:
            raise InputError(f"no number was given for speaker {missing[0]!r}; the corpus has {', '.join(ordered)}")
        numbers = {label: given[label] for label in ordered}
        if len(set(numbers.values())) < len(numbers) or min(numbers.values(), default=0) < 0:
            raise InputError(f"speaker numbers {numbers}: must differ and be 0 or more")
        return numbers
    small = [str(number) for number in range(LARGEST_KEPT + 1)]
    if keep_numbers and set(ordered) <= set(small):
        return {label: int(label) for label in ordered}
    return {label: number for number, label in enumerate(ordered)}


def over_corpus(numbering: Numbering, numbers: Mapping[str, int]) -> bool:
    """Whether numbers count over the corpus, of which `numbers` are all; else in each conversation alone."""
    return numbering == "corpus" or (numbering == "auto" and max(numbers.values(), default=0) < PLACES)


def number_in_conversation(labels: Iterable[str]) -> dict[str, int]:
    """0, 1, ... for the labels of a conversation's turns, by first appearance."""
    return {label: number for number, label in enumerate(dict.fromkeys(labels))}
