"""The autoscaler's number on a real Triton under load, and the simulator beside it.

    python benchmarks/autoscaling.py [--seconds 120] [--out FOLDER] [--parts signal,drain] [--exit-timeout SECONDS]

One server with the demo's model, scraped by a real Prometheus every second, hears a load that rises and falls; the
queries that the chart renders are asked all the while. Three things are told, each with its target:

- **signal**: the chart's demand against the server's own gauges, read beside Prometheus, and against the streams that
  the load generator has open.
- **replay**: what was asked of the server, recorded from Prometheus as `csm scale-record` does, replayed by the
  simulator against one pod: streams that were live, over time.
- **drain**: a scale-in as Kubernetes does it, with the rendered Deployment's times (`served.scale_in`): every frame of
  streams that end in time, and of those that go on elsewhere. The chart's own take 7 minutes; `--exit-timeout` renders
  it with another, for streams as long as that.

The picture shows the first two.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import yaml
from served import scale_in
from served.listeners import STORY
from served.prometheus import scraping
from served.server import served
from served.table import Row, print_table, told

from csm_scaling.manifest import Scaled, read_manifest
from csm_scaling.record import record
from csm_scaling.simulate import Conditions, simulate
from csm_scaling.timeline import Timeline
from csm_scaling.trace import Trace
from csm_serving.client.load import LoadPlan, LoadResult, offer
from csm_serving.client.load_report import scrape
from csm_serving.launcher.triton import LocalTriton
from csm_serving.wire.protocol import SpeechRequest

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

SLOTS = 8
LABELS = {"namespace": "speech", "release": "csm", "track": "stable", "pod": "csm-serving-0"}
SELECTOR = 'namespace="speech",release="csm"'
SHAPE = (2, 6, 12, 4)
"""Callers in each quarter; above 8, some wait."""
FRAMES = (40, 60, 80)
"""Lengths of streams: 3.2, 4.8 and 6.4 s of sound."""


@dataclass(kw_only=True)
class Watched:
    """What was seen, seconds since the load began."""

    heard: list[tuple[float, LoadResult]] = field(default_factory=list)
    """Each quarter's streams, and when it began."""
    asked: list[tuple[float, float, float]] = field(default_factory=list)
    """When, and what the two queries gave."""
    gauges: list[tuple[float, float]] = field(default_factory=list)
    """When, and live and queued streams by the server itself."""
    trace: Trace

    def open_at(self, when: float) -> int:
        """Streams that the load generator had open: live and waiting ones."""
        return sum(
            began + stream.asked <= when < began + stream.over
            for began, heard in self.heard
            for stream in heard.streams
        )

    def live_at(self, when: float) -> int:
        """Streams that sounded."""
        return sum(
            began + stream.arrived[0] <= when < began + stream.over
            for began, heard in self.heard
            for stream in heard.streams
            if stream.arrived
        )


def chart(exit_timeout_s: int | None) -> Scaled:
    """The autoscaler of the chart with its defaults, but for the exit timeout where one is given."""
    from chart_rendering import ci_file, render

    given = {} if exit_timeout_s is None else {"serving.exitTimeoutSeconds": exit_timeout_s}
    given |= {} if exit_timeout_s is None else {"serving.longestStreamSeconds": exit_timeout_s}
    objects = render("csm-serving", ci_file("csm-serving", "default"), set=given, release="csm", namespace="speech")
    return read_manifest(yaml.safe_dump_all(objects), start_s=60)


def watch(triton: LocalTriton, scaled: Scaled, folder: Path, seconds: float) -> Watched:
    """Puts load on the server and asks Prometheus the chart's queries once a second."""
    requests = [
        SpeechRequest(text=STORY, speaker=speaker, max_frames=frames, max_wait_s=30.0)
        for speaker in (0, 2, 5)
        for frames in FRAMES
    ]
    heard: list[tuple[float, LoadResult]] = []
    asked: list[tuple[float, float, float]] = []
    gauges: list[tuple[float, float]] = []
    with scraping(folder, {triton.metrics_url: LABELS}) as prometheus:
        began, quarter = time.perf_counter(), seconds / len(SHAPE)

        def offer_all() -> None:
            for turn, callers in enumerate(SHAPE):
                load = LoadPlan(pattern="closed", streams=callers, duration_s=quarter, seed=1000 * turn)
                at = time.perf_counter() - began
                heard.append((at, asyncio.run(offer(load, requests, triton.url))))

        def read_gauges() -> None:
            while thread.is_alive():
                page = scrape(triton.metrics_url)
                gauges.append((time.perf_counter() - began, page["csm_live_streams"] + page["csm_queued_streams"]))
                time.sleep(0.1)

        start = time.time()
        thread = threading.Thread(target=offer_all)
        thread.start()
        reading = threading.Thread(target=read_gauges)
        reading.start()
        while thread.is_alive():
            numbers = [prometheus.ask(query) for query in scaled.queries]
            asked.append((time.perf_counter() - began, *(float(number) for number in numbers)))  # type: ignore[arg-type]
            thread.join(1.0)
        reading.join()
        time.sleep(2.0)
        trace = record(prometheus, SELECTOR, start=start, end=time.time(), step=5.0)
    return Watched(heard=heard, asked=asked, gauges=gauges, trace=trace)


