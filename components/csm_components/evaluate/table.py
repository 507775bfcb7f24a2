"""The figures side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from csm_components.evaluate.figures import Figures


def figures_table(figures: Mapping[str, Figures]) -> Table:
    """One column a series."""
    table = Table(title="evaluate", title_justify="left")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for label, show in (
        ("sentences", lambda item: f"{item.sentences}"),
        ("word error rate", lambda item: f"{item.wer:.1%}"),
        ("  95 % interval", lambda item: f"{item.wer_interval[0]:.1%} to {item.wer_interval[1]:.1%}"),
        ("distillMOS", lambda item: "-" if item.mos is None else f"{item.mos:.2f}"),
        ("right voice", lambda item: f"{item.speaker_accuracy:.1%}"),
        ("voice similarity", lambda item: f"{item.speaker_similarity:.2f}"),
        ("not ended", lambda item: f"{item.unended:.1%}"),
        ("near-silent sound", lambda item: f"{item.silent:.1%}"),
    ):
        table.add_row(label, *(show(item) for item in figures.values()))
    return table
