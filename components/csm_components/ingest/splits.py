"""Which conversation is for training, validation or test; and which held-out sentences are in training too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from csm_components.ingest.records import SPLITS, SourceConversation, Split
from csm_model.errors import InputError

TEST_SHARE = 0.10
VALIDATION_SHARE = 0.05
LONG_SENTENCE = 5
"""Words from which on a sentence is held out for good, where shorter ones are said by everybody."""
LONG_RUN = 13
"""Words in a row that two texts do not share by chance (Brown et al. 2020, appendix C)."""

_ALIASES: dict[str, Split] = {"dev": "validation", "valid": "validation", "val": "validation", "eval": "test"}


def given_split(conversation: str, names: set[str | None]) -> Split | None:
    """The split of a conversation from what its turns name; raises `InputError` for two or an unknown one."""
    if len(names) > 1:
        listed = ", ".join(sorted(str(name) for name in names))
        raise InputError(f"conversation {conversation}: its turns are of several splits ({listed}); give it one")
    name = next(iter(names), None)
    if name is None:
        return None
    split: str = _ALIASES.get(name, name)
    for known in SPLITS:
        if split == known:
            return known
    raise InputError(f"conversation {conversation}: unknown split {name!r}; valid are {', '.join(SPLITS)}")


def _fraction(conversation: str) -> float:
    """A number from 0 to 1 that depends on the id alone."""
    return int.from_bytes(hashlib.sha256(conversation.encode()).digest()[:8]) / 2**64


def make_splits(ids: Sequence[str]) -> dict[str, Split]:
    """Splits conversations by the hash of their ids, so that a corpus that grows keeps its held-out part.

    From two conversations on there is a validation one, from three on a test one: if the hash gives none, the one next
    to the bound is taken.
    """
    ranked = sorted(ids, key=_fraction)
    splits: dict[str, Split] = {}
    for name in ranked:
        share = _fraction(name)
        splits[name] = (
            "test" if share < TEST_SHARE else "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"
        )
    wanted = SPLITS[: len(ranked)]
    for split in wanted:
        if split not in splits.values():
            # Take from one that is not wanted, else from the largest; of its conversations, the smallest hash.
            taken = list(splits.values())
            donor = max(SPLITS, key=lambda other: (other in taken and other not in wanted, taken.count(other)))
            splits[next(name for name in ranked if splits[name] == donor)] = split
    return splits


def choose_splits(conversations: Sequence[SourceConversation]) -> tuple[dict[str, Split], bool]:
    """The split of each conversation, and whether the corpus gave it; raises `InputError` when it gave some only."""
    given = {item.id: item.split for item in conversations if item.split is not None}
    if given and len(given) < len(conversations):
        missing = next(item.id for item in conversations if item.split is None)
        raise InputError(
            f"conversation {missing} has no split, but {len(given)} others have; give all of them one, or none"
        )
    return (given, True) if given else (make_splits([item.id for item in conversations]), False)


@dataclass(frozen=True)
class Leak:
    """A held-out turn that is said elsewhere."""

    turn: str
    """The turn that says it too."""
    words: int
    """Words in a row that both have."""


def leaked(held_out: Mapping[str, str], learnt: Iterable[tuple[str, str]]) -> dict[str, Leak]:
    """Held-out turns whose sentence is learnt: all of it, or `LONG_RUN` words of it in a row.

    What has fewer than `LONG_SENTENCE` words is said by everybody ("yes", "I know"), and is no leak. Memory grows with
    the held-out texts alone.

    Args:
        held_out: plain text (`checks.plain_text`) of each held-out turn.
        learnt: turn and plain text of all others.
    """
    whole: dict[str, list[str]] = {}
    runs: dict[tuple[str, ...], list[str]] = {}
    for turn, text in held_out.items():
        words = text.split()
        if len(words) >= LONG_SENTENCE:
            whole.setdefault(" ".join(words), []).append(turn)
        for run in _runs(words):
            runs.setdefault(run, []).append(turn)
    found: dict[str, Leak] = {}
    for turn, text in learnt:
        words = text.split()
        for mine in whole.get(" ".join(words), ()):
            found.setdefault(mine, Leak(turn, len(words)))
        for run in _runs(words) if runs else ():
            for mine in runs.get(run, ()):
                found.setdefault(mine, Leak(turn, LONG_RUN))
    return found


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + LONG_RUN]) for start in range(len(words) - LONG_RUN + 1))
