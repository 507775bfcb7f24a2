"""Turns: words and speakers to what each person says at a stretch.

Speakers are given to words, not to what the recogniser calls a segment: one segment may hold two people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from csm_components.annotate.recordings import Span, common
from csm_components.annotate.who import VoiceSpan
from csm_components.annotate.words import Stretch, Word

VERSION = 1
LONG_TURN_S = 20.0
"""Seconds after which a turn ends with its sentence."""
LONGEST_TURN_S = 30.0
"""Seconds after which it ends whatever is said."""
EDGE_S = 0.4
"""How far a turn's first and last word may be from the edges of speech and still be stretched to them."""
_ENDS = (".", "!", "?", "…", "\u3002", "\uff01", "\uff1f")


@dataclass(frozen=True, kw_only=True)
class HeardTurn:
    """What one person says at a stretch."""

    channel: int | None
    span: Span
    speaker: int
    certainty: float
    """Of the speaker, 0 to 1."""
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """Its words, with punctuation and case as the recogniser gives them."""
        return " ".join("".join(word.text for word in self.words).split())


@dataclass(frozen=True, kw_only=True)
class _SpokenWord:
    word: Word
    speaker: int
    certainty: float
    span: Span
    """With the quiet edge of speech before or after it, where it is the first or the last."""


def make_turns(
    stretches: Sequence[Stretch], words: Sequence[Sequence[Word]], voices: Sequence[VoiceSpan], *, pause: float
) -> list[HeardTurn]:
    """The turns of a recording, in the order of their times.

    Args:
        stretches: of speech.
        words: of each of them.
        voices: whose speech it is.
        pause: seconds of silence that end a turn.
    """
    turns: list[HeardTurn] = []
    for channel in dict.fromkeys(stretch.channel for stretch in stretches):
        mine = [row for row in voices if row.channel == channel]
        spoken = [
            each
            for stretch, row in zip(stretches, words, strict=True)
            if stretch.channel == channel
            for each in _spoken(stretch.span, row, mine)
        ]
        turns += [_turn(channel, rows) for rows in _cut(sorted(spoken, key=lambda each: each.span), pause)]
    return sorted(turns, key=lambda turn: (turn.span, turn.speaker))


def _spoken(stretch: Span, words: Sequence[Word], voices: Sequence[VoiceSpan]) -> list[_SpokenWord]:
    """The words of a stretch, each with who said it."""
    near = [row for row in voices if common(row.span, stretch) > 0] or list(voices)
    found = []
    for number, word in enumerate(words):
        span = Span(word.start, word.end)
        owner = max(near, key=lambda row: (common(row.span, span), -_distance(row.span, span)))
        start, end = span
        if number == 0 and start - stretch.start <= EDGE_S:
            start = stretch.start
        if number + 1 == len(words) and stretch.end - end <= EDGE_S:
            end = stretch.end
        found.append(_SpokenWord(word=word, speaker=owner.speaker, certainty=owner.certainty, span=Span(start, end)))
    return found


def _distance(one: Span, other: Span) -> float:
    return max(0.0, one.start - other.end, other.start - one.end)


def _cut(spoken: Sequence[_SpokenWord], pause: float) -> list[list[_SpokenWord]]:
    """Words of a channel by turn."""
    turns: list[list[_SpokenWord]] = []
    for each in spoken:
        if turns and not _ends(turns[-1], each, pause):
            turns[-1].append(each)
        else:
            turns.append([each])
    return turns


def _ends(turn: Sequence[_SpokenWord], following: _SpokenWord, pause: float) -> bool:
    """Whether a turn is over before a word."""
    last = turn[-1]
    seconds = last.span.end - turn[0].span.start
    return (
        following.speaker != last.speaker
        or following.span.start - last.span.end > pause
        or (seconds > LONG_TURN_S and last.word.text.rstrip().endswith(_ENDS))
        or following.span.end - turn[0].span.start > LONGEST_TURN_S
    )


def _turn(channel: int | None, rows: Sequence[_SpokenWord]) -> HeardTurn:
    seconds = sum(row.span.seconds for row in rows)
    return HeardTurn(
        channel=channel,
        span=Span(rows[0].span.start, max(row.span.end for row in rows)),
        speaker=rows[0].speaker,
        certainty=round(sum(row.certainty * row.span.seconds for row in rows) / seconds, 3),
        words=tuple(row.word for row in rows),
    )