def signal_rows(watched: Watched) -> list[Row]:
    """The chart's demand against what the server said in the two seconds before, and what was open then."""
    same = []
    for when, demand, _ in watched.asked[3:]:
        said = {100 * streams / SLOTS for at, streams in watched.gauges if when - 2.0 <= at <= when}
        same.append(demand in said)
    apart = [abs(demand - 100 * watched.open_at(when - 0.5) / SLOTS) for when, demand, _ in watched.asked[3:]]
    return [
        Row(
            what="the chart's demand is what the server's gauges said in the 2 s before",
            reach="95% of times",
            found=f"{mean(same):.1%} of {len(same)}",
            met=mean(same) >= 0.95,
        ),
        told(
            "the chart's demand against the streams that the load generator had open, mean difference",
            f"{mean(apart):.1f} points of {mean(row[1] for row in watched.asked):.0f}",
        ),
        told(
            "the demand, lowest and highest, per cent of a pod",
            f"{min(row[1] for row in watched.asked):.0f}, {max(row[1] for row in watched.asked):.0f}",
        ),
        told("the first audio's 95th percentile, highest, ms", f"{max(row[2] for row in watched.asked):.0f}"),
    ]


def one_pod(scaled: Scaled) -> Scaled:
    """The same server, never scaled."""
    assert scaled.keda is not None
    return replace(
        scaled,
        hpa=replace(scaled.hpa, min_replicas=1, max_replicas=1),
        keda=replace(scaled.keda, min_replicas=1, max_replicas=1),
    )


def replay_rows(watched: Watched, replayed: Timeline) -> list[Row]:
    """Streams that were live against those of the simulator.

    The replay's arrivals are Poisson's, the server's were callers': of N streams of L seconds in T the mean number of
    live ones has a standard deviation of sqrt(N) L / T there, and that is what it may be off by, three times.
    """
    seconds = watched.trace.seconds
    real = mean(watched.live_at(0.25 * n) for n in range(int(4 * seconds)))
    simulated = mean(sample.live for sample in replayed.samples)
    lengths = [
        stream.over - stream.arrived[0] for _, heard in watched.heard for stream in heard.streams if stream.arrived
    ]
    bound = 3 * len(lengths) ** 0.5 * mean(lengths) / seconds
    return [
        Row(
            what="replay: mean number of live streams of the simulator against the server's",
            reach=f"within {bound:.2f} (3 standard deviations of its arrivals)",
            found=f"{simulated:.2f} against {real:.2f}",
            met=abs(simulated - real) <= bound,
        ),
        told("streams asked, on the server and in the replay", f"{count(watched)}, {replayed.asked}"),
    ]


def count(watched: Watched) -> int:
    return sum(len(heard.streams) for _, heard in watched.heard)


def draw(path: Path, watched: Watched, replayed: Timeline) -> None:
    """The picture: the signal, and the replay."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    signal, live = figure.subplots(2, 1, sharex=True)
    seconds = [0.5 * n for n in range(int(2 * watched.trace.seconds))]
    signal.step(
        seconds,
        [100 * watched.open_at(when) / SLOTS for when in seconds],
        where="post",
        color="#7b8794",
        label="open streams over slots, by the load generator",
    )
    signal.plot(
        [row[0] for row in watched.asked],
        [row[1] for row in watched.asked],
        ".",
        color="#1971c2",
        label="the chart's query, by Prometheus",
    )
    signal.axhline(70, color="#2b8a3e", linewidth=1, linestyle="--", label="target of one pod")
    signal.set_ylabel("demand, %")
    live.step(
        seconds, [watched.live_at(when) for when in seconds], where="post", color="#7b8794", label="live on the server"
    )
    live.step(
        [sample.seconds for sample in replayed.samples],
        [sample.live for sample in replayed.samples],
        where="post",
        color="#e8590c",
        label="live in the replay of the recorded trace",
    )
    live.set_ylabel("streams")
    live.set_xlabel("seconds")
    for axes in (signal, live):
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=80, facecolor="white")


def run_signal(asked: argparse.Namespace, scaled: Scaled) -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="csm-autoscaling-") as folder,
        served(slots=SLOTS, frame_budget=0.0) as triton,
    ):
        watched = watch(triton, scaled, Path(folder), asked.seconds)
    replayed = simulate(one_pod(scaled), watched.trace, Conditions(wait_s=30.0, scrape_s=1.0))
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        watched.trace.write(asked.out / "recorded.csv")
        draw(asked.out / "autoscaling-live.png", watched, replayed)
    return signal_rows(watched) + replay_rows(watched, replayed)


def run_drain(asked: argparse.Namespace, scaled: Scaled) -> list[Row]:
    return scale_in.rows_of(scale_in.run(scaled.server, SLOTS))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of load")
    parser.add_argument("--out", type=Path, help="folder for the picture and the recorded trace")
    parser.add_argument("--parts", default="signal,drain", help="signal (with the replay) and drain")
    parser.add_argument("--exit-timeout", type=int, help="value serving.exitTimeoutSeconds of the chart")
    asked = parser.parse_args(arguments)
    scaled = chart(asked.exit_timeout)
    parts = {"signal": run_signal, "drain": run_drain}
    missed = 0
    for name in asked.parts.split(","):
        began, load = time.perf_counter(), os.getloadavg()[0]
        rows = parts[name](asked, scaled)
        print_table(f"{name}, {time.perf_counter() - began:.0f} s; load of the machine before: {load:.1f}", rows)
        missed += sum(not row.met for row in rows)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
