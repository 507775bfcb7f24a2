"""Hours of streams at six of eight slots, as fast as they come: whether memory and times stay what they were."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csm_serving.launcher.triton import LocalTriton

from .listeners import Taken, closed_loop, requests_of
from .server import memory_mb
from .streams import SPEAKERS
from .table import Row, percentile, told

CLIENTS = 6
QUARTERS = 4
_SAMPLE_S = 2.0


@dataclass(kw_only=True)
class Quarter:
    """A part of the soak."""

    streams: list[Taken]
    memory_mb: list[float]
    took_s: float

    @property
    def sound_s(self) -> float:
        """Of sound, all streams together."""
        return sum(stream.seconds for stream in self.streams)

    @property
    def first_ms(self) -> float:
        """Median of first audio."""
        return percentile([stream.first_ms for stream in self.streams if stream.arrived], 0.5)

    @property
    def pace(self) -> float:
        """Seconds of sound a second."""
        return self.sound_s / self.took_s


async def _quarter(triton: LocalTriton, sound_s: float, seed: int) -> Quarter:
    """Streams of so many seconds of sound together."""
    memory: list[float] = []
    streams: list[Taken] = []
    began = time.perf_counter()

    async def sample() -> None:
        while True:
            await asyncio.sleep(_SAMPLE_S)
            memory.append(memory_mb(triton))

    sampling = asyncio.create_task(sample())
    await closed_loop(
        triton.url,
        requests_of(SPEAKERS),
        clients=CLIENTS,
        enough=lambda: sum(stream.seconds for stream in streams) >= sound_s,
        stagger_s=0.1,
        seed=seed,
        into=streams,
    )
    sampling.cancel()
    return Quarter(streams=streams, memory_mb=[*memory, memory_mb(triton)], took_s=time.perf_counter() - began)


def measure(triton: LocalTriton, *, hours: float) -> list[Row]:
    """`hours` of listening at six slots: so many times six of sound, in quarters, after a warm-up of a tenth of one."""
    quarter_s = hours * 3600 * CLIENTS / QUARTERS
    asyncio.run(_quarter(triton, quarter_s / 10, 10**6))
    quarters = [asyncio.run(_quarter(triton, quarter_s, 10**7 * (n + 1))) for n in range(QUARTERS)]
    return rows_of(quarters)


def rows_of(quarters: Sequence[Quarter]) -> list[Row]:
    """The table's lines."""
    memory = [float(np.median(quarter.memory_mb)) for quarter in quarters]
    firsts = [quarter.first_ms for quarter in quarters]
    paces = [quarter.pace for quarter in quarters]
    streams = [stream for quarter in quarters for stream in quarter.streams]
    broken = [stream for stream in streams if stream.end is None]
    points = [point for quarter in quarters for point in quarter.memory_mb]
    sound = sum(quarter.sound_s for quarter in quarters) / 3600
    # Hours of sound at each sample, to say the slope in what a server would see in that time.
    hours = np.linspace(0, sound / CLIENTS, len(points))
    slope = float(np.polyfit(hours, points, 1)[0]) if len(points) > 1 else 0.0

    def listed(values: Sequence[float], digits: int = 0) -> str:
        return ", ".join(f"{value:.{digits}f}" for value in values)

    return [
        told(
            "soak: streams, sound, time",
            f"{len(streams)}, {sound:.2f} h ({sound / CLIENTS:.2f} h in each of {CLIENTS} slots), "
            f"{sum(quarter.took_s for quarter in quarters) / 60:.1f} min",
        ),
        Row(what="soak: streams refused or broken", reach="0", found=f"{len(broken)}", met=not broken),
        Row(
            what="soak: memory by quarters, MB (PSS of Triton and stub)",
            reach="within 5 % of the first",
            found=f"{listed(memory)}; slope {slope:+.1f} an hour of listening at {CLIENTS} slots",
            met=max(memory) <= 1.05 * memory[0],
        ),
        Row(
            what="soak: first audio by quarters, ms, median",
            reach="within 20 % of the first",
            found=listed(firsts),
            met=max(firsts) <= 1.2 * firsts[0],
        ),
        Row(
            what="soak: seconds of sound a second, by quarters",
            reach="within 20 % of the first",
            found=listed(paces, 1),
            met=min(paces) >= paces[0] / 1.2,
        ),
        told("soak: late chunks, no start buffer", f"{sum(len(stream.late) for stream in streams)}"),
    ]
