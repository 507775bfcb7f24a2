"""Measures in the sound of a context corpus what was planted in it.

    python deploy/demo/measure_context.py data/context-corpus

Printed are, for pace, loudness and pitch range, how what is measured in a turn goes with what was planted there (correlation
and slope, both on the planted scale), and with what is measured in the turn that decides it: the right one, and
those of other conversations. A word that stands out is measured by its pitch and loudness over the rest of its turn.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rich.progress import track

from csm_model.codec.pitch import HOP, track_pitch
from csm_model.errors import InputError

FIGURES = ("pace", "level", "pitch_range")
_LEVEL = 0.1  # root mean square at which pitch is looked for


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a turn sounds like: logarithms, so that factors become differences."""

    pace: float
    """Logarithm of characters a second."""
    level: float
    """Root mean square, dB under full scale."""
    pitch_range: float
    """Logarithm of the standard deviation of the pitch, in semitones."""
    emphasis_semitones: float | None
    """Mean pitch of the word that stands out over that of the others."""
    emphasis_db: float | None
    """Its loudness over that of the others."""


def _power_db(audio: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-12))


def measure(audio: np.ndarray, text: str, rate: int, span: tuple[float, float] | None = None) -> Measured:
    """A turn's figures; `audio` is mono [samples], `span` the seconds of the word that stands out."""
    level = _power_db(audio)
    usable = torch.from_numpy(audio[: len(audio) // HOP * HOP] * np.float32(_LEVEL / 10 ** (level / 20)))[None]
    pitch, voiced = (each[0].numpy() for each in track_pitch(usable))
    semitones = 12 * np.log2(pitch)
    middle = np.median(semitones[voiced])
    voiced = voiced & (np.abs(semitones - middle) < 12)  # octaves that the tracker takes for another
    by_pitch = by_level = None
    if span is not None:
        steps = np.arange(len(semitones))
        inside = (steps >= span[0] * rate / HOP) & (steps < span[1] * rate / HOP)
        by_pitch = float(semitones[voiced & inside].mean() - semitones[voiced & ~inside].mean())
        begin, end = (int(second * rate) for second in span)
        by_level = _power_db(audio[begin:end]) - _power_db(np.concatenate([audio[:begin], audio[end:]]))
    return Measured(
        pace=math.log(len(text) / (len(audio) / rate)),
        level=level,
        pitch_range=math.log(float(semitones[voiced].std())),
        emphasis_semitones=by_pitch,
        emphasis_db=by_level,
    )


def _turns(corpus: Path) -> Iterator[tuple[str, int, dict[str, Any], Measured]]:
    """Conversation, number, what was planted and what is measured, turn after turn."""
    lines = (corpus / "supervisions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    if not rows or "planted" not in rows[0]["custom"]:
        raise InputError(f"{corpus}: nothing is planted in it; give a corpus that make_corpora.py context has made")
    name, sound, rate = "", np.zeros(0, np.float32), 0
    for row in track(rows, description="turns"):
        if row["recording_id"] != name:
            name = row["recording_id"]
            sound, rate = soundfile.read(corpus / "audio" / f"{name}.opus", dtype="float32")
        begin = round(row["start"] * rate)
        audio = sound[begin : begin + round(row["duration"] * rate)]
        planted = row["custom"]["planted"]
        measured = measure(audio, row["text"], rate, planted.get("emphasis_s"))
        yield name, int(row["id"].rsplit("-", 1)[1]), planted, measured


def _planted(planted: dict[str, Any], figure: str) -> float:
    return float(planted["level"]) if figure == "level" else math.log(planted[figure])


def _correlation(x: list[float], y: list[float]) -> float:
    return round(float(np.corrcoef(x, y)[0, 1]), 3)


def figures(turns: list[tuple[str, int, dict[str, Any], Measured]]) -> dict[str, Any]:
    """Every figure of a corpus."""
    by_place = {(name, number): measured for name, number, _, measured in turns}
    found: dict[str, Any] = {"turns": len(turns)}
    for figure in FIGURES:
        x = [_planted(planted, figure) for _, _, planted, _ in turns]
        y = [getattr(measured, figure) for _, _, _, measured in turns]
        row = {"correlation": _correlation(x, y), "slope": round(float(np.polyfit(x, y, 1)[0]), 3)}
        for kind in ("follows", "mood"):
            pairs = [
                (getattr(by_place[name, planted["follows"]], figure), getattr(measured, figure))
                for name, _, planted, measured in turns
                if planted["kind"] == kind and planted["follows"] is not None
            ]
            if len(pairs) > 6:
                before, own = (list(each) for each in zip(*pairs, strict=True))
                row[f"{kind}: with the turn it follows"] = _correlation(before, own)
                others = [_correlation(before[n:] + before[:n], own) for n in range(3, len(own) - 2)]
                row[f"{kind}: with other conversations'"] = round(float(np.mean(others)), 3)
        found[figure] = row
    marked = [measured for _, _, _, measured in turns if measured.emphasis_semitones is not None]
    if marked:
        found["emphasis"] = {
            "turns": len(marked),
            "semitones": round(float(np.mean([each.emphasis_semitones for each in marked])), 2),
            "decibels": round(float(np.mean([each.emphasis_db for each in marked])), 2),
            "words above the rest": sum((each.emphasis_semitones or 0) > 0 for each in marked),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    print(json.dumps(figures(list(_turns(parser.parse_args().corpus))), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
