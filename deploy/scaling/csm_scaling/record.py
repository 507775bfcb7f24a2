"""Load that was really there, read back from a Prometheus, as a trace to be replayed."""

from __future__ import annotations

import http.client
import json
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from csm_model.errors import InputError
from csm_scaling.keda import Answer, Missing
from csm_scaling.trace import Trace
from csm_serving.wire.errors import UnavailableError

_TIMEOUT_S: Final = 30.0
_ASKED: Final = (
    "csm_queue_wait_seconds_count{{{selector}}}",
    'csm_refusals_total{{{selector},reason=~"busy|budget|wait"}}',
)
"""Streams that got a slot, and those that found none: `csm_queue_wait_seconds` counts only the former."""
_SECONDS: Final = "csm_stream_seconds_total{{{selector}}}"
_ENDED: Final = "csm_streams_total{{{selector}}}"


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

    def ask(self, query: str) -> Answer:
        """A query's number now, as KEDA takes it: one series, or none.

        Raises:
            InputError: more than one.
        """
        found = self.get("query", query=query)["result"]
        if len(found) > 1:
            raise InputError(f"query {query!r} gives {len(found)} series; must give one")
        return float(found[0]["value"][1]) if found else Missing.EMPTY

    def rises(self, counter: str, *, start: float, turns: int, step: float) -> list[float]:
        """What the series of a counter rose by, together, in each of `turns` steps from `start`, seconds since 1970.

        Every rise counts, unlike in a `rate`, whose first sample in a window is only a beginning. A series that is new
        has risen from 0, and so has one that is lower than before: its server started again.
        """
        totals = [0.0] * turns
        for series in self.get("query_range", query=counter, start=start, end=start + turns * step, step=step)[
            "result"
        ]:
            values = {round((float(when) - start) / step): float(value) for when, value in series["values"]}
            for turn in range(turns):
                if turn + 1 in values:
                    before = values.get(turn, 0.0)
                    totals[turn] += values[turn + 1] - (before if before <= values[turn + 1] else 0.0)
        return totals


def record(
    prometheus: Prometheus, selector: str, *, start: float, end: float, step: float, name: str = "recorded"
) -> Trace:
    """What was asked of the servers that `selector` selects.

    Args:
        prometheus: where it is kept.
        selector: labels as in PromQL, such as `namespace="speech",release="csm"`.
        start: seconds since 1970.
        end: the same.
        step: seconds of a row; not less than Prometheus takes between two scrapes.
        name: of the trace.

    Raises:
        InputError: no stream was asked for in that time.
        UnavailableError: nothing answers.
    """
    if not 0 < step <= end - start:
        raise InputError(f"rows of {step:g} s in {end - start:g} s: a row must be above 0, and one must fit in")
    turns = int((end - start) // step)

    def rises(counter: str) -> list[float]:
        return prometheus.rises(counter.format(selector=selector), start=start, turns=turns, step=step)

    asked = [sum(column) for column in zip(*(rises(counter) for counter in _ASKED), strict=True)]
    seconds, ended = rises(_SECONDS), rises(_ENDED)
    if not sum(ended):
        raise InputError(f"{{{selector}}}: no stream ended in these {end - start:g} s; choose another time or selector")
    mean = sum(seconds) / sum(ended)
    rows = [
        (turn * step, asked[turn] / step, seconds[turn] / ended[turn] if seconds[turn] and ended[turn] else mean)
        for turn in range(turns)
    ]
    return Trace(kind="arrivals_per_second", rows=(*rows, (turns * step, 0.0, mean)), name=name)
