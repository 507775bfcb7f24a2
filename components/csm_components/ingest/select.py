"""Which turns are taken, by their figures: what annotate measured, held against the bounds of a policy.

Annotate measures and leaves nothing out; here nothing is measured. So another policy looks at figures alone, and costs
neither a decoded second nor a recogniser. Each bound has a reason of its own; a figure that was not measured breaks
none, and a bound that is `"off"` is not looked at.

Bounds are looked at from the sound to the text, in the order of `BOUNDS`: noise explains a text that was misheard, and
not the other way round, so a turn is left out under the cause and not under what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from csm_components.ingest.bounds import OFF, FigureBounds
from csm_components.ingest.checks import plain_text
from csm_components.ingest.records import Corpus, Reason

Refusal = tuple[Reason, str]
"""Why a turn is left out: the reason, and the figure and the bound."""
NARROW_BAND = "narrow band"
"""Tag of a turn whose sound ends early, where the policy marks it."""


Row = Mapping[str, Any]
"""A turn of annotations (`turns.jsonl.gz`)."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What becomes of a turn."""

    refused: Refusal | None = None
    """Why it is left out; none where it is taken."""
    tags: tuple[str, ...] = ()
    """Marks that it gets."""


def select(row: Row, bounds: FigureBounds) -> Selected:
    """Holds a turn's figures against the bounds.

    Args:
        row: `text`, `text_heard` and `figures`, as annotate writes them; what is absent breaks no bound.
        bounds: of the policy.
    """
    for bound in BOUNDS:
        if (found := bound(row, bounds)) is not None:
            return Selected(refused=found, tags=_marks(row, bounds))
    return Selected(tags=_marks(row, bounds))


def _marks(row: Row, bounds: FigureBounds) -> tuple[str, ...]:
    return (NARROW_BAND,) if bounds.narrow_band == "mark" and _narrow_band(row, bounds) else ()


def _figure(row: Row, name: str) -> Any:
    return (row.get("figures") or {}).get(name)


def _below(name: str, bound: str, reason: Reason, words: str) -> Callable[[Row, FigureBounds], Refusal | None]:
    """A figure that must not be smaller; `words` tells of both, `{0}` and `{1}`."""

    def check(row: Row, bounds: FigureBounds) -> Refusal | None:
        value, least = _figure(row, name), getattr(bounds, bound)
        broken = value is not None and least != OFF and value < least
        return (reason, words.format(value, least)) if broken else None

    return check


def _above(name: str, bound: str, reason: Reason, words: str) -> Callable[[Row, FigureBounds], Refusal | None]:
    """A figure that must not be larger."""

    def check(row: Row, bounds: FigureBounds) -> Refusal | None:
        value, most = _figure(row, name), getattr(bounds, bound)
        broken = value is not None and most != OFF and value > most
        return (reason, words.format(value, most)) if broken else None

    return check


_narrow_band = _below(
    "bandwidth_hz", "min_bandwidth_hz", "narrow band", "ends at {0:.0f} Hz, at least {1:.0f} are needed"
)


def _drop_narrow(row: Row, bounds: FigureBounds) -> Refusal | None:
    return _narrow_band(row, bounds) if bounds.narrow_band == "drop" else None


def _overlap(row: Row, bounds: FigureBounds) -> Refusal | None:
    """The share stands beside the figures in a row of annotations, and among them in a turn of ingest."""
    share = row.get("overlap", _figure(row, "overlap"))
    if share is None or bounds.max_overlap == OFF or share <= bounds.max_overlap:
        return None
    return "crosstalk", f"somebody else speaks in {share:.0%} of it, in at most {bounds.max_overlap:.0%} may be"


def _language(row: Row, bounds: FigureBounds) -> Refusal | None:
    """The language of a text that is long enough to have one, against the policy's, the corpus's and the sound's."""
    text, sure = _figure(row, "language_text"), _figure(row, "language_certainty")
    if text is None or bounds.language_agreement == OFF or sure < bounds.language_agreement:
        return None
    least = f"at least {bounds.language_agreement} is"
    if bounds.languages != OFF and text not in bounds.languages:
        return "wrong language", f"its text is {text} ({sure:.2f} sure, {least}), not {' or '.join(bounds.languages)}"
    for whose, name in (("the corpus says", "language_given"), ("its sound is", "language_sound")):
        if (other := _figure(row, name)) is not None and other != text:
            return "wrong language", f"its text is {text} ({sure:.2f} sure, {least}), {whose} {other}"
    return None


def _invented(row: Row, bounds: FigureBounds) -> Refusal | None:
    if bounds.invented == "keep":
        return None
    if phrase := _figure(row, "stock_phrase"):
        return "invented text", f"{phrase!r} stands under films, 0 such phrases may be"
    unique, longest = _figure(row, "unique_words"), _figure(row, "longest_word")
    if unique is not None and bounds.min_unique_words != OFF and unique < bounds.min_unique_words:
        return (
            "invented text",
            f"{unique:.0%} of its words are different, at least {bounds.min_unique_words:.0%} must be",
        )
    if longest is not None and bounds.max_longest_word != OFF and longest > bounds.max_longest_word:
        return "invented text", f"a word of {longest} letters, at most {bounds.max_longest_word:.0f} has one"
    return None


