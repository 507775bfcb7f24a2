"""Load over time: made, or from a file.

A file is CSV with a head of three names: `seconds`, then `arrivals_per_second` (streams that are asked for, at random)
or `concurrent_streams` (callers that ask for stream after stream), then `mean_stream_seconds`. A row holds until the
next; the last row ends the trace.
"""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from csm_model.errors import InputError
from csm_model.files import write_bytes

Kind = Literal["arrivals_per_second", "concurrent_streams"]
Shape = Literal["step", "ramp", "day", "burst"]
SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Rows of (seconds, load, mean stream length in seconds), the first at 0; the last one only ends it.

    Raises:
        InputError: no rows, times that do not rise, a negative number.
    """

    kind: Kind
    rows: tuple[tuple[float, float, float], ...]
    name: str = "trace"

    def __post_init__(self) -> None:
        if len(self.rows) < 2:
            raise InputError(f"{self.name}: a trace needs two rows at least, the last of which ends it")
        if self.rows[0][0] != 0:
            raise InputError(f"{self.name}: its first row is at {self.rows[0][0]:g} s; must be at 0")
        for before, row in zip(self.rows, self.rows[1:], strict=False):
            if not before[0] < row[0] < math.inf:
                raise InputError(f"{self.name}: a row at {row[0]:g} s after one at {before[0]:g}; times must rise")
        for when, load, length in self.rows:
            if not (0 <= load < math.inf and 0 < length < math.inf):
                raise InputError(
                    f"{self.name}: at {when:g} s a load of {load:g} with streams of {length:g} s; "
                    "loads must be 0 or more, lengths above 0"
                )
            if self.kind == "concurrent_streams" and load != int(load):
                raise InputError(f"{self.name}: {load:g} concurrent streams at {when:g} s; must be a whole number")

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.rows[-1][0]

    def offered(self, when: float) -> float:
        """Streams that would be live if none were refused, in the mean."""
        row = self.rows[max(0, bisect_right(self.rows, when, key=lambda row: row[0]) - 1)]
        return row[1] if self.kind == "concurrent_streams" else row[1] * row[2]

    def write(self, path: Path) -> None:
        """Writes it as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["seconds", self.kind, "mean_stream_seconds"])
        writer.writerows([f"{value:.10g}" for value in row] for row in self.rows)
        write_bytes(path, text.getvalue().encode())


def read_trace(path: Path) -> Trace:
    """A trace from a file.

    Raises:
        InputError: no such file, or another form.
    """
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a CSV file, or one of {', '.join(SHAPES)}") from None
    head = [cell.strip() for cell in lines[0]] if lines else []
    kind = next((kind for kind in get_args(Kind) if head == ["seconds", kind, "mean_stream_seconds"]), None)
    if kind is None:
        raise InputError(
            f"{path}: its first line is {','.join(head)!r}; must be seconds,arrivals_per_second,mean_stream_seconds "
            "or seconds,concurrent_streams,mean_stream_seconds"
        )
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if not cells:
            continue
        try:
            when, load, length = (float(cell) for cell in cells)
        except ValueError:
            raise InputError(f"{path}: line {number} is {','.join(cells)!r}; must be three numbers") from None
        rows.append((when, load, length))
    return Trace(kind=kind, rows=tuple(rows), name=path.stem)


def made(shape: str, *, peak: float, length_s: float) -> Trace:
    """A trace of a known shape that comes up to `peak` concurrent streams in the mean, of `length_s` each.

    `step`: a fifth of the peak for 10 minutes, the peak for 20, and a fifth again for 30. `ramp`: from a fifth to the
    peak in half an hour, 10 minutes there, and down again. `day`: a cosine over 24 hours, a tenth of the peak at its
    start. `burst`: a fifth, with four minutes at the peak every 20 minutes, three times.

    Raises:
        InputError: no such shape.
    """
    if not (peak > 0 and length_s > 0):
        raise InputError(f"a peak of {peak:g} streams of {length_s:g} s: both must be above 0")
    points: list[tuple[float, float]] = []
    if shape == "step":
        points = [(0, 0.2), (600, 1.0), (1800, 0.2), (3600, 0.2)]
    elif shape == "ramp":
        up = [(60.0 * n, 0.2 + 0.8 * n / 30) for n in range(30)]
        points = [*up, (1800, 1.0), *((2400.0 + when, 1.2 - share) for when, share in up), (4200, 0.2), (4800, 0.2)]
    elif shape == "day":
        points = [
            (300.0 * n, 0.1 + 0.45 * (1 - math.cos(2 * math.pi * (300.0 * n + 150) / _DAY_S))) for n in range(288)
        ]
        points.append((_DAY_S, 0.1))
    elif shape == "burst":
        points = [(0, 0.2)]
        for n in range(3):
            points += [(600 + 1200 * n, 1.0), (840 + 1200 * n, 0.2)]
        points.append((4200, 0.2))
    else:
        raise InputError(f"trace {shape!r}: must be a CSV file, or one of {', '.join(SHAPES)}")
    rows = tuple((float(when), share * peak / length_s, length_s) for when, share in points)
    return Trace(kind="arrivals_per_second", rows=rows, name=shape)
