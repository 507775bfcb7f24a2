"""What became of a trace: a sample at each scrape, and the figures of the whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from csm_model.files import write_bytes
from csm_model.frames import FRAME_RATE
from csm_scaling.manifest import Scaled
from csm_scaling.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The fleet at one moment."""

    seconds: float
    offered: float
    """Streams that would be live if none were refused, in the mean."""
    live: int
    queued: int
    capacity: int
    """Slots of pods that are ready."""
    wanted: int | None
    """Replicas that the metrics ask for; None: they gave no number."""
    asked_for: int
    """Replicas in the Deployment's spec."""
    ready: int
    starting: int
    draining: int

    @property
    def pods(self) -> int:
        """All that are paid for."""
        return self.ready + self.starting + self.draining


@dataclass
class Timeline:
    """Samples, and what was counted between them."""

    trace: Trace
    scaled: Scaled
    every_s: float
    """Seconds between two samples."""
    samples: list[Sample] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    """Streams refused before each sample, since the one before."""
    first_audio: list[list[float]] = field(default_factory=list)
    """Seconds, of those that began before each sample."""
    waits: list[float] = field(default_factory=list)
    """Seconds for a slot, of each stream that got one."""
    changes: list[tuple[float, int, int]] = field(default_factory=list)
    """When the number of replicas changed, from what, to what."""
    start: int = 0
    """Replicas at the beginning."""
    asked: int = 0
    moved: int = 0
    """Streams that went on elsewhere because their pod ended."""
    resent: int = 0
    """Streams that waited on a pod that ended, and asked elsewhere."""
    lost_s: float = 0.0
    """Seconds of sound that nobody sent."""
    _refused: int = 0
    _began: list[float] = field(default_factory=list)

    def begin(self, waited_s: float, first_audio_s: float) -> None:
        """A stream got its slot."""
        self.waits.append(waited_s)
        self._began.append(first_audio_s)

    def refuse(self) -> None:
        """A stream found no slot."""
        self._refused += 1

    def lose(self, seconds: float) -> None:
        """The rest of a stream will not be sent."""
        self.lost_s += seconds

    def sample(self, sample: Sample) -> None:
        """Closes an interval."""
        self.samples.append(sample)
        self.refusals.append(self._refused)
        self.first_audio.append(self._began)
        self._refused, self._began = 0, []

    def replicas_at(self, seconds: float) -> int:
        """Replicas that were asked for at a time, changes of that moment among them."""
        return next((to for when, _, to in reversed(self.changes) if when <= seconds), self.start)

    def figures(self, pod_cost: float | None = None) -> dict[str, Any]:
        """The whole in numbers, ready for JSON: seconds, hours, shares and counts as their names say."""
        refused = sum(self.refusals) + self._refused
        hours = sum(sample.pods for sample in self.samples[:-1]) * self.every_s / 3600
        most = self.scaled.hpa.max_replicas
        audio = [value for values in (*self.first_audio, self._began) for value in values]
        return {
            "trace": self.trace.name,
            "seconds": self.trace.seconds,
            "streams_asked": self.asked,
            "streams_refused": refused,
            "refused_share": refused / self.asked if self.asked else 0.0,
            "wait_p95_s": percentile(self.waits, 0.95),
            "first_audio_p95_s": percentile(audio, 0.95),
            "replicas_least": min(sample.asked_for for sample in self.samples),
            "replicas_most": max(sample.asked_for for sample in self.samples),
            "scale_ups": sum(to > before for _, before, to in self.changes),
            "scale_downs": sum(to < before for _, before, to in self.changes),
            "longest_at_max_s": self._longest(most),
            "replica_hours": hours,
            "cost": None if pod_cost is None else hours * pod_cost,
            "slots_used_share": self._used(),
            "streams_moved": self.moved,
            "streams_resent": self.resent,
            "frames_lost": round(self.lost_s * FRAME_RATE),
        }

    def _longest(self, most: int) -> float:
        longest = since = 0.0
        for sample in self.samples:
            since = since + self.every_s if sample.asked_for >= most else 0.0
            longest = max(longest, since)
        return longest

    def _used(self) -> float:
        capacity = sum(sample.capacity for sample in self.samples)
        return sum(sample.live for sample in self.samples) / capacity if capacity else 0.0

    def write(self, path: Path) -> None:
        """Writes the samples as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*(field.name for field in fields(Sample)), "refused", "first_audio_p95_s"])
        for sample, refused, audio in zip(self.samples, self.refusals, self.first_audio, strict=True):
            writer.writerow([*astuple(sample), refused, percentile(audio, 0.95)])
        write_bytes(path, text.getvalue().encode())


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of all lie, the next higher one that is there; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
