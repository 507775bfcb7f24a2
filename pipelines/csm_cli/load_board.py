"""What `csm bench-serve` shows: a table on the terminal, a picture in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from csm_model.errors import MissingDependencyError
from csm_model.files import atomic_path
from csm_serving.client.load import LoadResult
from csm_serving.client.load_report import PERCENTILES, Objective, live_over_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _BLUE, _RED, _ORANGE = "#1f2933", "#7b8794", "#1971c2", "#c92a2a", "#e8590c"
_SPREADS = (
    ("first audio, ms", "first_audio_ms"),
    ("between chunks, ms", "chunk_gap_ms"),
    ("real-time factor", "real_time_factor"),
)


def table_of(report: Mapping[str, Any], objectives: Sequence[Objective]) -> RenderableType:
    """The figures as rows of percentiles, then counts, then the objectives."""
    table = Table("", *(f"p{share}" for share in PERCENTILES), "max", box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [(name, report[key]) for name, key in _SPREADS]
    rows += [(f"refused as {code}, ms", values) for code, values in report["refusal_ms"].items()]
    rows.append(("the player waited, ms", report["underruns"]["stalled_ms"]))
    for name, values in rows:
        if values:
            table.add_row(name, *(_number(values[key]) for key in (*(f"p{share}" for share in PERCENTILES), "max")))
    streams, underruns, client = report["streams"], report["underruns"], report["client"]
    lines = [
        f"{streams['asked']} streams asked for in {report['seconds']:.1f} s: {streams['complete']} complete, "
        f"{_counts(streams['refused'], 'refused')}, {_counts(streams['errors'], 'broken')}"
        + (f"; {streams['not_asked']} not asked for, this client was full" if streams["not_asked"] else ""),
        f"at most {report['most_live']} live; {report['sound']['seconds']:.1f} s of sound, "
        f"{report['sound']['per_second']:.1f} a second",
        f"{underruns['chunks']} underruns in {underruns['streams']} streams",
        f"this client took {client['processor_share']:.0%} of a processor"
        + (f" and was {client['late_ms']['p99']:.0f} ms late (p99)" if client["late_ms"] else ""),
    ]
    if streams["first_error"]:
        lines.append(f"first error: {streams['first_error']}")
    verdicts = [
        Text(
            f"{'met   ' if objective.met else 'MISSED'} {objective.name}: "
            f"{'nothing measured' if objective.found is None else _number(objective.found)}, "
            f"at most {_number(objective.most)}",
            style="green" if objective.met else "bold red",
        )
        for objective in objectives
    ]
    return Group(table, *(Text(line) for line in lines), *verdicts)


def draw(path: Path, report: Mapping[str, Any], heard: LoadResult, samples: Sequence[tuple[float, float]]) -> None:
    """Writes a PNG: live streams over time, first audio, and what went wrong when.

    Args:
        path: of the picture.
        report: the figures.
        heard: what came.
        samples: seconds, and the server's own number of live streams.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "a plot needs matplotlib: install csm-foundry[train] or matplotlib, or leave out --plot"
        ) from None

    figure = Figure(figsize=(9.0, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    load = report["load"]
    figure.suptitle(
        f"{load['pattern']}: {report['streams']['asked']} streams in {report['seconds']:.0f} s", color=_INK, fontsize=11
    )
    above, middle, below = figure.subplots(3, 1)
    _draw_live(above, heard, samples)
    _draw_first_audio(middle, report, heard)
    _draw_trouble(below, heard)
    for axes in (above, below):
        axes.set_xlim(0, max(heard.took_s, 0.1))
        axes.set_xlabel("seconds", color=_MUTED, fontsize=8)
    for axes in (above, middle, below):
        axes.tick_params(colors=_MUTED, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=110, facecolor="white")


def _draw_live(axes: Axes, heard: LoadResult, samples: Sequence[tuple[float, float]]) -> None:
    points = live_over_time(heard)
    axes.step(
        [0.0, *(t for t, _ in points)], [0, *(live for _, live in points)], where="post", color=_BLUE, label="heard"
    )
    if samples:
        axes.plot(*zip(*samples, strict=True), ".", color=_ORANGE, markersize=4, label="by the server's metrics")
        axes.legend(frameon=False, fontsize=8)
    axes.set_ylabel("live streams", color=_MUTED, fontsize=8)
    axes.set_ylim(bottom=0)


def _draw_first_audio(axes: Axes, report: Mapping[str, Any], heard: LoadResult) -> None:
    values = [stream.first_audio_s * 1e3 for stream in heard.streams if stream.first_audio_s is not None]
    axes.hist(values, bins=min(40, max(5, len(values) // 4)), color=_BLUE)
    for share in ("p50", "p95"):
        if share in report["first_audio_ms"]:
            axes.axvline(report["first_audio_ms"][share], color=_MUTED, linestyle="--", linewidth=1)
            axes.annotate(
                f" {share} {report['first_audio_ms'][share]:.0f} ms",
                (report["first_audio_ms"][share], axes.get_ylim()[1]),
                va="top",
                color=_MUTED,
                fontsize=8,
            )
    axes.set_xlabel("first audio, ms", color=_MUTED, fontsize=8)
    axes.set_ylabel("streams", color=_MUTED, fontsize=8)


def _draw_trouble(axes: Axes, heard: LoadResult) -> None:
    kinds = {
        "underruns": (_RED, sorted(late for stream in heard.streams for late in stream.late)),
        "refused": (_ORANGE, sorted(stream.over for stream in heard.streams if stream.refused)),
        "broken": (_INK, sorted(stream.over for stream in heard.streams if stream.code and not stream.refused)),
    }
    for name, (colour, times) in kinds.items():
        steps = [0.0, *times, heard.took_s]
        counts = [*range(len(times) + 1), len(times)]
        axes.step(steps, counts, where="post", color=colour, label=f"{name}: {len(times)}")
    axes.set_ylabel("so far", color=_MUTED, fontsize=8)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def _counts(counts: Mapping[str, int], word: str) -> str:
    total = sum(counts.values())
    named = ", ".join(f"{code} {count}" for code, count in counts.items())
    return f"{total} {word}" + (f" ({named})" if named else "")
