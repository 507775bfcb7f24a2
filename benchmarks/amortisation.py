"""What training the depth decoder on a share of the frames costs and saves, on the demo: time, memory, word errors.

    python benchmarks/amortisation.py [--shares 1 0.25 0.0625 0.03125] [--runs runs/amortisation] [--seeds 1]

Each share is a whole run of the preset `demo` (fine-tuning of the base in the repository, judged on the 96 held-out
sentences streamed from Triton), one after another and in turn where there are several seeds. Minutes are those of
training alone; memory is the largest peak of a training process. A run that is there already is taken as it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

JUDGE = ("judge.mos=false", "judge.parent_per_voice=1", "judge.base_per_voice=1")  # what is not asked here


def run(share: float, seed: int, runs: Path) -> dict[str, Any]:
    """One run; its figures."""
    folder = runs / f"share-{share:.5f}-seed-{seed}"
    settings = [*JUDGE, f"train.recipe.depth_share={share}", f"train.recipe.seed={seed}"]
    command = [str(Path(sys.executable).with_name("csm")), "run", "--preset", "demo", "--runs", str(folder)]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True)
    latest = folder / "latest"
    rows = [json.loads(line) for line in (latest / "train" / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((latest / "summary.json").read_text())
    return {"rows": rows, "summary": summary, "train": json.loads((latest / "train" / "result.json").read_text())}


def last(rows: list[dict[str, Any]], key: str) -> float:
    return next(row[key] for row in reversed(rows) if key in row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.25, 1 / 16, 1 / 32])
    parser.add_argument("--runs", type=Path, default=Path("runs/amortisation"))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    found: dict[float, list[dict[str, Any]]] = {share: [] for share in arguments.shares}
    for seed in range(arguments.seeds):
        for share in arguments.shares:
            found[share].append(run(share, seed, arguments.runs))
    print("share     seed  minutes  s a step  peak GB  held-out codebook 0  others   word errors")
    for share, results in found.items():
        for seed, result in enumerate(results):
            rows, summary = result["rows"], result["summary"]
            step = statistics.median(row["step_seconds"] for row in rows if "step_seconds" in row)
            low, high = summary["wer_interval"]
            print(
                f"{share:8.5f}  {seed:4}  {result['train']['minutes']:7.2f}  {step:8.2f}  "
                f"{last(rows, 'memory_bytes') / 1e9:7.2f}  {last(rows, 'validation_first'):19.3f}  "
                f"{last(rows, 'validation_depth'):6.3f}   {summary['wer_generated']:.1%} ({low:.1%} to {high:.1%})"
            )


if __name__ == "__main__":
    main()
