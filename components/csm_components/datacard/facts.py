"""What a data set holds, counted from what ingest wrote: its cuts, and what it left out."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from csm_components.artefacts import have
from csm_components.ingest.catalogue import CUTS, REJECTED
from csm_components.ingest.conversations import read_manifest
from csm_model.errors import ArtifactError, DigestError
from csm_model.files import digest_of_file

NOT_NAMED = "not named"
EDGES: dict[str, tuple[float, ...]] = {
    "turn length, s": (0, 0.5, 1, 2, 3, 5, 8, 12, 20, 30),
    "gap before a turn, s": (0, 0.1, 0.2, 0.5, 1, 2, 5, 10),
    "overlap with the turn before, s": (0, 0.1, 0.2, 0.5, 1, 2, 5),
    "speech over noise, dB": (-60, 0, 6, 12, 18, 24, 30, 40, 50, 60),
    "bandwidth, Hz": (0, 2_000, 3_500, 4_500, 5_500, 7_000, 8_500, 11_000, 24_000),
    "speakers of a conversation": (1, 2, 3, 4, 5, 6, 8, 16),
}
"""Edges of the histograms' bins; what lies beyond the last is in the last."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much of something there is."""

    turns: int
    seconds: float

    @property
    def hours(self) -> float:
        """Hours of speech."""
        return self.seconds / 3600


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many values lie in each bin, whose edges are one more than the counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many values there are."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """All numbers of a card."""

    digest: str
    conversations: int
    kept: Amount
    left_out: Amount
    tables: Mapping[str, Mapping[str, Amount]]
    """By title and row: what is kept, and under `reason` what is left out."""
    histograms: Mapping[str, Histogram]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "digest": self.digest,
            "conversations": self.conversations,
            "kept": vars(self.kept),
            "left_out": vars(self.left_out),
            "tables": {
                title: {name: vars(amount) for name, amount in rows.items()} for title, rows in self.tables.items()
            },
            "histograms": {title: vars(found) for title, found in self.histograms.items()},
        }


def read_cuts(folder: Path) -> Iterator[dict[str, Any]]:
    """The conversations that ingest wrote, as they lie there.

    Raises:
        DigestError: the list is not the one that the manifest names.
    """
    manifest, path = read_manifest(folder), have(folder, CUTS)
    if not path.exists() or digest_of_file(path) != manifest["cuts_sha256"]:
        raise DigestError(f"{path}: is not the list that the manifest names; run ingest again")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_rejected(folder: Path) -> Iterator[dict[str, Any]]:
    """What ingest left out, and why."""
    path = have(folder, REJECTED)
    if not path.exists():
        raise ArtifactError(f"{path}: no such file; run ingest again")
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_facts(folder: Path) -> DataFacts:
    """Counts what a folder of conversations holds, in one pass.

    Raises:
        ArtifactError: it is no folder that ingest wrote.
        DigestError: it is damaged.
    """
    manifest = read_manifest(folder)
    kept: dict[str, dict[str, list[float]]] = {title: defaultdict(list) for title in _KEPT}
    values: dict[str, list[float]] = {title: [] for title in EDGES}
    conversations = 0
    for cut in read_cuts(folder):
        conversations += 1
        turns = cut["supervisions"]
        values["speakers of a conversation"].append(len({turn["speaker"] for turn in turns}))
        for turn in turns:
            for title, names in _KEPT.items():
                for name in names(manifest, cut, turn):
                    kept[title][name].append(turn["duration"])
            figures = turn["custom"].get("figures", {})
            values["turn length, s"].append(turn["duration"])
            values["speech over noise, dB"] += [figures["snr_db"]] if "snr_db" in figures else []
            values["bandwidth, Hz"] += [figures["bandwidth_hz"]] if "bandwidth_hz" in figures else []
        for gap in _gaps(turns):
            values["gap before a turn, s" if gap >= 0 else "overlap with the turn before, s"].append(abs(gap))
    reasons: dict[str, list[float]] = defaultdict(list)
    for row in read_rejected(folder):
        reasons[row["reason"]].append(row["seconds"])
    tables = {title: _amounts(rows) for title, rows in kept.items()} | {"reason": _amounts(reasons)}
    return DataFacts(
        digest=manifest["digest"],
        conversations=conversations,
        kept=_amount(values["turn length, s"]),
        left_out=_amount(seconds for rows in reasons.values() for seconds in rows),
        tables=tables,
        histograms={title: histogram(found, EDGES[title]) for title, found in values.items()},
    )


_KEPT = {
    "corpus": lambda manifest, cut, turn: [manifest["layout"]],
    "split": lambda manifest, cut, turn: [cut["custom"]["split"]],
    "language": lambda manifest, cut, turn: [turn.get("language") or NOT_NAMED],
    "licence": lambda manifest, cut, turn: [turn["custom"]["license"]],
    "tag": lambda manifest, cut, turn: turn["custom"].get("tags", ()),
}
"""By title of a table, the rows that a turn counts in."""


def _gaps(turns: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """Seconds from the end of a turn to the start of the next, less than 0 where they overlap."""
    rows = sorted(turns, key=lambda turn: float(turn["start"]))
    for turn, following in pairwise(rows):
        yield round(following["start"] - turn["start"] - turn["duration"], 6)


def _amount(seconds: Iterable[float]) -> Amount:
    values = list(seconds)
    return Amount(turns=len(values), seconds=round(sum(values), 3))


def _amounts(rows: Mapping[str, Sequence[float]]) -> dict[str, Amount]:
    """The largest first."""
    found = {name: _amount(seconds) for name, seconds in rows.items()}
    return dict(sorted(found.items(), key=lambda row: (-row[1].seconds, row[0])))


def histogram(values: Sequence[float], edges: Sequence[float]) -> Histogram:
    """How many values lie in each bin; one that lies beyond an end is in the bin there."""
    inside = np.clip(np.asarray(values, np.float64), edges[0], np.nextafter(edges[-1], edges[0]))
    counts = np.histogram(inside, edges)[0] if len(values) else np.zeros(len(edges) - 1, int)
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, counts)))
