"""The report of an evaluation: one HTML file with its sounds and pictures inside, which opens from a disk.

The worst sentences stand first: a listener wants to know how it fails.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csm_components.evaluate import html
from csm_components.evaluate.charts import losses_uri, voices_uri
from csm_components.evaluate.figures import LONG_PAUSE_SECONDS, Figures, JudgedSentence, figures_of
from csm_components.evaluate.html import Markup, element, join, table
from csm_components.evaluate.learned import Learned
from csm_components.evaluate.report_sentences import LABELS, MEANINGS, all_sentences, samples
from csm_model.files import atomic_path


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """All that the report shows."""

    rows: Mapping[str, Sequence[JudgedSentence]]
    """Clips by series; `generated`, `original` and `reconstruction` at least."""
    figures: Mapping[str, Figures]
    same: Mapping[str, Figures]
    """By compared series, the generated speech's figures on the sentences of that series."""
    after: str
    """The series that `learned` compares with the base; empty for none."""
    learned: Sequence[Learned]
    """What the run learned, a row a voice."""
    names: Mapping[int, str]
    """Of the voices."""
    seen: int
    """Held-out turns left out because training has the same words."""
    bundle: Mapping[str, Any]
    """Its manifest."""
    dataset: Mapping[str, Any]
    """The manifest of the conversations."""
    rejected: Path
    """What ingest left out: JSON lines."""
    metrics: Path | None
    """What the trainer logged: JSON lines."""
    thresholds: Mapping[str, float]
    """What figures should reach: `wer`, `speaker_accuracy`, `mos`, `unended`, `wer_int8_delta`."""
    recogniser: str
    served: bool
    """Whether the speech was streamed from a server."""


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Writes the page in one step."""
    page = html.page("Evaluation of a speech model", _style(), body(inputs))
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _style() -> str:
    return (importlib.resources.files("csm_components.evaluate") / "page.css").read_text(encoding="utf-8")


def body(inputs: ReportInputs) -> Markup:
    """The page's content."""
    return join(
        _head(inputs),
        html.PLACE,
        _tiles(inputs),
        _comparison(inputs),
        _voices(inputs),
        _learned(inputs),
        _pictures(inputs),
        samples(inputs.rows, inputs.names),
        all_sentences(inputs.rows, inputs.names),
        _left_out(inputs),
        _facts(inputs),
    )


def _head(inputs: ReportInputs) -> Markup:
    generated = inputs.figures["generated"]
    heard = "streamed from the server" if inputs.served else "spoken by the offline generator"
    lead = (
        f"{generated.sentences} sentences that training never saw, {heard}, each after the turn before it, "
        f"in {len({row.sentence.speaker for row in inputs.rows['generated']})} voices; "
        f"{generated.seconds / 60:.1f} minutes of sound. Whisper {inputs.recogniser} wrote down what it heard."
    )
    return join(element("h1", "How does the model speak?"), element("p", lead, cls="lead"))


def _tiles(inputs: ReportInputs) -> Markup:
    generated = inputs.figures["generated"]
    low, high = generated.wer_interval
    tiles = [
        _tile(
            "Words wrong",
            f"{generated.wer:.1%}",
            f"95 %: {low:.1%} to {high:.1%}",
            _bound(inputs, "wer", generated.wer),
        ),
        _tile(
            "Right voice",
            f"{generated.speaker_accuracy:.0%}",
            "95 %: {:.0%} to {:.0%}".format(*generated.speaker_accuracy_interval),
            _bound(inputs, "speaker_accuracy", generated.speaker_accuracy),
        ),
    ]
    if generated.mos is not None and generated.mos_interval is not None:
        side = "1 bad to 5 excellent; 95 %: {:.2f} to {:.2f}".format(*generated.mos_interval)
        tiles.append(_tile("Opinion score", f"{generated.mos:.2f}", side, _bound(inputs, "mos", generated.mos)))
    tiles += [
        _tile("Word-perfect sentences", f"{generated.perfect:.0%}", "no error at all", None),
        _tile(
            "Did not end",
            f"{generated.unended:.1%}",
            "cut at the longest length",
            _bound(inputs, "unended", generated.unended),
        ),
    ]
    return element("div", join(*tiles), cls="tiles")


