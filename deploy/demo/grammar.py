"""A grammar of everyday two-speaker conversations.

A conversation is a walk through exchanges (question and answer) of one or two topics. An exchange is a pair of
templates: `{slot}` draws a phrase (the same phrase wherever the slot's name stands again in the exchange, and another
one for `{slot2}`), and `[a|b|c]` draws one of the alternatives. Everything is spelled as it is spoken: no digits, no
abbreviations, so that a transcript can be compared word for word.

Two vocabularies share the templates (words.py, topics.py): the demo's own and a wider one for the base model, a superset
with further topics. `scrambled` makes conversations of words that do not belong together: nobody can guess
how such a line goes on, so who wants to say it must read it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from topics import Exchange

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([a-z]+)(\d?)\}")
_VOWEL_SOUND = re.compile(r"\b([Aa]) (?=[aeiou](?!ni|ne))")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One line of a conversation: `speaker` is 0 or 1."""

    speaker: int
    text: str


def _fill(template: str, slots: dict[str, list[str]], drawn: dict[str, str], rng: random.Random) -> str:
    text = template
    while (match := _CHOICE.search(text)) is not None:
        text = text[: match.start()] + rng.choice(match.group(1).split("|")) + text[match.end() :]
    for kind, index in _SLOT.findall(text):
        key = kind + index
        while key not in drawn:
            phrase = rng.choice(slots[kind])
            if phrase not in drawn.values():
                drawn[key] = phrase
    text = _SLOT.sub(lambda match: drawn[match.group(1) + match.group(2)], text)
    text = _VOWEL_SOUND.sub(r"\1n ", text)
    return re.sub(r"(^|[.?!] )([a-z])", lambda match: match.group(1) + match.group(2).upper(), text)


def conversation(
    rng: random.Random, topics: dict[str, list[Exchange]], slots: dict[str, list[str]], *, turns: int
) -> list[Turn]:
    """Draws a conversation of `turns` (even) lines; either speaker may begin."""
    opener = rng.randrange(2)
    lines: list[Turn] = []
    pool: list[Exchange] = []
    while len(lines) < turns:
        if not pool:
            pool = list(topics[rng.choice(sorted(topics))])
            rng.shuffle(pool)
            pool = pool[:3]
        drawn: dict[str, str] = {}
        asker = opener if rng.random() < 0.7 else 1 - opener
        if lines and lines[-1].speaker == asker:
            asker = 1 - asker
        question, answer = pool.pop()
        lines.append(Turn(speaker=asker, text=_fill(question, slots, drawn, rng)))
        lines.append(Turn(speaker=1 - asker, text=_fill(answer, slots, drawn, rng)))
    return lines


def scrambled(rng: random.Random, words: list[str], *, turns: int) -> list[Turn]:
    """Draws a conversation of `turns` lines of three to nine words each, drawn from `words` one by one."""
    opener = rng.randrange(2)
    lines = []
    for number in range(turns):
        drawn = [rng.choice(words) for _ in range(rng.randint(3, 9))]
        if len(drawn) > 5:
            drawn[rng.randint(2, 3)] += ","
        text = " ".join(drawn)
        lines.append(Turn(speaker=(opener + number) % 2, text=text[0].upper() + text[1:] + rng.choice("...?")))
    return lines
