"""Time of a frame of streaming decoding: Mimi against moshi's own, and the demo's RVQ codec, for 1 and for 8 streams.

    OMP_PROC_BIND=true OMP_NUM_THREADS=1 python benchmarks/codec.py [--rounds 8] [--frames 5]

Mimi has random weights of the true size (`MimiCodec.random`), the same for both sides, float32. A step decodes one
frame of every stream: moshi in streaming mode with a batch, this program by a slot for each stream, in an order that is
not that of its slots. Sides take turns, some frames each, so that whatever else the machine does meets them alike; the
first frame of a turn is left out. The median of the ratios of neighbouring turns is printed, and how far the sounds are
apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_PROC_BIND", "true")

import torch
from moshi.utils.compile import no_compile
from torch import Tensor

from csm_model.codec import AudioCodec, load_codec
from csm_model.codec.mimi import MimiCodec

Step = Callable[[Tensor], Tensor]


def timed(step: Step, codes: Tensor) -> tuple[float, Tensor]:
    """Median of the seconds of each frame of `codes` `[B, K, T]` but the first, and the sound of all."""
    seconds, parts = [], []
    for frame in codes.split(1, dim=2):
        began = time.perf_counter()
        parts.append(step(frame))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]), torch.cat(parts, dim=2)


def slots_of(codec: AudioCodec, streams: int) -> Step:
    """Streams in slots that alternate, so that hardly two follow one another."""
    decoder = codec.slot_decoder(streams)
    slots = [*range(0, streams, 2), *range(1, streams, 2)]
    return lambda codes: decoder.step(codes, slots)


def random_codes(codec: AudioCodec, streams: int, frames: int, seed: int) -> Tensor:
    size = (streams, codec.num_codebooks, frames)
    return torch.randint(codec.codebook_size, size, generator=torch.Generator().manual_seed(seed))


def against_moshi(streams: int, arguments: argparse.Namespace) -> None:
    codec = MimiCodec.random(0)
    moshi = codec._model
    own = slots_of(codec, streams)
    taken: dict[str, list[float]] = {"moshi": [], "slots": []}
    apart = 0.0
    with torch.inference_mode(), no_compile(), moshi.streaming(streams):
        for turn in range(arguments.rounds + 1):
            codes = random_codes(codec, streams, arguments.frames + 1, turn)
            theirs, expected = timed(moshi.decode, codes)
            ours, heard = timed(own, codes)
            apart = max(apart, float((heard - expected).abs().max()))
            if turn:  # the first is to warm up
                taken["moshi"].append(theirs)
                taken["slots"].append(ours)
    shown(f"mimi, {streams} streams, sounds {apart:.1e} apart", taken)


def alone(codec: AudioCodec, streams: int, arguments: argparse.Namespace) -> None:
    own = slots_of(codec, streams)
    turns = range(arguments.rounds + 1)
    taken = [timed(own, random_codes(codec, streams, arguments.frames + 1, turn))[0] for turn in turns]
    shown(f"{arguments.codec}, {streams} streams", {"slots": taken[1:]})


def shown(title: str, taken: dict[str, list[float]]) -> None:
    base = next(iter(taken.values()))
    print(title)
    for name, seconds in taken.items():
        ratio = statistics.median(one / other for one, other in zip(base, seconds, strict=True))
        print(f"  {name:6} median {1000 * statistics.median(seconds):7.2f} ms a step (least {1000 * min(seconds):.2f})"
              + (f"   {ratio:.2f} times as fast as moshi" if seconds is not base else ""))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, default=Path("deploy/demo/codec"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--frames", type=int, default=5)
    arguments = parser.parse_args()
    print(f"float32, {torch.get_num_threads()} threads, {arguments.rounds} rounds of {arguments.frames} frames, "
          f"OMP_PROC_BIND={os.environ['OMP_PROC_BIND']}")  # fmt: skip
    for streams in (1, 8):
        against_moshi(streams, arguments)
    demo = load_codec(arguments.codec)
    for streams in (1, 8):
        alone(demo, streams, arguments)


if __name__ == "__main__":
    main()
