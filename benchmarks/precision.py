"""Time a frame of generation takes in each precision, codec included, against float32 weights.

    python benchmarks/precision.py [--bundle deploy/demo/base] [--codec deploy/demo/codec] [--frames 200]

All sides live in one process, speak the same text with the same seed, and take turns, one frame each, so that whatever
else the machine does meets them alike. The median of the ratios to float32 is printed. Run with OMP_PROC_BIND=true.

- fp32: the float model.
- int8: weight-only, one scale an output channel; what `csm run` releases.
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

os.environ.setdefault("OMP_PROC_BIND", "true")

import torch
from torch import Tensor

from csm_model.bundle import Bundle, load_bundle
from csm_model.inference.generator import Generator
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel
from csm_model.quantize import int8_state, with_int8_weights

TEXT = "What time does the library open on Thursday morning, and how far is it from the station?"


def quantized(bundle: Bundle) -> Bundle:
    """The bundle with weight-only int8."""
    model = with_int8_weights(CsmModel(bundle.model.config), int8_state(bundle.model))
    return replace(bundle, model=model.eval().requires_grad_(False))


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
    bundle = load_bundle(arguments.bundle, codec_folder=arguments.codec)
    streams = {name: endless(side) for name, side in
               (("fp32", bundle), ("int8", quantized(bundle)), ("dynamic", dynamic(bundle)))}  # fmt: skip
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
        ratio = statistics.median(base / side for base, side in zip(taken["fp32"], seconds, strict=True))
        print(
            f"{name:8} median {1000 * statistics.median(seconds):6.2f} ms a frame   {ratio:.2f} times as fast as fp32"
        )


if __name__ == "__main__":
    main()
