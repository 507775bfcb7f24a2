"""What a server of streams counts, in one place: names, kinds, meanings.

Triton publishes them on its own metrics port, beside `nv_*`. Triton's own counters release a decoupled request when the
model takes it, so they say nothing about live streams; these do.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One metric; `labels` maps the label's name to every value it may take."""

    name: str
    kind: Kind
    help: str
    label: str = ""
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_STEPS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.32, 0.64)
_WAITS = (0.005, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 2.0, 5.0, 10.0)

LIVE_STREAMS = MetricSpec(name="csm_live_streams", kind="gauge", help="Streams in slots now")
STREAM_SLOTS = MetricSpec(name="csm_stream_slots", kind="gauge", help="Streams that may be live at once")
QUEUED_STREAMS = MetricSpec(name="csm_queued_streams", kind="gauge", help="Streams that wait for a slot now")
UNREAD_STREAMS = MetricSpec(
    name="csm_unread_streams",
    kind="gauge",
    help="Queued streams whose voice or context is being encoded now, or waits for it",
)
QUEUE_WAIT = MetricSpec(
    name="csm_queue_wait_seconds",
    kind="histogram",
    help="Seconds from a stream's arrival until it got a slot",
    buckets=_WAITS,
)
FIRST_AUDIO = MetricSpec(
    name="csm_first_audio_seconds",
    kind="histogram",
    help="Seconds from a stream's arrival to its first frame",
    buckets=_WAITS,
)
STEP_SECONDS = MetricSpec(
    name="csm_step_seconds",
    kind="histogram",
    help="Seconds of a step, in which every stream of it gets a frame",
    buckets=_STEPS,
)
STEP_STREAMS = MetricSpec(
    name="csm_step_streams",
    kind="histogram",
    help="Streams that were stepped together",
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64),
)
FRAMES = MetricSpec(name="csm_frames_total", kind="counter", help="Frames of 80 ms sent")
UNDERRUNS = MetricSpec(
    name="csm_underruns_total",
    kind="counter",
    help="Frames sent after a player that began with the first needed them",
)
STREAMS = MetricSpec(
    name="csm_streams_total",
    kind="counter",
    help="Streams that are over, by how they ended",
    label="outcome",
    values=("ended", "cut", "silence", "repeat", "cancelled", "expired", "failed"),
)
REFUSALS = MetricSpec(
    name="csm_refusals_total",
    kind="counter",
    help="Requests refused before a stream began, by reason",
    label="reason",
    values=("busy", "budget", "wait", "invalid_input", "stopping", "audit", "denied", "quota"),
)
LEFT_OUT = MetricSpec(
    name="csm_left_out_characters_total",
    kind="counter",
    help="Characters of texts that could not be said: of another script, emoji, signs without a name",
)
STREAM_SECONDS = MetricSpec(
    name="csm_stream_seconds_total", kind="counter", help="Seconds that streams were live, once they are over"
)
AUDIO_SECONDS = MetricSpec(name="csm_audio_seconds_total", kind="counter", help="Seconds of sound in finished streams")
REAL_TIME_FACTOR = MetricSpec(
    name="csm_real_time_factor", kind="gauge", help="Seconds the last finished stream took for a second of sound"
)
WATERMARK_FAILURES = MetricSpec(
    name="csm_watermark_failures_total", kind="counter", help="Steps whose sound could not be marked; it was not sent"
)
ENGINE_FAILURES = MetricSpec(
    name="csm_engine_failures_total",
    kind="counter",
    help="Steps and prompts that the model itself broke on, whoever asked",
)
PREFIX_HITS = MetricSpec(
    name="csm_prefix_hits_total", kind="counter", help="Voice prompts that were copied instead of read"
)
PREFIX_MISSES = MetricSpec(name="csm_prefix_misses_total", kind="counter", help="Voice prompts that had to be read")
ALL: Final = (
    LIVE_STREAMS,
    STREAM_SLOTS,
    QUEUED_STREAMS,
    UNREAD_STREAMS,
    QUEUE_WAIT,
    FIRST_AUDIO,
    STEP_SECONDS,
    STEP_STREAMS,
    FRAMES,
    UNDERRUNS,
    STREAMS,
    REFUSALS,
    LEFT_OUT,
    STREAM_SECONDS,
    AUDIO_SECONDS,
    REAL_TIME_FACTOR,
    WATERMARK_FAILURES,
    ENGINE_FAILURES,
    PREFIX_HITS,
    PREFIX_MISSES,
)


