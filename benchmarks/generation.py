"""Time of a frame of generation, without codec, against Hugging Face `generate` over the same weights.

    OMP_PROC_BIND=true python benchmarks/generation.py [--preset csm-1b] [--batch 1,8] [--rounds 8] [--frames 6]
    OMP_PROC_BIND=true python benchmarks/generation.py --bundle deploy/demo/base --codec deploy/demo/codec --frames 25

With a preset: random weights in bfloat16. With a bundle: its weights. Sides take turns, some frames each, so that
whatever else the machine does meets them alike; the first frame of a turn is left out. The median of the ratios of
neighbouring turns is printed. With `--batch 8` eight sequences are stepped together on every side, and a frame is the
step that makes one for each.

Where other work shares the cores, `--clock cpu` counts the CPU time of one thread instead, of which waiting for a core
is no part; sides then still share memory's speed with that work.

- hf: `CsmForConditionalGeneration.generate` as it comes (dynamic cache, eager), temperature 0.9, top-k 50.
- torch: this program's decoder with torch's own products, over the same weights.
- fp32, bf16, int8, int4: the same with packed weights (`csm_model.kernels`).
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_PROC_BIND", "true")

import torch
from oracle.hugging_face import as_hf, random_model
from torch import Tensor

from csm_model.bundle import load_bundle, read_config
from csm_model.config import CONFIGS
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.prompt import text_rows
from csm_model.inference.sampling import Sampling
from csm_model.kernels import use_kernels
from csm_model.model import CsmModel, meta_model, with_tables
from csm_model.quantize import rounded_state, with_rounded_weights

TEXT_ROWS = 48
now = time.perf_counter
"""The clock; see `--clock`."""
SETTINGS = Sampling(temperature=0.9, depth_temperature=0.9, top_k=50)


def hf_frames(hf: Any, ids: Tensor, frames: int) -> list[float]:
    """Seconds of each frame but the first: from one call of the backbone to the next."""
    times: list[float] = []
    clock = hf.backbone_model.register_forward_pre_hook(lambda *_: times.append(now()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=frames + 2, do_sample=True,
            temperature=0.9, top_k=50, depth_decoder_do_sample=True, depth_decoder_temperature=0.9,
            depth_decoder_top_k=50,
        )  # fmt: skip
    clock.remove()
    return [after - before for before, after in itertools.pairwise(times)][1:]


def own_frames(model: CsmModel, prompts: list[Prompt], frames: int) -> list[float]:
    """Seconds of each frame but the first."""
    slots = list(range(len(prompts)))
    decoder = FrameDecoder(model, slots=len(slots), rows=256, guided=False)
    for slot, prompt in enumerate(prompts):
        decoder.begin(slot, replace(SETTINGS, seed=slot))
        decoder.read(slot, prompt)
    times = []
    for _ in range(frames + 1):
        decoder.feed(slots, decoder.draw(slots, [False] * len(slots)).codes)
        times.append(now())
    return [after - before for before, after in itertools.pairwise(times)]


def with_weights(model: CsmModel, weights: str) -> CsmModel:
    """A packed model of other weights; those of `model` are left as they are."""
    made = meta_model(model.config)
    state = model.state_dict()
    if weights in ("int8", "int4"):
        return use_kernels(with_tables(with_rounded_weights(made, rounded_state(model, weights))))  # type: ignore[arg-type]
    dtype = torch.bfloat16 if weights == "bf16" else torch.float32
    made.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    return use_kernels(with_tables(made))


Side = Callable[[list[Prompt], Tensor, int], list[float]]
"""Prompts, the same as ids `[B, T]`, and how many frames; seconds of each."""


def sides(arguments: argparse.Namespace) -> Iterator[tuple[str, Side]]:
    """What is compared."""
    if arguments.bundle:
        model = load_bundle(arguments.bundle, codec_folder=arguments.codec, kernels=False).model
    else:
        model = random_model(CONFIGS[arguments.preset](), torch.bfloat16)
    hf = as_hf(model)

    def own(model: CsmModel) -> Side:
        return lambda prompts, ids, frames: own_frames(model, prompts, frames)

    yield "hf", lambda prompts, ids, frames: hf_frames(hf, ids, frames)
    if "torch" in arguments.sides:
        yield "torch", own(model)
    for weights in arguments.weights.split(","):
        yield weights, own(with_weights(model, weights))


def compare(run: dict[str, Side], batch: int, arguments: argparse.Namespace) -> None:
    """Takes turns and prints what each side took; a line a round goes to stderr."""
    config = CONFIGS[arguments.preset]() if arguments.bundle is None else read_config(arguments.bundle)
    ids = torch.randint(10, config.text_vocab_size, (batch, TEXT_ROWS))
    prompts = [Prompt(*text_rows(row, config)) for row in ids.tolist()]
    for side in run.values():  # warm up, and compile
        side(prompts, ids, 1)
    taken: dict[str, list[float]] = {name: [] for name in run}
    for number in range(arguments.rounds):
        for name, side in run.items():
            taken[name].append(statistics.median(side(prompts, ids, arguments.frames)))
        latest = ", ".join(f"{name} {1000 * seconds[-1]:.0f}" for name, seconds in taken.items())
        print(f"batch {batch}, round {number + 1}, ms: {latest}", file=sys.stderr, flush=True)
    print(f"{arguments.bundle or arguments.preset}, {'float32' if arguments.bundle else 'bfloat16'}, "
          f"batch {batch}, {arguments.clock} time, {torch.get_num_threads()} threads, {arguments.rounds} rounds of "
          f"{arguments.frames} frames, OMP_PROC_BIND={os.environ['OMP_PROC_BIND']}")  # fmt: skip
    for name, seconds in taken.items():
        ratio = statistics.median(base / side for base, side in zip(taken["hf"], seconds, strict=True))
        print(f"{name:10} median {1000 * statistics.median(seconds):7.1f} ms a frame (least "
              f"{1000 * min(seconds):.1f})   {ratio:.2f} times as fast as hf", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="csm-1b", choices=["csm-30m", "csm-1b", "csm-3b", "csm-8b"])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--codec", type=Path, help="codec of a bundle that carries none")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--batch", default="1", help="sizes, one after another, such as 1,8")
    parser.add_argument("--weights", default="bf16,int8,int4", help="of this program's packed sides")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: CPU time of one thread")
    parser.add_argument("--sides", default="hf,torch", help="of those with torch's products; hf is always there")
    arguments = parser.parse_args()
    if arguments.clock == "cpu":
        global now
        now = time.process_time
        torch.set_num_threads(1)
    run = dict(sides(arguments))
    for batch in arguments.batch.split(","):
        compare(run, int(batch), arguments)


if __name__ == "__main__":
    main()
