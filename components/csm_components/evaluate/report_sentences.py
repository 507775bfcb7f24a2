"""The report's sentences: what was said, what was heard, and players for both; the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from csm_components.evaluate.charts import opus_uri, spectrogram_uri
from csm_components.evaluate.clips import read_clip
from csm_components.evaluate.figures import LONG_PAUSE_SECONDS, JudgedSentence
from csm_components.evaluate.html import Markup, element, escape, join, table
from csm_model.frames import SAMPLE_RATE

SAMPLES = 12
"""Sentences that get pictures: half of them the worst, the rest the typical and the best."""
LABELS = {
    "generated": "Generated",
    "reconstruction": "Codec only",
    "original": "Recording",
    "parent": "Float parent",
    "base": "Base, before this run",
}
"""What the report calls each series of clips."""
MEANINGS = {
    "generated": "what the model says",
    "reconstruction": "the recording through the codec and back: the best that the model could do",
    "original": "the recording itself: the best that the judges can hear",
    "parent": "the same model before its weights were quantised",
    "base": "the model that training began from",
}
"""What each series is."""


def badness(row: JudgedSentence) -> tuple[float, float, float]:
    """Sorts the worst first: wrong voice or endless speech, then word errors, then the opinion score."""
    faults = (not row.right_voice) + (not row.ended)
    return (-faults - row.errors.rate, -row.errors.total, row.verdict.mos or 0.0)


def choose_samples(rows: Sequence[JudgedSentence], count: int = SAMPLES) -> list[JudgedSentence]:
    """The worst half, then the typical, then the best, each once."""
    ranked = sorted(rows, key=badness)
    if len(ranked) <= count:
        return ranked
    worst, best = (count + 1) // 2, min(count // 2, max(1, count // 4))
    typical = count - worst - best
    middle = max(worst, len(ranked) // 2 - typical // 2)
    middle = min(middle, len(ranked) - best - typical)
    return [*ranked[:worst], *ranked[middle : middle + typical], *ranked[len(ranked) - best :]]


def samples(rows_by_series: Mapping[str, Sequence[JudgedSentence]], names: Mapping[int, str]) -> Markup:
    """Cards with players and pictures: every way a sentence was spoken, side by side."""
    cards = [_card(rows_by_series, names, row) for row in choose_samples(rows_by_series["generated"])]
    note = (
        "The worst first, then the typical, then the best. Struck through: words that were not heard; underlined: "
        "words that were heard instead."
    )
    return join(element("h2", "Listen"), element("p", note, cls="note"), *cards)


def _card(
    rows_by_series: Mapping[str, Sequence[JudgedSentence]], names: Mapping[int, str], row: JudgedSentence
) -> Markup:
    takes = [("generated", row)]
    for series in ("base", "parent"):
        takes += [(series, other) for other in rows_by_series.get(series, ()) if other.sentence.id == row.sentence.id]
    for series in ("reconstruction", "original"):
        takes += [(series, other) for other in rows_by_series[series] if other.sentence.turn == row.sentence.turn]
    sounds = [(series, take, read_clip(take.wav)) for series, take in takes]
    longest = max(len(sound) for *_, sound in sounds) / SAMPLE_RATE
    players = [
        element(
            "div",
            join(
                element("b", _take_label(names, series, take)),
                player(opus_uri(sound)),
                element(
                    "img", None, src=spectrogram_uri(sound, seconds=longest), alt=f"spectrogram, {series}", width="100%"
                ),
            ),
        )
        for series, take, sound in sounds
    ]
    head = [
        element("span", f"asked of {names.get(row.sentence.speaker, row.sentence.speaker)}"),
        *_badges(row),
    ]
    return element(
        "article",
        join(
            element("header", join(*head)),
            element("div", row.sentence.text, cls="said"),
            element("div", heard_words(row), cls="heard"),
            element("div", join(*players), cls="takes"),
        ),
        cls="card",
    )


def _take_label(names: Mapping[int, str], series: str, take: JudgedSentence) -> str:
    voice = names.get(take.sentence.speaker, f"speaker {take.sentence.speaker}")
    score = "" if take.verdict.mos is None else f", score {take.verdict.mos:.1f}"
    return f"{LABELS[series]} ({voice}{score})"


def player(uri: str) -> Markup:
    """A player of the sound at `uri`."""
    return element("audio", "", controls="", preload="none", src=uri)


def _badges(row: JudgedSentence) -> list[Markup]:
    wrong = row.errors.total
    count = f"{wrong} of {row.errors.words} words wrong" if wrong else "every word right"
    badges = [element("span", count, cls=f"badge {'bad' if wrong else 'good'}")]
    silence = row.verdict.silence
    for fault, label in (
        (not row.right_voice, "another voice"),
        (not row.ended, "did not end"),
        (max(silence.longest_pause, silence.leading) >= LONG_PAUSE_SECONDS, "long pause"),
    ):
        if fault:
            badges.append(element("span", label, cls="badge bad"))
    return badges


def heard_words(row: JudgedSentence) -> Markup:
    """What was heard, with what was not and what was instead."""
    parts = []
    for step in row.errors.steps:
        if step.right:
            parts.append(Markup(escape(step.heard)))
            continue
        if step.said:
            parts.append(element("del", step.said))
        if step.heard:
            parts.append(element("ins", step.heard))
    return Markup(" ".join(parts)) if parts else element("i", "nothing was heard")


JUDGED_HEADINGS = ("Errors", "Score", "Likeness", "")


def judged_cells(row: JudgedSentence) -> list[str]:
    """What stands under `JUDGED_HEADINGS`: the judges' figures and a player."""
    return [
        f"{row.errors.total}/{row.errors.words}",
        "-" if row.verdict.mos is None else f"{row.verdict.mos:.1f}",
        f"{row.similarity:.2f}",
        player(opus_uri(read_clip(row.wav))),
    ]


def all_sentences(rows_by_series: Mapping[str, Sequence[JudgedSentence]], names: Mapping[int, str]) -> Markup:
    """Every sentence with a player, folded away."""
    rows = sorted(rows_by_series["generated"], key=badness)
    cells = [
        [
            row.sentence.text,
            heard_words(row),
            names.get(row.sentence.speaker, str(row.sentence.speaker)),
            *judged_cells(row),
        ]
        for row in rows
    ]
    headings = ["Said", "Heard", "Voice", *JUDGED_HEADINGS]
    grid = element("div", table(headings, cells, text=(0, 1, 2)), cls="panel")
    return element("details", join(element("summary", f"All {len(rows)} sentences, the worst first"), grid))
