"""One process of a job whose machines have disks of their own: trains in one go, then again from the middle.

Arguments: the folder of tokens, and a folder; each process keeps to a folder of its own in it.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from csm_model.training.checkpoint import quiet_torch
from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import joined_world
from csm_model.training.trainer import Trainer

WAYS = {
    "ddp": {},
    "fsdp": {"strategy": "fsdp"},
    "lora": {"trainable": "lora", "lora_rank": 2},
}

if __name__ == "__main__":
    tokens, home = sys.argv[1], Path(sys.argv[2])
    quiet_torch()
    with joined_world() as world:
        for way, changes in WAYS.items():
            whole, again = (home / way / str(world.rank) / name for name in ("whole", "again"))
            config = TrainingConfig(
                tokens=tokens, out=str(whole), model="debug", steps=4, row_length=256, batch_packs=2, warmup_steps=1,
                log_every=1, validate_every=100, checkpoint_every=2, dropout=0.1, disks="own", **changes,
            )  # fmt: skip
            Trainer(config, world).run()
            if world.leads:
                shutil.copytree(whole / "checkpoints" / "step-00000002", again / "checkpoints" / "step-00000002")
            trainer = Trainer(replace(config, out=str(again)), world)
            assert trainer.step == 2
            trainer.run()
