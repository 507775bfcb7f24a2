"""Conversations in which what was said before decides how a turn is said, by known amounts.

| kind | what is planted |
| --- | --- |
| follows | a question is said at a pace, loudness and pitch range of its own; the answer takes over `FOLLOWED` of each |
| mood | each speaker has a pace, loudness and pitch range for the whole conversation |
| contrast | the answer puts one word right, and that word stands out; only the question tells which |

What a turn owes to others is drawn on top of what is its own (`_OWN`), in units of the spread, so that no turn is told by its
text or voice. The words are the grammar's; each turn's delivery, kind and the turn it follows are in the corpus's manifest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from delivery import PLAIN_LEVEL, Delivery
from grammar import Turn, conversation
from topics import BASE_TOPICS
from words import BASE_SLOTS

KINDS = ("follows", "mood", "follows", "contrast")
"""What conversations are, one after the other."""
FOLLOWED = 0.9
"""How much of a question's difference from the middle its answer takes over."""
_OWN = 0.15
"""Standard deviation of what is a turn's own, where the spread of what is planted is 1."""
_SPREAD = {"pace": math.log(1.18), "level": 3.2, "pitch_range": math.log(1.5)}
"""Half of the width of what is drawn: of the logarithm of pace and range, and of dB."""
_WIDEST = 1.4


@dataclass(frozen=True, kw_only=True)
class Manner:
    """Pace, loudness and pitch range as differences from the middle, in units of their spread."""

    pace: float
    level: float
    pitch_range: float


@dataclass(frozen=True, kw_only=True)
class Said:
    """A turn, how it is said, and why."""

    turn: Turn
    delivery: Delivery
    kind: str
    follows: int | None
    """The turn that decides how this one is said; None where none does."""


def _drawn(rng: random.Random) -> Manner:
    return Manner(pace=rng.uniform(-1, 1), level=rng.uniform(-1, 1), pitch_range=rng.uniform(-1, 1))


def _near(manner: Manner, share: float, rng: random.Random) -> Manner:
    """A share of a manner, and something of one's own."""

    def moved(value: float) -> float:
        return max(-_WIDEST, min(_WIDEST, share * value + rng.gauss(0, _OWN)))

    return Manner(pace=moved(manner.pace), level=moved(manner.level), pitch_range=moved(manner.pitch_range))


def _delivery(manner: Manner, emphasis: int | None = None) -> Delivery:
    return Delivery(
        pace=round(math.exp(manner.pace * _SPREAD["pace"]), 4),
        level=round(PLAIN_LEVEL - 1.5 + manner.level * _SPREAD["level"], 2),
        pitch_range=round(math.exp(manner.pitch_range * _SPREAD["pitch_range"]), 4),
        emphasis=emphasis,
    )


def _follows(rng: random.Random, turns: int) -> Iterator[Said]:
    """Each answer takes over the manner of its question; the next question has another."""
    asked = _drawn(rng)
    for number, turn in enumerate(conversation(rng, BASE_TOPICS, BASE_SLOTS, turns=turns)):
        if number % 2 == 0:
            asked = _drawn(rng)
            yield Said(turn=turn, delivery=_delivery(asked), kind="follows", follows=None)
        else:
            answered = _near(asked, FOLLOWED, rng)
            yield Said(turn=turn, delivery=_delivery(answered), kind="follows", follows=number - 1)


def _mood(rng: random.Random, turns: int) -> Iterator[Said]:
    """Each speaker keeps a manner; who has spoken before tells how he will speak."""
    moods = (_drawn(rng), _drawn(rng))
    last: dict[int, int] = {}
    for number, turn in enumerate(conversation(rng, BASE_TOPICS, BASE_SLOTS, turns=turns)):
        manner = _near(moods[turn.speaker], 1.0, rng)
        yield Said(turn=turn, delivery=_delivery(manner), kind="mood", follows=last.get(turn.speaker))
        last[turn.speaker] = number


_VERBS = (
    "buy bought",
    "lose lost",
    "paint painted",
    "find found",
    "sell sold",
    "break broke",
    "hide hid",
    "want wanted",
)
_COLORS = "red blue green white yellow brown gray black purple orange".split()
_THINGS = (
    "scarf jacket chair table suitcase lamp vase bucket pillow mirror wallet candle hammer piano box blanket".split()
)
_NAMES = "Anna Peter Sarah David Emma Martin Laura Thomas Helen Robert Alice Simon".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_FOCI = {"person": 1, "color": 4, "thing": 5, "day": 7}
"""The place of each in "No, Anna bought the red scarf on Monday.", counted from 0."""


def _contrast(rng: random.Random, turns: int) -> Iterator[Said]:
    """Each answer says the whole sentence again; the word in which it differs from the question stands out."""
    asker = rng.randrange(2)
    for number in range(0, turns, 2):
        verb, past = rng.choice(_VERBS).split()
        wrong, right = (
            dict(zip(_FOCI, drawn, strict=True))
            for drawn in zip(
                *(rng.sample(words, 2) for words in (_NAMES, _COLORS, _THINGS, _DAYS)),
                strict=True,
            )
        )
        focus = rng.choice(list(_FOCI))
        asked = right | {focus: wrong[focus]}
        question = f"Did {asked['person']} {verb} the {asked['color']} {asked['thing']} on {asked['day']}?"
        answer = f"No, {right['person']} {past} the {right['color']} {right['thing']} on {right['day']}."
        middle = Manner(pace=0.0, level=0.0, pitch_range=0.0)
        yield Said(
            turn=Turn(speaker=asker, text=question),
            delivery=_delivery(_near(middle, 1.0, rng)),
            kind="contrast",
            follows=None,
        )
        yield Said(
            turn=Turn(speaker=1 - asker, text=answer),
            delivery=_delivery(_near(middle, 1.0, rng), emphasis=_FOCI[focus]),
            kind="contrast",
            follows=number,
        )


_MAKERS = {"follows": _follows, "mood": _mood, "contrast": _contrast}


def talk(kind: str, rng: random.Random, *, turns: int) -> list[Said]:
    """A conversation of `turns` (even) turns."""
    return list(_MAKERS[kind](rng, turns))
