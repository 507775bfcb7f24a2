"""Time of a frame of generation, batch 1, without codec, against Hugging Face `generate` over the same weights.

    OMP_PROC_BIND=true python benchmarks/generation.py [--preset csm-1b] [--rounds 8] [--frames 6] [--compiled]
    OMP_PROC_BIND=true python benchmarks/generation.py --bundle deploy/demo/base --codec deploy/demo/codec

With a preset: random weights in bfloat16. With a bundle: its weights in float32, and int8 on this program's side.
Sides take turns, some frames each, so that whatever else the machine does meets them alike; the first frame of a turn,
which reads the prompt, is left out. The median of the ratios of neighbouring turns is printed.

- hf: `CsmForConditionalGeneration.generate` as it comes (dynamic cache, eager), temperature 0.9, top-k 50.
- static: this program's static caches, eager.
- kernels: the same with the row kernels (`csm_model.inference.kernels`); bfloat16 only.
- compiled: the static caches through torch.compile with the weights frozen in (minutes to compile).
- int8: the weight-only int8 that a run releases, static caches, eager.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_PROC_BIND", "true")

import torch
from oracle.hugging_face import as_hf, random_model
from torch import Tensor

from csm_model.bundle import load_bundle
from csm_model.config import CONFIGS
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.kernels import with_row_kernels
from csm_model.inference.prompt import text_rows
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel
from csm_model.quantize import int8_state, with_int8_weights

TEXT_ROWS = 48
SETTINGS = Sampling(temperature=0.9, depth_temperature=0.9, top_k=50)


def hf_frames(hf: Any, ids: Tensor, frames: int) -> list[float]:
    """Seconds of each frame but the first: from one call of the backbone to the next."""
    times: list[float] = []
    clock = hf.backbone_model.register_forward_pre_hook(lambda *_: times.append(time.perf_counter()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=frames + 1, do_sample=True,
            temperature=0.9, top_k=50, depth_decoder_do_sample=True, depth_decoder_temperature=0.9,
            depth_decoder_top_k=50,
        )  # fmt: skip
    clock.remove()
    return [after - before for before, after in itertools.pairwise(times)][1:]


def own_frames(model: CsmModel, prompt: Prompt, frames: int, *, compiled: bool) -> list[float]:
    """Seconds of each frame but the first."""
    decoder = FrameDecoder(model, [SETTINGS], rows=256, compiled=compiled)
    decoder.read([prompt])
    times = []
    for _ in range(frames):
        decoder.feed(decoder.step([False]).codes)
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


def sides(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], list[float]]]]:
    """What is compared."""
    frames = arguments.frames
    if arguments.bundle:
        model = load_bundle(arguments.bundle, codec_folder=arguments.codec).model
    else:
        model = random_model(CONFIGS[arguments.preset](), torch.bfloat16)
    config = model.config
    ids = torch.randint(10, config.text_vocab_size, (1, TEXT_ROWS))
    prompt = Prompt(*text_rows(ids[0].tolist(), config))
    hf = as_hf(model)
    yield "hf", lambda: hf_frames(hf, ids, frames)
    yield "static", lambda: own_frames(model, prompt, frames, compiled=False)
    if arguments.compiled:
        yield "compiled", lambda: own_frames(model, prompt, frames, compiled=True)
    if arguments.bundle:
        small = with_int8_weights(CsmModel(config), int8_state(model)).eval().requires_grad_(False)
        yield "int8", lambda: own_frames(small, prompt, frames, compiled=False)
    else:
        fast = with_row_kernels(random_model(config, torch.bfloat16))
        yield "kernels", lambda: own_frames(fast, prompt, frames, compiled=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="csm-1b", choices=["csm-30m", "csm-1b", "csm-3b", "csm-8b"])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--codec", type=Path, help="codec of a bundle that carries none")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    run = dict(sides(arguments))
    for side in run.values():  # warm up, and compile
        side()
    taken: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(arguments.rounds):
        for name, side in run.items():
            taken[name].append(statistics.median(side()))
    print(f"{arguments.bundle or arguments.preset}, {'float32' if arguments.bundle else 'bfloat16'}, batch 1, "
          f"{torch.get_num_threads()} threads, {arguments.rounds} rounds of {arguments.frames - 1} frames, "
          f"OMP_PROC_BIND={os.environ['OMP_PROC_BIND']}")  # fmt: skip
    for name, seconds in taken.items():
        ratio = statistics.median(base / side for base, side in zip(taken["hf"], seconds, strict=True))
        print(f"{name:10} median {1000 * statistics.median(seconds):7.1f} ms a frame (least "
              f"{1000 * min(seconds):.1f})   {ratio:.2f} times as fast as hf")  # fmt: skip


if __name__ == "__main__":
    main()
