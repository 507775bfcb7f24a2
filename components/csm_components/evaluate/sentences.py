"""Which held-out sentences are spoken, by whom, and after what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from csm_components.evaluate.wer import normalise
from csm_components.ingest.conversations import Conversation
from csm_model.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A held-out text in the voice it is asked for."""

    turn: str
    """Id of the turn whose text it is."""
    conversation: str
    text: str
    speaker: int
    """The voice that is asked for."""
    own: bool
    """Whether the corpus has this turn in this voice."""
    context: str | None
    """Id of the turn before it, which the model hears first; None for a conversation's first turn."""

    @property
    def id(self) -> str:
        """Turn and voice."""
        return f"{self.turn}.{self.speaker}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and how much was there."""

    sentences: tuple[Sentence, ...]
    seen: int
    """Turns of the split that were left out because a training turn has the same words."""


def choose_sentences(
    held_out: Iterable[Conversation],
    *,
    encoded: Collection[str],
    training_texts: Iterable[str],
    per_voice: int,
    speakers: Sequence[int] = (),
) -> Choice:
    """At most `per_voice` sentences for every voice, no text twice in a voice, none that training has.

    A voice speaks its own turns first, spread over the conversations, those with a turn before them first; then
    the turns of the other voices, so that a small split still gives enough.

    Args:
        held_out: conversations of the split.
        encoded: ids of the turns that have codes; the others are not spoken.
        training_texts: what must not be spoken.
        per_voice: sentences of each voice.
        speakers: voices; without it, those of the split.

    Raises:
        InputError: nothing is left to speak.
    """
    if per_voice < 1:
        raise InputError(f"{per_voice} sentences a voice: must be 1 or more")
    known = {normalise(text) for text in training_texts}
    columns: list[list[tuple[Conversation, int]]] = []
    seen = 0
    for conversation in held_out:
        turns = [(i, turn) for i, turn in enumerate(conversation.turns) if turn.id in encoded]
        unseen = [i for i, turn in turns if normalise(turn.text) not in known]
        seen += len(turns) - len(unseen)
        columns.append([(conversation, i) for i in unseen])
    spread = [item for row in zip_longest(*columns) for item in row if item is not None]
    if not spread:
        raise InputError("no held-out sentence to speak: the split is empty or training has all its texts")
    voices = sorted(speakers or {turn.speaker for talk, _ in spread for turn in talk.turns})
    chosen = [sentence for voice in voices for sentence in _of_voice(voice, spread, encoded)[:per_voice]]
    return Choice(sentences=tuple(chosen), seen=seen)


def _of_voice(voice: int, spread: Sequence[tuple[Conversation, int]], encoded: Collection[str]) -> list[Sentence]:
    """Every text once, the best fitting turns first."""
    found: dict[str, Sentence] = {}
    ranked = sorted(spread, key=lambda item: (item[0].turns[item[1]].speaker != voice, item[1] == 0))
    for conversation, index in ranked:
        turn = conversation.turns[index]
        before = conversation.turns[index - 1].id if index else None
        found.setdefault(
            normalise(turn.text),
            Sentence(
                turn=turn.id,
                conversation=conversation.id,
                text=turn.text,
                speaker=voice,
                own=turn.speaker == voice,
                context=before if before in encoded else None,
            ),
        )
    return list(found.values())


def subset(sentences: Sequence[Sentence], per_voice: int) -> tuple[Sentence, ...]:
    """The first `per_voice` of each voice."""
    counts: dict[int, int] = {}
    kept = []
    for sentence in sentences:
        counts[sentence.speaker] = counts.get(sentence.speaker, 0) + 1
        if counts[sentence.speaker] <= per_voice:
            kept.append(sentence)
    return tuple(kept)


def voice_names(conversations: Iterable[Conversation], known: Mapping[int, str]) -> dict[int, str]:
    """A name for every speaker: the bundle's, else the corpus's, else its number."""
    names = dict(known)
    for conversation in conversations:
        for turn in conversation.turns:
            names.setdefault(turn.speaker, turn.voice or f"speaker {turn.speaker}")
    return names
