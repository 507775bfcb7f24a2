"""The report's first part: the dialogue at the end of a run, with its sound, its text and what was heard of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from csm_components.evaluate.charts import opus_uri
from csm_components.evaluate.figures import Figures, JudgedSentence
from csm_components.evaluate.html import Markup, element, join, table
from csm_components.evaluate.judges import Audio
from csm_components.evaluate.report_sentences import JUDGED_HEADINGS, heard_words, judged_cells, player


def dialogue_section(
    rows: Sequence[JudgedSentence],
    figures: Figures,
    of_voices: Mapping[int, Figures],
    names: Mapping[int, str],
    sound: Audio,
    *,
    recogniser: str,
) -> Markup:
    """The whole to be heard, then turn by turn: who spoke, what was said, what was heard.

    Args:
        rows: the turns in order.
        figures: of all of them.
        of_voices: of each voice's.
        names: of the voices.
        sound: all of it, `[S]`.
        recogniser: Whisper that wrote down what was heard.
    """
    by_voice = ", ".join(f"{names[voice]} {its.wer:.1%}" for voice, its in of_voices.items())
    score = "" if figures.mos is None else f" Opinion score {figures.mos:.2f}."
    lead = (
        f"{len(rows)} turns that no training data has, in one go: each turn heard the one before it as the model had "
        f"spoken it. Of {figures.words} words Whisper {recogniser} heard {figures.wer:.1%} wrong ({by_voice}).{score}"
    )
    cells = [
        [
            names[row.sentence.speaker],
            row.sentence.text,
            heard_words(row),
            *judged_cells(row),
        ]
        for row in rows
    ]
    headings = ["Voice", "Said", "Heard", *JUDGED_HEADINGS]
    return join(
        element("h2", "A dialogue"),
        element("p", lead, cls="note"),
        player(opus_uri(sound)),
        element("div", table(headings, cells, text=(1, 2)), cls="panel"),
    )