def _bound(inputs: ReportInputs, name: str, value: float) -> tuple[bool, str] | None:
    """Whether a figure reaches what it should, and in words; None where nothing is asked."""
    if name not in inputs.thresholds:
        return None
    bound = inputs.thresholds[name]
    least = name in ("speaker_accuracy", "mos")
    asked = f"{'at least' if least else 'at most'} {bound:g}" if name == "mos" else None
    asked = asked or f"{'at least' if least else 'at most'} {bound:.0%}"
    good = value >= bound if least else value <= bound
    return good, f"{'reaches' if good else 'misses'} {asked}"


def _tile(label: str, value: str, side: str, bound: tuple[bool, str] | None) -> Markup:
    state = "" if bound is None else " good" if bound[0] else " bad"
    parts = [element("div", label, cls="label"), element("div", value, cls="value"), element("div", side, cls="side")]
    if bound is not None:
        parts.append(element("div", bound[1], cls="side verdict"))
    return element("div", join(*parts), cls=f"tile{state}")


def _comparison(inputs: ReportInputs) -> Markup:
    series = [name for name in ("generated", "reconstruction", "original") if name in inputs.figures]
    columns = [inputs.figures[name] for name in series]
    return join(
        element("h2", "Beside the baselines"),
        element("p", "; ".join(f"{LABELS[name]}: {MEANINGS[name]}" for name in series) + ".", cls="note"),
        element("div", _figures_table([LABELS[name] for name in series], columns), cls="panel"),
    )


def _figures_table(headings: Sequence[str], columns: Sequence[Figures], *, strong: int | None = 1) -> Markup:
    def interval(pair: tuple[float, float] | None, form: str) -> str:
        return "" if pair is None else f"{pair[0]:{form}} to {pair[1]:{form}}"

    lines: list[tuple[str, list[tuple[str, str]]]] = [
        ("Sentences", [(f"{item.sentences}", f"{item.words} words") for item in columns]),
        ("Word error rate", [(f"{item.wer:.1%}", interval(item.wer_interval, ".1%")) for item in columns]),
        (
            "Opinion score (distillMOS)",
            [("-" if item.mos is None else f"{item.mos:.2f}", interval(item.mos_interval, ".2f")) for item in columns],
        ),
        (
            "Right voice",
            [(f"{item.speaker_accuracy:.1%}", interval(item.speaker_accuracy_interval, ".0%")) for item in columns],
        ),
        (
            "Likeness to the voice (cosine)",
            [
                (
                    f"{item.speaker_similarity:.2f}",
                    "" if item.other_similarity is None else f"nearest other {item.other_similarity:.2f}",
                )
                for item in columns
            ],
        ),
        ("Did not end", [(f"{item.unended:.1%}", "") for item in columns]),
        (
            "Near-silent sound",
            [(f"{item.silent:.1%}", f"{item.leading_silence * 1000:.0f} ms before speech") for item in columns],
        ),
        (f"Pause of {LONG_PAUSE_SECONDS:g} s or more", [(f"{item.long_pauses:.1%}", "") for item in columns]),
    ]
    cells = [
        [label, *(join(value, element("small", side) if side else "") for value, side in row)] for label, row in lines
    ]
    return table(["", *headings], cells, strong=strong)


def _voices(inputs: ReportInputs) -> Markup:
    rows = inputs.rows["generated"]
    voices = sorted({row.sentence.speaker for row in rows})
    if len(voices) < 2:
        return Markup("")
    columns = [figures_of([row for row in rows if row.sentence.speaker == voice]) for voice in voices]
    headings = [inputs.names.get(voice, f"speaker {voice}") for voice in voices]
    return join(
        element("h2", "Voice by voice"),
        element("p", "The generated speech alone.", cls="note"),
        element("div", _figures_table(headings, columns, strong=None), cls="panel"),
    )


def _learned(inputs: ReportInputs) -> Markup:
    parts = []
    for name, heading in (("base", "What the run learned"), ("parent", "What quantising cost")):
        if name not in inputs.figures:
            continue
        here, before = inputs.same[name], inputs.figures[name]
        known = "On the same sentences with the same seeds. "
        parts.append(element("h2", heading))
        if name == "base":
            parts.append(_by_voice(inputs))
        parts += [
            element("p", f"{known}{LABELS[name]}: {MEANINGS[name]}.", cls="note"),
            element("div", _figures_table([LABELS["generated"], LABELS[name]], [here, before]), cls="panel"),
        ]
    return join(*parts)


