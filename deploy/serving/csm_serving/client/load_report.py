"""What a load came to in figures, and whether that is what was wanted."""

from __future__ import annotations

import http.client
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from csm_model.errors import InputError
from csm_serving.client.load import LoadPlan, LoadResult
from csm_serving.wire.errors import UnavailableError

PERCENTILES: Final = (50, 90, 95, 99)
_VERSION: Final = re.compile(r',?version="[^"]*"')


def spread(values: Iterable[float]) -> dict[str, float]:
    """Percentiles and the largest of `values`; empty where there are none."""
    numbers = np.array(list(values), np.float64)
    if not numbers.size:
        return {}
    named = {f"p{share}": float(np.percentile(numbers, share)) for share in PERCENTILES}
    return named | {"max": float(numbers.max())}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A bound, and what came of it."""

    name: str
    most: float
    found: float | None
    """None where nothing was there to measure, which meets no bound."""

    @property
    def met(self) -> bool:
        """Whether what was found is within the bound."""
        return self.found is not None and self.found <= self.most


def report_of(load: LoadPlan, heard: LoadResult, *, metrics: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The figures of a load, ready for JSON: seconds, milliseconds and counts as their names say.

    Args:
        load: what was offered.
        heard: what came.
        metrics: what the server's own counters rose by.
    """
    streams = heard.streams
    spoken = [stream for stream in streams if stream.arrived]
    refused = [stream for stream in streams if stream.refused]
    errors = [stream for stream in streams if stream.code and not stream.refused]
    sound = sum(stream.seconds for stream in spoken)
    return {
        "load": asdict(load),
        "seconds": heard.took_s,
        "streams": {
            "asked": len(streams),
            "not_asked": heard.not_asked,
            "complete": sum(not stream.code for stream in streams),
            "refused": dict(Counter(stream.code for stream in refused)),
            "errors": dict(Counter(stream.code for stream in errors)),
            "first_error": next((stream.error for stream in errors + refused), None),
        },
        "first_audio_ms": spread(s.first_audio_s * 1e3 for s in spoken if s.first_audio_s is not None),
        "chunk_gap_ms": spread(gap * 1e3 for stream in spoken for gap in np.diff(stream.arrived)),
        "real_time_factor": spread((s.over - s.asked) / s.seconds for s in spoken if not s.code),
        "refusal_ms": {
            code: spread((s.over - s.asked) * 1e3 for s in refused if s.code == code)
            for code in sorted({s.code for s in refused})
        },
        "underruns": {
            "chunks": sum(len(stream.late) for stream in spoken),
            "streams": sum(bool(stream.late) for stream in spoken),
            "stalled_ms": spread(stream.stalled_s * 1e3 for stream in spoken if stream.late),
        },
        "sound": {"seconds": sound, "per_second": sound / heard.took_s if heard.took_s else 0.0},
        "most_live": max((live for _, live in live_over_time(heard)), default=0),
        "client": {
            "processor_share": heard.client_cpu_s / heard.took_s if heard.took_s else 0.0,
            "late_ms": spread(lag * 1e3 for lag in heard.lags),
        },
        "server": dict(metrics or {}),
    }


def live_over_time(heard: LoadResult) -> list[tuple[float, int]]:
    """Streams that had begun to sound and were not over, at each time that their number changed."""
    changes = sorted(
        change for stream in heard.streams if stream.arrived for change in ((stream.arrived[0], 1), (stream.over, -1))
    )
    points, live = [], 0
    for when, change in changes:
        live += change
        points.append((when, live))
    return points


def objectives_of(
    report: Mapping[str, Any],
    *,
    max_first_audio_ms: float | None = None,
    max_underruns: int | None = None,
    max_refused: int | None = None,
    max_refusal_ms: float | None = None,
    max_errors: int | None = None,
    max_real_time_factor: float | None = None,
) -> list[Objective]:
    """The bounds that are given, with what was found: percentiles are the 95th, a refusal's delay the longest."""
    streams = report["streams"]
    found = {
        "first audio, p95, ms": (max_first_audio_ms, report["first_audio_ms"].get("p95")),
        "underruns": (max_underruns, report["underruns"]["chunks"] if report["first_audio_ms"] else None),
        "streams refused": (max_refused, sum(streams["refused"].values())),
        "refusal, longest, ms": (
            max_refusal_ms,
            max((values["max"] for values in report["refusal_ms"].values()), default=0.0),
        ),
        "streams that broke": (max_errors, sum(streams["errors"].values())),
        "real-time factor, p95": (max_real_time_factor, report["real_time_factor"].get("p95")),
    }
    return [Objective(name=name, most=most, found=value) for name, (most, value) in found.items() if most is not None]


def scrape(url: str) -> dict[str, float]:
    """The server's own `csm_*` metrics at `url` (`http://host:port/metrics`), its versions' added up.

    Raises:
        InputError: another form of address.
        UnavailableError: nothing answers there.
    """
    address = urlsplit(url)
    if address.scheme != "http" or not address.netloc:
        raise InputError(f"metrics at {url!r}: must be http://host:port/metrics")
    connection = http.client.HTTPConnection(address.netloc, timeout=5)
    try:
        connection.request("GET", address.path or "/metrics")
        rows = connection.getresponse().read().decode(errors="replace").splitlines()
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"no metrics at {url} ({error}); give the address that csm serve prints") from None
    finally:
        connection.close()
    return read_metrics(rows)


def read_metrics(rows: Iterable[str]) -> dict[str, float]:
    """The `csm_*` metrics in Prometheus's text, without the label of the model's version and added up over it."""
    found: dict[str, float] = {}
    for row in rows:
        if row.startswith("csm_"):
            name, _, value = row.rpartition(" ")
            name = _VERSION.sub("", name).replace("{,", "{").replace("{}", "")
            found[name] = found.get(name, 0.0) + float(value)
    return found


def risen(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What counters rose by, and what gauges are now; buckets of histograms are left out."""
    counts = ("_total", "_count", "_sum")
    return {
        name: value - before.get(name, 0.0) if name.partition("{")[0].endswith(counts) else value
        for name, value in after.items()
        if "_bucket" not in name
    }
