"""Real (unpadded) rows a second in training at the 30 M preset: this program against Hugging Face's CSM.

    OMP_PROC_BIND=true python benchmarks/training.py [--rounds 6] [--steps 1]

The same conversations, the same targets (codebook 0 everywhere, the others on 1/16 of the frames), float32, AdamW, on
the CPU. Lengths are a realistic mix: log-normal, half of the conversations under 400 rows, none over 2,048 (the model's
own bound). Each side is a process of its own, and they take turns, so that whatever else the machine does meets them
alike and each has its own peak memory. The median of the ratios of neighbouring turns is printed.

- hf: `CsmForConditionalGeneration` with labels, batches of 4 conversations padded to the longest, mask as its processor
  gives it, gradients accumulated over the step. Mimi is left out: codes are given.
- hf bucketed: the same, conversations of like lengths together.
- hf single: batches of one conversation, so that nothing is padded.
- csm: packs of 2,048 rows (`csm_model.training`), one at a time, gradients accumulated over the step.

Before it begins, the two losses of one batch with the same weights are compared: they must be equal to 1e-4.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_PROC_BIND", "true")

import numpy as np
import torch
from oracle.hugging_face import Labelled, as_hf, documents_of, random_model
from torch import nn

from csm_model.config import CONFIGS
from csm_model.training.data import Batch, DropoutSettings, PackedTokens, Totals, TurnsInMemory
from csm_model.training.loss import LossModule
from csm_model.training.packing import Packing
from csm_model.training.shards import TokenTurn

ROW_LENGTH = 2048
PACKS = 4
HF_BATCH = 4
MEDIAN_ROWS, SPREAD = 400, 0.8
SIDES = ("hf", "hf bucketed", "hf single", "csm")


def conversations(count: int) -> list[TokenTurn]:
    """Conversations of one turn, of random ids and codes: three rows of text for ten of sound."""
    config = CONFIGS["csm-30m"]()
    rng = np.random.default_rng(0)
    turns = []
    for number in range(count):
        rows = int(np.clip(rng.lognormal(np.log(MEDIAN_ROWS), SPREAD), 40, ROW_LENGTH))
        text = rows * 3 // 13
        codes = rng.integers(0, config.codebook_size, (config.num_codebooks, rows - text - 1))
        ids = rng.integers(0, config.text_vocab_size, text).astype(np.int32)
        turns.append(
            TokenTurn(id=str(number), conversation=str(number), split="train", speaker=0, text="-", text_ids=ids,
                      codes=codes.astype(np.int16))
        )  # fmt: skip
    return turns


class Own:
    """This program's step."""

    def __init__(self) -> None:
        self.module = LossModule(random_model(CONFIGS["csm-30m"](), torch.float32).train().requires_grad_(True))
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-6, fused=True)

    def step(self, packs: Sequence[Batch]) -> None:
        totals = Totals(*(sum(part) for part in zip(*(pack.totals for pack in packs), strict=True)))
        for pack in packs:
            self.module(pack, totals).total.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class HuggingFace:
    """Its step over the same conversations."""

    def __init__(self, *, batch: int, bucketed: bool) -> None:
        self.hf = as_hf(random_model(CONFIGS["csm-30m"](), torch.float32)).train().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.hf.parameters(), lr=1e-6, fused=True)
        self.batch, self.bucketed = batch, bucketed

    def step(self, packs: Sequence[Batch]) -> None:
        documents = [document for pack in packs for document in documents_of(pack)]
        if self.bucketed:
            documents.sort(key=lambda document: len(document.labels))
        parts = [documents[start : start + self.batch] for start in range(0, len(documents), self.batch)]
        for part in parts:
            (self.loss(part).loss / len(parts)).backward()
        nn.utils.clip_grad_norm_(self.hf.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, part: Sequence[Labelled]) -> Any:
        pad = nn.utils.rnn.pad_sequence
        embeds = [each.embedded(self.hf) for each in part]
        mask = pad([torch.ones(len(each.labels), dtype=torch.long) for each in part], batch_first=True)
        labels = pad([each.labels for each in part], batch_first=True, padding_value=-100)
        return self.hf(inputs_embeds=pad(embeds, batch_first=True), attention_mask=mask, labels=labels, use_cache=False)


MAKE: dict[str, Callable[[], Any]] = {
    "hf": lambda: HuggingFace(batch=HF_BATCH, bucketed=False),
    "hf bucketed": lambda: HuggingFace(batch=HF_BATCH, bucketed=True),
    "hf single": lambda: HuggingFace(batch=1, bucketed=False),
    "csm": Own,
}


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def work(name: str, steps: int, end: Connection) -> None:
    """One side: does `steps` steps whenever it is told to, and says how long each turn took and its peak memory."""
    side = MAKE[name]()
    data = packs_of(steps)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")
    end.send(torch.get_num_threads())
    while end.recv():
        began = time.perf_counter()
        for packs in data:
            side.step(packs)
        end.send((time.perf_counter() - began, memory("VmHWM") - before))


def packs_of(steps: int) -> list[list[Batch]]:
    """The packs of some steps."""
    config = CONFIGS["csm-30m"]()
    source = TurnsInMemory(conversations(60 * steps))
    data = PackedTokens(
        source, config, packing=Packing(row_length=ROW_LENGTH), reading=DropoutSettings(depth_share=1 / 16)
    )
    return [[data.batch([number]) for number in range(PACKS * step, PACKS * (step + 1))] for step in range(steps)]


def compare_losses() -> None:
    """One batch, the same weights: both losses of both programs."""
    packs = packs_of(1)[0]
    ours, theirs = Own(), HuggingFace(batch=1, bucketed=False)
    with torch.no_grad():
        own = ours.module(packs[0])
        hf = theirs.loss(documents_of(packs[0]))
    for name, one, other in (("codebook 0", own.first, hf.backbone_loss), ("others", own.depth, hf.depth_decoder_loss)):
        print(f"loss of {name}: csm {float(one):.6f}, hf {float(other):.6f}")
        assert abs(float(one) - float(other)) < 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn")
    arguments = parser.parse_args()
    compare_losses()
    data = packs_of(arguments.steps)
    rows = sum(pack.rows_held for packs in data for pack in packs)
    lengths = [len(document.labels) for packs in data for pack in packs for document in documents_of(pack)]
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # torch has bound this process to one; the sides inherit it
    for name in SIDES:
        ends[name], other = context.Pipe()
        context.Process(target=work, args=(name, arguments.steps, other), daemon=True).start()
    threads = {end.recv() for end in ends.values()}
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    peak: dict[str, int] = {}
    for number in range(arguments.rounds + 1):
        for name, end in ends.items():
            end.send(True)
            seconds, peak[name] = end.recv()
            if number:  # the first warms up
                taken[name].append(seconds)
    for end in ends.values():
        end.send(False)
    print(f"csm-30m, {rows} rows in {len(lengths)} conversations (median {statistics.median(lengths):.0f}), "
          f"{max(threads)} threads each, {arguments.rounds} rounds, "
          f"OMP_PROC_BIND={os.environ['OMP_PROC_BIND']}")  # fmt: skip
    for name, seconds in taken.items():
        ratio = statistics.median(base / side for base, side in zip(taken["hf"], seconds, strict=True))
        print(f"{name:12} {rows / statistics.median(seconds):6.0f} rows a second   {ratio:.2f} times hf   "
              f"peak memory over the model's {peak[name] / 1e9:.2f} GB")  # fmt: skip


if __name__ == "__main__":
    main()