def _by_voice(inputs: ReportInputs) -> Markup:
    """What the run learned, voice by voice."""
    note = (
        f"Voice by voice, the same sentences with the same seeds. Before: {MEANINGS['base']}; after: "
        f"{MEANINGS[inputs.after]}. The interval is of the difference, by drawing the sentences anew, each with both "
        "of its clips: one that holds 0 shows no difference."
    )
    cells = [
        [
            row.voice,
            str(row.sentences),
            f"{row.wer_before:.1%}",
            f"{row.wer_after:.1%}",
            join(row.difference, element("small", row.difference_interval)),
            f"{row.similarity_before:.2f}",
            f"{row.similarity_after:.2f}",
        ]
        for row in inputs.learned
    ]
    headings = ["Voice", "Sentences", "Words wrong before", "after", "Difference, points", "Likeness before", "after"]
    return join(element("p", note, cls="note"), element("div", table(headings, cells, strong=4), cls="panel"))


def _pictures(inputs: ReportInputs) -> Markup:
    figures = []
    points = {
        LABELS[series]: [
            (row.similarity, other) for row in inputs.rows[series] if (other := row.other_similarity) is not None
        ]
        for series in ("original", "generated", "base")
        if series in inputs.rows
    }
    if any(points.values()):
        caption = "Whose voice is it? A dot a clip; below the dashed line it is nearer to the voice asked for."
        figures.append(_picture(voices_uri(points), caption))
    losses = losses_uri(_json_lines(inputs.metrics)) if inputs.metrics else None
    if losses:
        figures.append(_picture(losses, "The losses while it was trained, as the trainer logged them."))
    if not figures:
        return Markup("")
    return join(element("h2", "In pictures"), element("div", join(*figures), cls="pictures"))


def _picture(uri: str, caption: str) -> Markup:
    image = element("img", None, src=uri, alt=caption)
    return element("figure", join(image, element("figcaption", caption)), cls="panel")


def _left_out(inputs: ReportInputs) -> Markup:
    rows = _json_lines(inputs.rejected)
    reasons: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        reasons.setdefault(str(row.get("reason", "unknown")), []).append(row)
    parts = [element("h2", "What was left out")]
    if not reasons:
        parts.append(element("p", "Ingest used every record of the corpus.", cls="note"))
    else:
        cells = [
            [
                reason,
                str(len(group)),
                f"{sum(float(row.get('seconds', 0)) for row in group):.1f}",
                str(group[0].get("detail", "")),
            ]
            for reason, group in sorted(reasons.items(), key=lambda item: -len(item[1]))
        ]
        grid = table(["Reason", "Records", "Seconds", "For example"], cells, text=(0, 3))
        parts.append(element("div", grid, cls="panel"))
    if inputs.seen:
        said = f"{inputs.seen} held-out turns were not spoken: training has a turn with the same words."
        parts.append(element("p", said, cls="note"))
    return join(*parts)


def _facts(inputs: ReportInputs) -> Markup:
    names = (
        "digest",
        "precision",
        "dataset_digest",
        "replay_digest",
        "codec_digest",
        "tokenizer_digest",
        "parent_digest",
        "base_digest",
    )
    facts = [
        ("bundle " + name.replace("_", " "), str(inputs.bundle[name])) for name in names if inputs.bundle.get(name)
    ]
    facts += [(f"voice {voice}", name) for voice, name in sorted(inputs.names.items())]
    sampling = inputs.bundle.get("sampling")
    if sampling:
        facts.append(("sampling", ", ".join(f"{key} {value}" for key, value in sorted(sampling.items()))))
    cells = [[label, element("code", value)] for label, value in facts]
    made = datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC")
    return join(
        element("details", join(element("summary", "What this was made from"), table(["", ""], cells, text=(0, 1)))),
        element("footer", f"Made by csm-foundry on {made}. Intervals are 95 %. This file needs no other."),
    )


def _json_lines(path: Path | None) -> list[dict[str, Any]]:
    """The whole lines of a file; none where it is not there."""
    if path is None or not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # a line that a kill cut
            continue
    return rows
