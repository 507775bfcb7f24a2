"""Ingest of one long recording: memory and CPU time, at one length and at twice that.

.venv/bin/python benchmarks/long_recording.py --hours 8 --rate 48000

The recording is a two-channel call of made-up speech, a turn every 2.2 s, as FLAC. Each length is ingested by a process
of its own; the closing line says how much longer the second took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

TURN_SECONDS = 2.2
_WORK = """
import json, resource, sys
from pathlib import Path
from rich.console import Console
from csm_components.ingest.step import ingest
result = ingest(Path(sys.argv[1]), Path(sys.argv[2]), workers=1, console=Console(quiet=True))
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"turns": result.turns, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024}))
"""


def write_call(folder: Path, seconds: float, rate: int) -> None:
    """A call in `folder`: `call.flac` and `call.jsonl`."""
    folder.mkdir()
    turn, rng = round(TURN_SECONDS * rate), np.random.default_rng(0)
    axis = np.arange(turn) / rate
    speech = np.sin(2 * np.pi * 180 * axis) * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * axis)) * (axis < TURN_SECONDS - 0.3)
    count, noise = round(seconds / TURN_SECONDS), rng.normal(0, 0.0003, (turn, 2))
    with (
        soundfile.SoundFile(folder / "call.flac", "w", rate, 2, "PCM_16", format="FLAC") as file,
        (folder / "call.jsonl").open("w") as lines,
    ):
        for number in range(count):
            sound = noise.copy()
            sound[:, number % 2] += 0.2 * speech
            file.write(sound.astype(np.float32))
            row = {
                "audio": "call.flac", "text": f"This is turn {number} of the long call.", "speaker": str(number % 2),
                "channel": number % 2, "start": round(number * TURN_SECONDS, 3), "duration": 1.9, "license": "CC0-1.0",
            }  # fmt: skip
            lines.write(json.dumps(row) + "\n")


def measure(seconds: float, rate: int, scratch: Path) -> dict[str, float]:
    """Ingests a call in a process of its own; returns turns, CPU seconds and peak memory in bytes."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_call(Path(folder) / "corpus", seconds, rate)
        command = [sys.executable, "-c", _WORK, f"{folder}/corpus", f"{folder}/out"]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    hours = seconds / 3600
    print(
        f"{hours:6.2f} h at {rate} Hz, {found['turns']:.0f} turns: {found['cpu']:.1f} s of CPU "
        f"({seconds / found['cpu']:.0f} s of sound a second), peak {found['peak'] / 2**30:.2f} GiB",
        flush=True,
    )
    return found


def main() -> None:
    """Measures both lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=8.0, help="length of the longer recording (default 8)")
    parser.add_argument("--rate", type=int, default=48_000, help="samples in a second (default 48000)")
    parser.add_argument("--scratch", type=Path, default=None, help="where recordings are made (default: the system's)")
    options = parser.parse_args()
    half, whole = (measure(3600 * hours, options.rate, options.scratch) for hours in (options.hours / 2, options.hours))
    print(f"twice the length takes {whole['cpu'] / half['cpu']:.2f} times as long")


if __name__ == "__main__":
    main()