class Metrics(Protocol):
    """Where measurements go."""

    def set(self, spec: MetricSpec, value: float) -> None:
        """Sets a gauge."""
        ...

    def add(self, spec: MetricSpec, value: float = 1.0, label: str = "") -> None:
        """Adds to a counter."""
        ...

    def observe(self, spec: MetricSpec, value: float) -> None:
        """Puts a value into a histogram."""
        ...


class MemoryMetrics:
    """Metrics kept in this process, for an engine outside Triton."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.observed: dict[str, list[float]] = {}

    def set(self, spec: MetricSpec, value: float) -> None:
        """Sets a gauge."""
        self.values[spec.name] = value

    def add(self, spec: MetricSpec, value: float = 1.0, label: str = "") -> None:
        """Adds to a counter; with a label its key is `name{label}`."""
        key = f"{spec.name}{{{label}}}" if label else spec.name
        self.values[key] = self.values.get(key, 0.0) + value

    def observe(self, spec: MetricSpec, value: float) -> None:
        """Keeps the value."""
        self.observed.setdefault(spec.name, []).append(value)


class TritonMetrics:
    """Metrics on Triton's endpoint, through `triton_python_backend_utils` (given, because only the stub can import it).

    Every metric has the label `version`: while a version is swapped for another, both are there. Without it the two
    would share their values, and the end of the old one would take the new one's away (Triton 2.51, seen).
    Servers whose Python backend has no histograms get the pair of counters `_sum` and `_count` instead.
    One thread at a time: a metric writes each value into the same shared memory and lets other threads run while the
    server reads it, which kills the server where another thread writes meanwhile (Triton 2.51, seen).
    """

    def __init__(self, pb_utils: Any, *, version: str) -> None:
        self._turn = threading.Lock()
        families = pb_utils.MetricFamily
        self._families: list[Any] = []  # a family must outlive its metrics
        self._metrics: dict[tuple[str, str], Any] = {}
        self._histograms = hasattr(families, "HISTOGRAM")
        for spec in ALL:
            if spec.kind == "histogram" and not self._histograms:
                for part in ("_sum", "_count"):
                    family = families(name=spec.name + part, description=spec.help, kind=families.COUNTER)
                    self._families.append(family)
                    self._metrics[spec.name + part, ""] = family.Metric(labels={"version": version})
                continue
            family = families(name=spec.name, description=spec.help, kind=getattr(families, spec.kind.upper()))
            self._families.append(family)
            for value in spec.values or ("",):
                labels = {"version": version} | ({spec.label: value} if value else {})
                more = {"buckets": list(spec.buckets)} if spec.buckets else {}
                self._metrics[spec.name, value] = family.Metric(labels=labels, **more)

    def close(self) -> None:
        """Takes this version's metrics off the endpoint."""
        with self._turn:
            self._metrics.clear()
            self._families.clear()

    def set(self, spec: MetricSpec, value: float) -> None:
        """Sets a gauge."""
        with self._turn:
            if metric := self._metrics.get((spec.name, "")):
                metric.set(value)

    def add(self, spec: MetricSpec, value: float = 1.0, label: str = "") -> None:
        """Adds to a counter."""
        with self._turn:
            if metric := self._metrics.get((spec.name, label)):
                metric.increment(value)

    def observe(self, spec: MetricSpec, value: float) -> None:
        """Puts a value into a histogram, or into its sum and count."""
        with self._turn:
            if metric := self._metrics.get((spec.name, "")):
                metric.observe(value)
            elif not self._histograms and self._metrics:
                self._metrics[spec.name + "_sum", ""].increment(value)
                self._metrics[spec.name + "_count", ""].increment(1)
