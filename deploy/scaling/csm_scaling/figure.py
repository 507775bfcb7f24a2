"""What `csm scale-sim` shows: a table on the terminal, a picture in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import RenderableType
from rich.table import Table

from csm_model.errors import MissingDependencyError
from csm_model.files import atomic_path
from csm_scaling.timeline import Timeline, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _BLUE, _RED, _ORANGE, _GREEN = "#1f2933", "#7b8794", "#1971c2", "#c92a2a", "#e8590c", "#2b8a3e"
_MINUTE_S: Final = 60.0
_LONG_S: Final = 3 * 3600.0
"""A trace longer than this has an axis of hours."""


def table_of(figures: Mapping[str, Any]) -> RenderableType:
    """The figures of a simulation, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f} s"

    rows = [
        ("streams asked for", f"{figures['streams_asked']:,}"),
        ("refused", f"{figures['streams_refused']:,} ({figures['refused_share']:.2%})"),
        ("wait for a slot, p95", seconds(figures["wait_p95_s"])),
        ("first audio, p95 (estimate)", seconds(figures["first_audio_p95_s"])),
        ("replicas, least to most", f"{figures['replicas_least']} to {figures['replicas_most']}"),
        ("changes up, down", f"{figures['scale_ups']}, {figures['scale_downs']}"),
        ("longest time at the maximum", f"{figures['longest_at_max_s']:.0f} s"),
        ("slots in use, mean", f"{figures['slots_used_share']:.0%}"),
        ("replica-hours", f"{figures['replica_hours']:.2f}"),
        *([] if figures["cost"] is None else [("cost", f"{figures['cost']:.2f}")]),
        ("streams moved while a pod ended", f"{figures['streams_moved']}"),
        ("frames lost while a pod ended", f"{figures['frames_lost']}"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def draw(path: Path, timeline: Timeline, pod_cost: float | None = None) -> None:
    """Writes a PNG: streams and capacity, replicas, refusals and first audio, and what it cost.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "a picture needs matplotlib: install csm-foundry[train] or matplotlib, or leave out --out"
        ) from None

    figure = Figure(figsize=(9.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    long = timeline.trace.seconds > _LONG_S
    unit = 3600.0 if long else _MINUTE_S
    when = [sample.seconds / unit for sample in timeline.samples]
    figure.suptitle(f"{timeline.trace.name}: {timeline.asked:,} streams", color=_INK, fontsize=11)
    streams, replicas, refused, audio, cost = figure.subplots(5, 1, sharex=True, height_ratios=[3, 3, 1.2, 1.2, 1.2])
    _draw_streams(streams, when, timeline)
    _draw_replicas(replicas, when, timeline)
    some = [(at, count) for at, count in zip(when, timeline.refusals, strict=True) if count]
    refused.vlines([at for at, _ in some], 0, [count for _, count in some], color=_RED, linewidth=1.5)
    refused.set_ylabel("refused", color=_MUTED, fontsize=8)
    refused.set_ylim(0, max(1, *timeline.refusals))
    points = [
        (at, value)
        for at, values in zip(when, timeline.first_audio, strict=True)
        if (value := percentile(values, 0.95)) is not None
    ]
    audio.plot(*zip(*points, strict=True) if points else ([], []), color=_BLUE, linewidth=1)
    audio.set_ylabel("first audio,\np95, s", color=_MUTED, fontsize=8)
    audio.set_ylim(bottom=0)
    _draw_cost(cost, when, timeline, pod_cost)
    cost.set_xlabel("hours" if long else "minutes", color=_MUTED, fontsize=8)
    cost.set_xlim(0, timeline.trace.seconds / unit)
    for axes in (streams, replicas, refused, audio, cost):
        axes.tick_params(colors=_MUTED, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=80, facecolor="white")


def _draw_streams(axes: Axes, when: list[float], timeline: Timeline) -> None:
    samples = timeline.samples
    axes.step(when, [sample.capacity for sample in samples], where="post", color=_GREEN, label="slots that are ready")
    offered = [sample.offered for sample in samples]
    axes.step(when, offered, where="post", color=_MUTED, linewidth=1, label="offered, mean")
    axes.plot(when, [sample.live for sample in samples], color=_BLUE, linewidth=1, label="live")
    axes.plot(when, [sample.queued for sample in samples], color=_ORANGE, linewidth=1, label="waiting")
    axes.set_ylabel("streams", color=_MUTED, fontsize=8)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_replicas(axes: Axes, when: list[float], timeline: Timeline) -> None:
    samples = timeline.samples
    axes.stackplot(
        when,
        [sample.ready for sample in samples],
        [sample.starting for sample in samples],
        [sample.draining for sample in samples],
        colors=["#b2f2bb", "#ffec99", "#ffc9c9"],
        labels=["ready", "starting", "draining"],
        step="post",
    )
    axes.step(when, [sample.asked_for for sample in samples], where="post", color=_INK, linewidth=1, label="asked for")
    wanted = [(at, sample.wanted) for at, sample in zip(when, samples, strict=True) if sample.wanted is not None]
    axes.plot(
        *zip(*wanted, strict=True) if wanted else ([], []), ".", color=_BLUE, markersize=2, label="by the metrics"
    )
    axes.set_ylabel("replicas", color=_MUTED, fontsize=8)
    axes.set_ylim(0, 1.1 * max(sample.pods for sample in samples) + 1)
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=5)


def _draw_cost(axes: Axes, when: list[float], timeline: Timeline, pod_cost: float | None) -> None:
    spent, total = [], 0.0
    for sample in timeline.samples:
        spent.append(total)
        total += sample.pods * timeline.every_s / 3600 * (1.0 if pod_cost is None else pod_cost)
    axes.plot(when, spent, color=_INK, linewidth=1)
    axes.set_ylabel("replica-hours" if pod_cost is None else "cost", color=_MUTED, fontsize=8)
    axes.set_ylim(bottom=0)
