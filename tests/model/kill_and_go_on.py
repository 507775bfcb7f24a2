"""Trains once in one go, and once killed with SIGKILL at 20 instants; torch is imported once, each attempt is a fork.

Arguments: the configuration as JSON, then the folder of the run in one go, then that of the killed one.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import World
from csm_model.training.trainer import Trainer

KILLS = 20


def attempt(config: TrainingConfig) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Trainer(config, World(rank=0, size=1)).run()
            code = 0
        finally:
            os._exit(code)
    return child


def main() -> None:
    config = TrainingConfig.load(Path(sys.argv[1]))
    began = time.monotonic()
    whole = attempt(replace(config, out=sys.argv[2]))
    assert os.waitpid(whole, 0)[1] == 0
    length = time.monotonic() - began
    draw = random.Random(5)
    config = replace(config, out=sys.argv[3])
    kills = 0
    while kills < KILLS:
        child = attempt(config)
        time.sleep(draw.uniform(0.05, 0.25) * length)
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            break  # it had finished before
        kills += 1
    assert os.waitpid(attempt(config), 0)[1] == 0
    print(f"{kills} kills")


if __name__ == "__main__":
    main()
