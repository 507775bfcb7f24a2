"""What the autoscaler's queries give for a fleet: the same numbers as Prometheus gives for its servers' gauges.

The two queries of the chart csm-serving are known by their text. Another query is refused: a guess at what it means
would make every figure of a simulation a guess.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from csm_model.errors import InputError
from csm_scaling.keda import Answer, Missing
from csm_scaling.pods import Pod
from csm_serving.server.metrics import FIRST_AUDIO

Signal = Literal["demand", "first audio"]
"""`demand`: live and queued streams in per cent of a pod's slots. `first audio`: its 95th percentile, milliseconds."""
WINDOW_S: Final = 120.0
"""Of the rate behind the first audio's percentile."""
QUERIES: Final[dict[str, Signal]] = {
    "100*sum(csm_live_streams+csm_queued_streams)/max(csm_stream_slots)": "demand",
    "1000*histogram_quantile(0.95,sumby(le)(rate(csm_first_audio_seconds_bucket[2m])))>=0or0*max(csm_stream_slots)": (
        "first audio"
    ),
}
"""Of charts/csm-serving/templates/_autoscaling.tpl, without selectors and blanks."""
NAMES: Final[dict[str, Signal]] = {"csm_demand_percent": "demand", "csm_first_audio_p95_milliseconds": "first audio"}
"""Metrics that prometheus-adapter's rules make of the same queries (deploy/monitoring)."""


def bare(query: str) -> str:
    """A query without its selectors and blanks."""
    return re.sub(r"\s+", "", re.sub(r"\{[^}]*\}", "", query))


def signal_of(query: str) -> Signal:
    """Which number a query asks for.

    Raises:
        InputError: it is none of those that are known.
    """
    if (found := QUERIES.get(bare(query))) is not None:
        return found
    raise InputError(
        f"{' '.join(query.split())!r}: must be one of the chart csm-serving: {' or '.join(QUERIES)}, with selectors"
    )


def signal_of_name(name: str) -> Signal:
    """Which number a metric of the adapter is, by its name.

    Raises:
        InputError: it is none of the two that the project's adapter rules make.
    """
    if name in NAMES:
        return NAMES[name]
    raise InputError(f"metric {name!r}: the simulator knows {', '.join(NAMES)} (deploy/monitoring)")


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float:
    """PromQL's `histogram_quantile`: linear within a bucket.

    Args:
        share: 0 to 1.
        bounds: upper bounds of all buckets but the last, which has none.
        counts: of each bucket, not added up.
    """
    total = sum(counts)
    if total == 0:
        return math.nan
    rank, below = share * total, 0.0
    for n, count in enumerate(counts):
        if below + count >= rank and count:
            if n == len(bounds):
                return bounds[-1]
            start = bounds[n - 1] if n else 0.0
            return start + (bounds[n] - start) * (rank - below) / count
        below += count
    return bounds[-1]


@dataclass
class Scrapes:
    """Prometheus: what it last read of the pods. Times are seconds."""

    _demand: Answer = Missing.EMPTY
    _loads: dict[int, int] = field(default_factory=dict)
    _fresh: list[int] = field(default_factory=lambda: [0] * (len(FIRST_AUDIO.buckets) + 1))
    _counts: deque[tuple[float, list[int]]] = field(default_factory=deque)

    def heard(self, first_audio_s: float) -> None:
        """A stream's first frame has come."""
        self._fresh[bisect_left(FIRST_AUDIO.buckets, first_audio_s)] += 1

    def scrape(self, now: float, pods: Iterable[Pod]) -> None:
        """Reads the pods' metrics."""
        pods = list(pods)
        self._loads = {pod.number: int(100_000 * pod.load / pod.server.slots) for pod in pods if pod.state == "ready"}
        slots = max((pod.server.slots for pod in pods), default=0)
        self._demand = 100 * sum(pod.load for pod in pods) / slots if slots else Missing.EMPTY
        self._counts.append((now, self._fresh))
        self._fresh = [0] * len(self._fresh)
        while self._counts[0][0] < now - WINDOW_S:
            self._counts.popleft()

    @property
    def per_pod(self) -> dict[int, int]:
        """The demand of each ready pod by itself, in thousandths."""
        return self._loads

    def answer(self, signal: Signal) -> Answer:
        """What a query gives now."""
        if signal == "demand" or isinstance(self._demand, Missing):
            return self._demand
        rises = [row for _, row in self._counts][1:]  # a rate knows nothing of what was before its first sample
        value = 1000 * quantile(0.95, FIRST_AUDIO.buckets, [sum(column) for column in zip(*rises, strict=True)])
        return 0.0 if math.isnan(value) else value
