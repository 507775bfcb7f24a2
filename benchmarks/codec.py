"""Time of a frame of streaming decoding: Mimi against moshi's own, and the demo's RVQ codec, for 1, 8 and 32 streams.

    OMP_PROC_BIND=true OMP_NUM_THREADS=1 python benchmarks/codec.py [--rounds 8] [--frames 5] [--before CHECKOUT]

Mimi has random weights of the true size (`MimiCodec.random`), the same for both sides, float32. A step decodes one
frame of every stream: moshi in streaming mode with a batch, this program by a slot for each stream, in an order that is
not that of its slots. Sides take turns, some frames each, so that whatever else the machine does meets them alike; the
first frame of a turn is left out. The median of the ratios of neighbouring turns is printed, and how far the sounds are
apart.

With `--before`, this checkout is compared with another one of the same program, each in a process of its own. To see a
processor with AVX2 alone from one with AVX-512: `CSM_CPU_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
MKL_ENABLE_INSTRUCTIONS=AVX2`. `--clock cpu` counts the time of one thread on the processor, for a machine that has
other work to do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

os.environ.setdefault("OMP_PROC_BIND", "true")

import torch
from moshi.utils.compile import no_compile
from torch import Tensor

from csm_model.codec import AudioCodec, load_codec
from csm_model.codec.mimi import MimiCodec

HERE = Path(__file__).resolve().parent.parent
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
Step = Callable[[Tensor], Tensor]
Turn = Callable[[int], float]
"""Decodes some frames, drawn from a number; the median of the seconds of each but the first."""


def timed(step: Step, codes: Tensor, clock: Callable[[], float]) -> tuple[float, Tensor]:
    """Median of the seconds of each frame of `codes` `[B, K, T]` but the first, and the sound of all."""
    seconds, parts = [], []
    for frame in codes.split(1, dim=2):
        began = clock()
        parts.append(step(frame))
        seconds.append(clock() - began)
    return statistics.median(seconds[1:]), torch.cat(parts, dim=2)


def slots_of(codec: AudioCodec, streams: int) -> Step:
    """Streams in slots that alternate, so that hardly two follow one another."""
    decoder = codec.slot_decoder(streams)
    slots = [*range(0, streams, 2), *range(1, streams, 2)]
    return lambda codes: decoder.step(codes, slots)


def random_codes(codec: AudioCodec, streams: int, frames: int, seed: int) -> Tensor:
    size = (streams, codec.num_codebooks, frames)
    return torch.randint(codec.codebook_size, size, generator=torch.Generator().manual_seed(seed))


def opened(codec: str) -> AudioCodec:
    return MimiCodec.random(0) if codec == "mimi" else load_codec(Path(codec))


def against_moshi(streams: int, arguments: argparse.Namespace) -> None:
    codec = MimiCodec.random(0)
    moshi = codec._model
    own, clock = slots_of(codec, streams), CLOCKS[arguments.clock]
    apart = 0.0

    def turn(number: int) -> tuple[float, float]:
        nonlocal apart
        codes = random_codes(codec, streams, arguments.frames + 1, number)
        theirs, expected = timed(moshi.decode, codes, clock)
        ours, heard = timed(own, codes, clock)
        apart = max(apart, float((heard - expected).abs().max()))
        return theirs, ours

    with torch.inference_mode(), no_compile(), moshi.streaming(streams):
        turns = [turn(number) for number in range(arguments.rounds + 1)][1:]  # the first is to warm up
    taken = {"moshi": [theirs for theirs, _ in turns], "slots": [ours for _, ours in turns]}
    shown(f"mimi, {streams} streams, sounds {apart:.1e} apart", taken)


def alone(codec: str, streams: int, arguments: argparse.Namespace) -> None:
    turn = turn_of(codec, streams, arguments)
    shown(f"{codec}, {streams} streams", {"slots": [turn(number) for number in range(arguments.rounds + 1)][1:]})


def turn_of(codec: str, streams: int, arguments: argparse.Namespace) -> Turn:
    decoded, clock = opened(codec), CLOCKS[arguments.clock]
    own = slots_of(decoded, streams)
    return lambda number: timed(own, random_codes(decoded, streams, arguments.frames + 1, number), clock)[0]


def against_before(codec: str, streams: int, arguments: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        sides: Mapping[str, Turn] = {
            name: stack.enter_context(elsewhere(checkout, codec, streams, arguments))
            for name, checkout in (("before", arguments.before), ("now", HERE))
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(arguments.rounds + 1):
            for name, turn in sides.items():
                taken[name].append(turn(number))
    shown(f"{codec}, {streams} streams", {name: seconds[1:] for name, seconds in taken.items()})


@contextlib.contextmanager
def elsewhere(checkout: Path, codec: str, streams: int, arguments: argparse.Namespace) -> Iterator[Turn]:
    """Turns of a checkout's decoder, in a process of its own."""
    command = [sys.executable, __file__, "--turns-of", codec, "--streams", str(streams), "--clock", arguments.clock,
               "--frames", str(arguments.frames)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "model")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def turn(number: int) -> float:
            print(number, file=asked, flush=True)
            return float(answers.readline())

        yield turn
        asked.close()


def serve_turns(codec: str, streams: int, arguments: argparse.Namespace) -> None:
    turn = turn_of(codec, streams, arguments)
    for line in sys.stdin:
        print(turn(int(line)), flush=True)


def shown(title: str, taken: Mapping[str, list[float]]) -> None:
    first = next(iter(taken))
    print(title)
    for name, seconds in taken.items():
        ratio = statistics.median(one / other for one, other in zip(taken[first], seconds, strict=True))
        print(f"  {name:6} median {1000 * statistics.median(seconds):7.2f} ms a step (least {1000 * min(seconds):.2f})"
              + (f"   {ratio:.2f} times as fast as {first}" if name != first else ""), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="deploy/demo/codec")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--streams", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--before", type=Path, help="another checkout to compare with, instead of moshi")
    parser.add_argument("--turns-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turns_of:
        serve_turns(arguments.turns_of, arguments.streams[0], arguments)
        return
    print(f"float32, {torch.get_num_threads()} threads, {arguments.rounds} rounds of {arguments.frames} frames, "
          f"OMP_PROC_BIND={os.environ['OMP_PROC_BIND']}", flush=True)  # fmt: skip
    for streams in arguments.streams:
        if arguments.before:
            against_before("mimi", streams, arguments)
        else:
            against_moshi(streams, arguments)
    for streams in arguments.streams:
        (against_before if arguments.before else alone)(arguments.codec, streams, arguments)


if __name__ == "__main__":
    main()