def _cut_off(row: Row, bounds: FigureBounds) -> Refusal | None:
    """Sound that begins or ends within its text; what of the text is heard must be right, or it is another text."""
    unheard, rate = _figure(row, "unheard_words"), _figure(row, "wer_given_heard")
    if unheard is None or bounds.max_unheard_words == OFF or unheard <= bounds.max_unheard_words:
        return None
    words = _words(row)
    if bounds.max_wer != OFF and rate * words - unheard > max(bounds.max_wer * (words - unheard), 1):
        return None
    rule = f"at most {bounds.max_unheard_words:.0f} may be"
    return "cut off", f"{unheard} words at an end of its text are not heard, {rule}{_heard(row)}"


def _wrong_text(row: Row, bounds: FigureBounds) -> Refusal | None:
    """More errors than `max_wer` a word, and than `slack_words` in all."""
    rate = _figure(row, "wer_given_heard")
    if rate is None or bounds.max_wer == OFF or rate <= bounds.max_wer:
        return None
    if rate * _words(row) <= bounds.slack_words + 1e-3:
        return None
    rule = f"at most {bounds.max_wer:.0%} may be"
    return "wrong text", f"{rate:.0%} of its words are heard otherwise, {rule}{_heard(row)}"


def _words(row: Row) -> int:
    return len(plain_text(row.get("text_given") or row.get("text") or "").split())


def _heard(row: Row) -> str:
    """What was heard, its beginning."""
    heard = row.get("text_heard")
    return "" if heard is None else f" (heard: {' '.join(heard.split()[:12])!r})"


def _duplicate(row: Row, bounds: FigureBounds) -> Refusal | None:
    first = _figure(row, "duplicate_of")
    if first is None or bounds.duplicates == "keep":
        return None
    return "duplicate", f"has the sound of {first}, 0 others may"


BOUNDS: tuple[Callable[[Row, FigureBounds], Refusal | None], ...] = (
    _above("clipped", "max_clipped", "clipped", "{0:.1%} of the samples are cut off, at most {1:.1%} may be"),
    _below("loudness_db", "min_loudness_db", "too quiet", "{0:.0f} dB of full scale, at least {1:.0f} dB are needed"),
    _above("loudness_db", "max_loudness_db", "too loud", "{0:.0f} dB of full scale, at most {1:.0f} dB may be"),
    _below("speech", "min_speech", "no speech", "speech in {0:.0%} of it, in at least {1:.0%} must be"),
    _above("music", "max_music", "music", "music in {0:.0%} of it, in at most {1:.0%} may be"),
    _below("snr_db", "min_snr_db", "noisy", "speech {0:.0f} dB above the noise, at least {1:.0f} dB are needed"),
    _drop_narrow,
    _above("edge_silence_s", "max_edge_silence_s", "padded", "{0:.1f} s of silence around it, at most {1:.1f} may be"),
    _overlap,
    _invented,
    _language,
    _cut_off,
    _wrong_text,
    _above(
        "characters_per_second", "max_characters_per_second", "cut off", "{0:.0f} letters a second, at most {1:.0f} fit"
    ),
    _below(
        "speaker_certainty",
        "min_speaker_certainty",
        "uncertain speaker",
        "its speaker is {0:.2f} certain, at least {1:.2f} is needed",
    ),
    _duplicate,
)
"""The checks in their order."""


def selected(corpus: Corpus, bounds: FigureBounds, before: Mapping[str, Refusal]) -> tuple[Corpus, dict[str, Refusal]]:
    """The corpus with the marks of its turns, and which of them are left out and why, by their ids.

    A turn without figures, of a corpus that was not annotated, is taken as it is.

    Args:
        corpus: whatever the policy's rights let in, and what they do not.
        bounds: of the policy.
        before: turns that are left out already.
    """
    refused = dict(before)
    taken: set[str] = set()  # sounds of which a turn is, by the first turn that has each
    conversations = []
    for source in corpus.conversations:
        turns = []
        for turn in source.turns:
            if turn.figures is not None and turn.id not in refused:
                row = {"text": turn.text, "text_heard": turn.text_heard, "figures": turn.figures}
                outcome = select(row, bounds)
                sound = str(turn.figures.get("duplicate_of", turn.id))
                if outcome.refused is None or (outcome.refused[0] == "duplicate" and sound not in taken):
                    taken.add(sound)  # of copies the first that is good: the very first may be left out
                else:
                    refused[turn.id] = outcome.refused
                if outcome.tags:
                    turn = replace(turn, tags=tuple(dict.fromkeys((*turn.tags, *outcome.tags))))
            turns.append(turn)
        conversations.append(replace(source, turns=tuple(turns)))
    return replace(corpus, conversations=tuple(conversations)), refused
