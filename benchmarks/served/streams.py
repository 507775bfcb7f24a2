"""Eight live streams on the demo's model, and how long the first audio takes beside one alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median

from csm_serving.launcher.triton import LocalTriton

from .listeners import Taken, closed_loop, requests_of
from .table import Row, percentile, told

SPEAKERS = (0, 2, 5)
FEW, MANY = 1, 8


def measure(triton: LocalTriton, *, rounds: int, seconds: float) -> list[Row]:
    """Phases of one client and of eight in turn; a ratio is that of two neighbouring phases."""
    by: dict[int, list[list[Taken]]] = {FEW: [], MANY: []}
    for number in range(rounds):
        for clients in (FEW, MANY):
            heard = asyncio.run(
                closed_loop(
                    triton.url, requests_of(SPEAKERS), clients=clients, seconds=seconds, seed=1_000 * number + clients
                )
            )
            by[clients].append(heard)
    rows: list[Row] = []
    for clients, phases in by.items():
        rows += _rows(clients, phases)
    middle = _ratios(by, 0.5)
    rows.append(
        Row(
            what=f"first audio at {MANY} streams against {FEW}, median",
            reach="1.5 at most",
            found=f"{median(middle):.2f} ({', '.join(f'{ratio:.2f}' for ratio in middle)})",
            met=median(middle) <= 1.5,
        )
    )
    rows.append(told("the same, 95th percentile", f"{median(_ratios(by, 0.95)):.2f}"))
    return rows


def _ratios(by: dict[int, list[list[Taken]]], share: float) -> list[float]:
    """First audio at many against few, round by round."""
    return [
        percentile(_firsts(many), share) / percentile(_firsts(few), share)
        for few, many in zip(by[FEW], by[MANY], strict=True)
    ]


def _firsts(streams: Sequence[Taken]) -> list[float]:
    return [stream.first_ms for stream in streams if stream.arrived]


def _rows(clients: int, phases: Sequence[Sequence[Taken]]) -> list[Row]:
    streams = [stream for phase in phases for stream in phase]
    late = [stream for stream in streams if stream.late]
    broken = [stream for stream in streams if stream.end is None]
    firsts = _firsts(streams)
    sound = sum(stream.seconds for stream in streams)
    took = sum(max(s.over for s in phase) - min(s.asked for s in phase) for phase in phases)
    gone = f"; the first: {broken[0].failure}" if broken else ""
    return [
        told(f"{clients} live: streams", f"{len(streams)}, {sound:.0f} s of sound, {sound / took:.1f} s a second"),
        told(
            f"{clients} live: first audio, ms, median, 95th, most",
            f"{percentile(firsts, 0.5):.0f}, {percentile(firsts, 0.95):.0f}, {max(firsts):.0f}",
        ),
        Row(
            what=f"{clients} live: chunks later than their playing time, no start buffer",
            reach="0",
            found=f"{sum(len(stream.late) for stream in late)} of {sum(len(s.arrived) for s in streams)} in "
            f"{len(late)} streams, {sum(stream.stalled_s for stream in late):.2f} s in all",
            met=not late,
        ),
        Row(
            what=f"{clients} live: streams refused or broken",
            reach="0",
            found=f"{len(broken)}{gone}",
            met=not broken,
        ),
    ]
