"""One float32 step of a preset in a process of its own: prints by how many bytes its memory grew at the most, and how
many targets codebook 0 and the depth decoder had. Run as: python one_step.py PRESET PACKS
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch
from torch import nn

from csm_model.config import CONFIGS
from csm_model.model import CsmModel
from csm_model.training.config import TrainingConfig
from csm_model.training.data import Batch, Targets
from csm_model.training.loss import LossModule
from csm_model.training.metrics import peak_resident_memory
from csm_model.training.optimizer import make_optimizer

ROWS, DOCUMENT = 2048, 512


def resident() -> int:
    """Bytes that the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def batch_of(packs: int, columns: int) -> Batch:
    """Packs of four documents, four rows in five of which are audio."""
    rows = torch.ones(packs, ROWS, columns, dtype=torch.long)
    first = torch.arange(1, packs * ROWS)[: packs * ROWS * 4 // 5]
    targets = [Targets(places, torch.ones(len(places))) for places in (first, first[::16], first[:0])]
    return Batch(rows, rows > 0, [[DOCUMENT] * (ROWS // DOCUMENT)] * packs, *targets, packs * ROWS)


def main(preset: str, packs: int) -> None:
    """See above."""
    warm = nn.Linear(8, 8)
    warm(torch.ones(8, 8)).sum().backward()
    before = resident()
    config = TrainingConfig(tokens="", out="")
    model = CsmModel(CONFIGS[preset]())
    module = LossModule(model).train()
    optimizer = make_optimizer(model, config)
    for parameter in model.parameters():  # as a first step leaves them
        moments = {name: torch.full_like(parameter, 1e-8) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.ones(()), **moments}
    batch = batch_of(packs, model.config.num_codebooks + 1)
    module(batch).total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    grown = int(peak_resident_memory()) - before
    print(grown, len(batch.first.places), len(batch.depth.places))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
