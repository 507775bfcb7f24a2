"""Time until the weights of a 1B checkpoint are in memory, against the time of reading its file.

    OMP_PROC_BIND=true python benchmarks/loading.py [--preset csm-1b] [--rounds 7] [--folder DIR]

A checkpoint of random weights in bfloat16 is written in Sesame's layout and in Hugging Face's. Sides take turns; the
file is in the page cache for all of them. Every weight is read once after loading, so that pages that are mapped and
not yet there count. The median of the ratios to reading is printed.

- read: the file's bytes into memory (`readinto` of one buffer).
- sesame, hf: `csm_model.checkpoints.load_model`.
- transformers: `CsmForConditionalGeneration.from_pretrained` on the second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_PROC_BIND", "true")

import numpy as np
import torch
from oracle.hugging_face import random_model
from safetensors.torch import save_file

from csm_model.checkpoints import convert, load_model
from csm_model.checkpoints.names import entries_of
from csm_model.checkpoints.sizes import to_sesame
from csm_model.config import CONFIGS
from csm_model.files import write_json


def write(folder: Path, preset: str) -> None:
    """The checkpoint in both layouts."""
    config = CONFIGS[preset]()
    state = random_model(config, torch.bfloat16).state_dict()
    write_json(folder / "sesame" / "config.json", to_sesame(config))
    names = {entry.own: entry.name for entry in entries_of("sesame", config)}
    save_file({names[own]: tensor for own, tensor in state.items()}, folder / "sesame" / "model.safetensors")
    convert(folder / "sesame", folder / "hf", to="hf")


def read(path: Path, buffer: np.ndarray) -> None:
    with path.open("rb", buffering=0) as file:
        view, done = memoryview(buffer), 0
        while count := file.readinto(view[done:]):
            done += count


def load(folder: Path) -> None:
    for weight in load_model(folder).parameters():
        weight.detach().view(torch.uint8).flatten()[::4096].sum()  # a byte of every page


def load_transformers(folder: Path) -> None:
    from transformers import CsmForConditionalGeneration

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CsmForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    for weight in model.parameters():
        weight.detach().view(torch.uint8).flatten()[::4096].sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="csm-1b", choices=["csm-30m", "csm-1b", "csm-3b", "csm-8b"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written; a temporary folder without it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write(folder, arguments.preset)
        path = folder / "sesame" / "model.safetensors"
        buffer = np.empty(path.stat().st_size, np.uint8)
        sides: dict[str, Callable[[], None]] = {
            "read": lambda: read(path, buffer),
            "sesame": lambda: load(folder / "sesame"),
            "hf": lambda: load(folder / "hf"),
            "transformers": lambda: load_transformers(folder / "hf"),
        }
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(arguments.rounds + 1):
            for side, run in sides.items():
                began = time.perf_counter()
                run()
                if number:  # the first warms up
                    taken[side].append(time.perf_counter() - began)
        print(f"{arguments.preset}, {path.stat().st_size / 1e9:.2f} GB, {arguments.rounds} rounds, "
              f"OMP_PROC_BIND={os.environ['OMP_PROC_BIND']}")  # fmt: skip
        for side, seconds in taken.items():
            ratio = statistics.median(own / base for base, own in zip(taken["read"], seconds, strict=True))
            print(f"{side:12} median {statistics.median(seconds):6.2f} s   {ratio:.2f} times the time of reading")


if __name__ == "__main__":
    main()
