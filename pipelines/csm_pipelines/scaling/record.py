"""Load that was really there, read back from a Prometheus, as a trace to be replayed."""

from __future__ import annotations

import http.client
import json
import math
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from csm_model.errors import InputError
from csm_pipelines.scaling.keda import Answer, Missing
from csm_pipelines.scaling.trace import Trace
from csm_serving.errors import UnavailableError

_TIMEOUT_S: Final = 30.0
_ASKED: Final = (
    "sum(rate(csm_queue_wait_seconds_count{{{selector}}}[{window}s]))"
    ' + (sum(rate(csm_refusals_total{{{selector},reason=~"busy|budget|wait"}}[{window}s])) or vector(0))'
)
"""Streams that got a slot, and those that found none: `csm_queue_wait_seconds` counts only the former."""
_LENGTH: Final = (
    "sum(increase(csm_stream_seconds_total{{{selector}}}[{window}s]))"
    " / sum(increase(csm_streams_total{{{selector}}}[{window}s]))"
)


class Prometheus:
    """The HTTP API of a Prometheus at `http://host:port`.

    Raises:
        InputError: another form of address.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"Prometheus at {address!r}: must be http://host:port")
        self._address, self._parts = address, parts

    def get(self, path: str, **parameters: str | float) -> Any:
        """What the API answers under `/api/v1/`.

        Raises:
            UnavailableError: nothing answers.
            InputError: it answers with an error, such as a query that is none.
        """
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.netloc, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", f"{self._parts.path.rstrip('/')}/api/v1/{path}?{urlencode(parameters)}")
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnavailableError(f"no Prometheus at {self._address} ({error}); check its address") from None
        finally:
            connection.close()
        if answer.get("status") != "success":
            raise InputError(f"Prometheus at {self._address}: {answer.get('error', answer)}")
        return answer["data"]

    def ask(self, query: str, at: float | None = None) -> Answer:
        """A query's number now, or `at` so many seconds since 1970, as KEDA takes it: one series, or none.

        Raises:
            InputError: more than one.
        """
        found = self.get("query", query=query, **({} if at is None else {"time": at}))["result"]
        if len(found) > 1:
            raise InputError(f"query {query!r} gives {len(found)} series; must give one")
        return float(found[0]["value"][1]) if found else Missing.EMPTY

    def over_time(self, query: str, *, start: float, end: float, step: float) -> dict[int, float]:
        """A query's numbers from `start` to `end`, in seconds since 1970, by turn; a turn without one is left out."""
        found = self.get("query_range", query=query, start=start, end=end, step=step)["result"]
        values = found[0]["values"] if found else []
        return {round((float(when) - start) / step): float(value) for when, value in values}


def record(
    prometheus: Prometheus, selector: str, *, start: float, end: float, step: float, name: str = "recorded"
) -> Trace:
    """What was asked of the servers that `selector` selects.

    Args:
        prometheus: where it is kept.
        selector: labels as in PromQL, such as `namespace="speech",release="csm"`.
        start: seconds since 1970.
        end: the same.
        step: seconds of a row; four scrapes at least, or a rate has too little to go by.
        name: of the trace.

    Raises:
        InputError: no stream was asked for in that time.
        UnavailableError: nothing answers.
    """
    if not 0 < step <= end - start:
        raise InputError(f"rows of {step:g} s in {end - start:g} s: a row must be above 0, and one must fit in")
    window = {"selector": selector, "window": math.ceil(step)}
    # A row that begins at t is the rate that is known at its end.
    asked = prometheus.over_time(_ASKED.format(**window), start=start + step, end=end, step=step)
    lengths = prometheus.over_time(_LENGTH.format(**window), start=start + step, end=end, step=step)
    whole = prometheus.ask(_LENGTH.format(selector=selector, window=math.ceil(end - start)), at=end)
    if not asked or isinstance(whole, Missing) or not math.isfinite(whole):
        raise InputError(f"{{{selector}}}: no stream ended in these {end - start:g} s; choose another time or selector")
    turns = int((end - start) // step)
    rows = []
    for turn in range(turns):
        length = lengths.get(turn, math.nan)
        rows.append((turn * step, asked.get(turn, 0.0), length if math.isfinite(length) and length > 0 else whole))
    return Trace(kind="arrivals_per_second", rows=(*rows, (turns * step, 0.0, whole)), name=name)
