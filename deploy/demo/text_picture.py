"""How often sounds and words come in the collected text and in the grammar, against real text, as a picture."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from csm_model.files import write_bytes

_COLOURS = {"chosen": "#1f6feb", "grammar": "#d1495b"}
_FLOOR = 1e-6


def draw(
    reference: Mapping[str, Mapping[object, float]], texts: Mapping[str, Mapping[str, Counter[object]]], path: Path
) -> None:
    """Each phoneme's and each word's share of a text over its share of real text: what lies on the line is right."""
    figure = Figure(figsize=(11, 5.2))
    axes = figure.subplots(1, 2)
    for axis, kind, title in zip(axes, ("phonemes", "words"), ("phonemes", "the 2,000 commonest words"), strict=True):
        shown = sorted(reference[kind], key=lambda unit: -reference[kind][unit])[:2000]
        x = np.array([reference[kind][unit] for unit in shown])
        for name, counts in reversed(texts.items()):
            y = np.array([counts[kind][unit] for unit in shown]) / counts[kind].total()
            axis.plot(x, np.maximum(y, _FLOOR), ".", ms=5 if kind == "words" else 9, alpha=0.5, color=_COLOURS[name])
            axis.plot([], [], "o", color=_COLOURS[name], label=name)
        axis.plot([x.min(), x.max()], [x.min(), x.max()], color="black", lw=0.8)
        axis.set(
            xscale="log", yscale="log", title=title, xlabel="share of unseen real text", ylabel="share of the text"
        )
        axis.set_ylim(bottom=_FLOOR * 0.7)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.text(0.995, 0.005, "on the lowest line: not in the text at all", ha="right", fontsize=8, color="grey")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, facecolor="white")
    write_bytes(path, buffer.getvalue())
