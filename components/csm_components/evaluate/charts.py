"""The report's pictures and sounds, each as a data URI, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import stft

from csm_components.evaluate.judges import Audio
from csm_model.files import atomic_path
from csm_model.frames import SAMPLE_RATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = ("#d9480f", "#1971c2", "#2f9e44", "#9c36b5", "#e8590c", "#0c8599")
TOP_HZ = 8_000


def data_uri(kind: str, data: bytes) -> str:
    """`data:KIND;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def opus_uri(audio: Audio) -> str:
    """Float32 sound `[S]` of 24 kHz as Ogg Opus, about 3 kB a second."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=0.9)
    return data_uri("audio/ogg", buffer.getvalue())


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return data_uri("image/png", buffer.getvalue())


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure, (axes,) = _panels(width, height)
    return figure, axes


def _panels(width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Any]]:
    """A figure, and its axes row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(MUTED)
        axes.tick_params(colors=MUTED, labelsize=8)
    return figure, panels


def log_spectrogram(audio: Audio) -> NDArray[np.float64]:
    """Decibels `[F, T]` up to 8 kHz, 10 ms a column, 80 dB below the loudest cut off."""
    length = 1024
    padded = np.pad(audio, (0, max(0, length - len(audio))))
    spectrum = stft(padded, SAMPLE_RATE, nperseg=length, noverlap=length - 240)[2]
    power = np.abs(spectrum[: TOP_HZ * length // SAMPLE_RATE]) ** 2
    decibels: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 1e-12))
    floor = float(decibels.max()) - 80
    return np.maximum(decibels, floor)


def spectrogram_uri(audio: Audio, *, seconds: float) -> str:
    """A picture of `audio` on a time axis of `seconds`, so that neighbours compare."""
    figure, axes = _figure(4.6, 1.5)
    extent = (0.0, len(audio) / SAMPLE_RATE, 0.0, TOP_HZ / 1000)
    axes.imshow(log_spectrogram(audio), origin="lower", aspect="auto", extent=extent, cmap="magma")
    axes.set_xlim(0, seconds)
    axes.set_yticks([0, 4, 8])
    axes.set_ylabel("kHz", fontsize=8, color=MUTED)
    axes.set_facecolor("#f5f7fa")
    return _png(figure)


def voices_uri(points: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Each clip as a dot: likeness to the asked voice across, to the nearest other up; below the line is right.

    Args:
        points: by series, pairs of cosines (asked, other).
    """
    figure, axes = _figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    for number, (series, pairs) in enumerate(points.items()):
        across, up = np.array(pairs).reshape(-1, 2).T
        axes.scatter(across, up, s=22, color=COLOURS[number], alpha=0.7, linewidths=0, label=series)
    values = [value for pairs in points.values() for pair in pairs for value in pair]
    low, high = min(values, default=0.0) - 0.03, max(values, default=1.0) + 0.03
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("cosine to the voice asked for", fontsize=9, color=INK)
    axes.set_ylabel("cosine to the nearest other voice", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return _png(figure)


_CURVES = (("loss", "training"), ("validation_loss", "held out"))
_PARTS = (
    ("loss_first", "training, first codebook"),
    ("validation_first", "held out, first codebook"),
    ("loss_depth", "training, other codebooks"),
    ("validation_depth", "held out, other codebooks"),
)


def losses_uri(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The curves of the losses in `rows` (lines of the trainer's `metrics.jsonl`); None where there is none."""
    names = {name for row in rows for name in row}
    wanted = [curve for curve in (*_PARTS, *_CURVES) if curve[0] in names]
    wanted = [curve for curve in wanted if curve in _PARTS] or wanted
    if not wanted:
        return None
    figure, axes = _figure(4.6, 4.2)
    for name, label in wanted:
        held_out = name.startswith("validation")
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[1 if name.endswith("depth") else 0],
            linewidth=2.2 if held_out else 1.0,
            alpha=1.0 if held_out else 0.55,
            marker="o" if held_out else None,
            markersize=3.5,
            label=label,
        )
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_xlabel("step", fontsize=9, color=INK)
    axes.set_ylabel("cross entropy, nats", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def write_scatter(
    path: Path,
    panels: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]],
    *,
    columns: int,
    across: str,
    along: str,
) -> None:
    """A PNG of panels in rows of `columns`: a title, and dots at values across `[N]` and along `[N]`."""
    rows = -(-len(panels) // columns)
    figure, grid = _panels(2.8 * columns, 2.6 * rows, rows=rows, columns=columns)
    for axes, (title, x, y) in zip(grid, panels, strict=False):
        axes.scatter(x, y, s=14, color=COLOURS[1], alpha=0.6, linewidths=0)
        axes.set_title(title, fontsize=9, color=INK)
    figure.supxlabel(across, fontsize=9, color=INK)
    figure.supylabel(along, fontsize=9, color=INK)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=110, facecolor="white")
