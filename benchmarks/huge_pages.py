"""A training step on the CPU with huge pages against one with pages as they come, of 4 kB.

    OMP_PROC_BIND=true python benchmarks/huge_pages.py [--rounds 6] [--steps 1] [--clock wall]

The demo's sizes, packs of 1,536 rows, AdamW, float32. Each side is a process of its own, since glibc reads its tunables
at the start; they take turns, so that whatever else the machine does meets them alike. The median of the ratios of
neighbouring turns is printed. The losses of both are equal.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection

os.environ.setdefault("OMP_PROC_BIND", "true")

import numpy as np
import torch

from csm_components.train.app import HUGE_PAGES
from csm_model.config import CONFIGS
from csm_model.model import CsmModel
from csm_model.training.data import DropoutSettings, PackedTokens, TurnsInMemory
from csm_model.training.loss import LossModule
from csm_model.training.packing import Packing
from csm_model.training.shards import TokenTurn

SIDES = {"as they come": "", "huge pages": HUGE_PAGES}
BOOKS, CODES, IDS = 8, 1024, 129
ROW_LENGTH, PACKS = 1536, 2


def turns(count: int) -> list[TokenTurn]:
    """Turns of random ids and codes, 30 to 90 frames."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        frames = int(rng.integers(30, 90))
        codes = rng.integers(0, CODES, (BOOKS, frames)).astype(np.int16)
        ids = rng.integers(0, IDS, frames).astype(np.int32)
        made.append(
            TokenTurn(id=str(number), conversation=str(number), split="train", speaker=0, text="-", text_ids=ids,
                      codes=codes)
        )  # fmt: skip
    return made


def work(steps: int, clock: str, end: Connection) -> None:
    """One side: trains `steps` steps whenever it is told to; says how long that took, and the last loss."""
    torch.manual_seed(0)
    sizes = CONFIGS["demo"](text_vocab_size=IDS, num_codebooks=BOOKS, codebook_size=CODES)
    module = LossModule(CsmModel(sizes).train())
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    data = PackedTokens(
        TurnsInMemory(turns(200)), sizes, packing=Packing(row_length=ROW_LENGTH),
        reading=DropoutSettings(depth_share=0.4),
    )  # fmt: skip
    batch = data.batch(range(PACKS))
    end.send((torch.get_num_threads(), batch.rows_held))
    now = time.process_time if clock == "cpu" else time.perf_counter
    while end.recv():
        began = now()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = module(batch).total
            loss.backward()
            optimizer.step()
        end.send((now() - began, float(loss.detach())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu where much else runs beside it")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # torch has bound this process to one; the sides inherit it
    ends: dict[str, Connection] = {}
    for name, tunables in SIDES.items():
        os.environ["GLIBC_TUNABLES"] = tunables
        ends[name], other = context.Pipe()
        context.Process(target=work, args=(options.steps, options.clock, other), daemon=True).start()
    (threads, rows), *_ = [end.recv() for end in ends.values()]
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    losses: dict[str, float] = {}
    for number in range(options.rounds + 1):
        for name, end in ends.items():
            end.send(True)
            seconds, losses[name] = end.recv()
            if number:  # the first warms up
                taken[name].append(seconds / options.steps)
    for end in ends.values():
        end.send(False)
    first, second = SIDES
    assert abs(losses[first] - losses[second]) < 1e-3, losses
    print(f"demo, {rows} rows a step, {threads} threads each, {options.rounds} rounds, {options.clock} clock, "
          f"OMP_PROC_BIND={os.environ['OMP_PROC_BIND']}")  # fmt: skip
    for name, seconds in taken.items():
        ratio = statistics.median(base / side for base, side in zip(taken[first], seconds, strict=True))
        print(f"{name:12} {statistics.median(seconds):6.2f} s a step   {ratio:.2f} times as fast as {first}")


if __name__ == "__main__":
    main()
