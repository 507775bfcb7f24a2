"""Time a frame of generation takes in each precision, codec included, against torch with float32 weights.

    python benchmarks/precision.py [--bundle deploy/demo/base] [--codec deploy/demo/codec] [--frames 200]

All sides live in one process, speak the same text with the same seed, and take turns, one frame each, so that whatever
else the machine does meets them alike. The median of the ratios to `torch` is printed. Run with OMP_PROC_BIND=true.

- torch: the float model by torch's own products.
- fp32, bf16, int8, int4: packed, by the kernels (`csm_model.kernels`).
- dynamic: torch's dynamic quantisation, activations to int8 on the way (qint8, x86 kernels).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_PROC_BIND", "true")

import torch
from torch import Tensor

from csm_model.bundle import Bundle, Weights, load_bundle
from csm_model.inference.generator import Generator
from csm_model.inference.sampling import Sampling

TEXT = "What time does the library open on Thursday morning, and how far is it from the station?"


def dynamic(bundle: Bundle) -> Bundle:
    """The bundle with torch's dynamic int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(bundle.model), {torch.nn.Linear}, torch.qint8)
    return replace(bundle, model=model)


def endless(bundle: Bundle) -> Iterator[Tensor]:
    """Sound without end: utterance after utterance."""
    for seed in itertools.count():
        for frame in Generator(bundle).stream(TEXT, 0, sampling=Sampling(seed=seed)):
            yield torch.from_numpy(frame.audio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    demo = Path(__file__).resolve().parents[1] / "deploy" / "demo"
    parser.add_argument("--bundle", type=Path, default=demo / "base")
    parser.add_argument("--codec", type=Path, default=demo / "codec")
    parser.add_argument("--frames", type=int, default=200)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle, codec_folder=arguments.codec, kernels=False)
    sides = {"torch": bundle, "dynamic": dynamic(bundle)}
    for weights in get_args(Weights):
        sides[weights] = load_bundle(arguments.bundle, codec_folder=arguments.codec, weights=weights)
    streams = {name: endless(side) for name, side in sides.items()}
    taken: dict[str, list[float]] = {name: [] for name in streams}
    for index in range(arguments.frames + 10):
        for name, stream in streams.items():
            began = time.perf_counter()
            next(stream)
            if index >= 10:
                taken[name].append(time.perf_counter() - began)
    threads = torch.get_num_threads()
    print(f"{arguments.frames} frames of 80 ms, {threads} threads, OMP_PROC_BIND={os.environ['OMP_PROC_BIND']}")
    for name, seconds in taken.items():
        ratio = statistics.median(base / side for base, side in zip(taken["torch"], seconds, strict=True))
        print(
            f"{name:8} median {1000 * statistics.median(seconds):6.2f} ms a frame   {ratio:.2f} times as fast as torch"
        )


if __name__ == "__main__":
    main()
