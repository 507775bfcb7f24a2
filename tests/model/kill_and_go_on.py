"""Trains once in one go, and once killed with SIGKILL again and again; torch is imported once, each attempt is a fork.

Arguments: the configuration as JSON, the folder of the run in one go, that of the killed one, the number of processes,
the number of kills. Prints one JSON object: what each kill interrupted, and where each attempt began.

A kill comes a random time after a random number of steps of the attempt; every third waits until a checkpoint is being
written. The processes are halted (SIGSTOP) before they are killed, so that what is looked at is what the kill meets.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch._dynamo  # noqa: F401 - what an optimiser imports when it is made, here once and not in every fork

from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import joined_world
from csm_model.training.trainer import Trainer

MOST_STEPS = 10
HANG_S = 300.0
"""Seconds after which an attempt that tells nothing is taken to hang."""


class Telling(Trainer):
    """A trainer that tells through a pipe where it begins, and each step."""

    def begin(self, pipe: int) -> None:
        self.pipe = pipe
        self.tell()

    def tell(self) -> None:
        if self.world.leads:
            os.write(self.pipe, self.step.to_bytes(4, "big"))

    def _advance(self, *arguments: object) -> bool:
        stopping = super()._advance(*arguments)  # type: ignore[arg-type]
        self.tell()
        return stopping


@dataclass
class Attempt:
    """All processes of one attempt, and the reading end of their pipe."""

    pids: list[int]
    pipe: int

    def step(self, seconds: float) -> int | None:
        """The next step that is told; None where nothing is told in so many seconds, or all have ended."""
        if not select.select([self.pipe], [], [], seconds)[0]:
            return None
        told = os.read(self.pipe, 4)
        return int.from_bytes(told, "big") if told else None

    def send(self, what: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, what)

    def end(self) -> list[int]:
        """How each process ended: its exit code, or minus the signal."""
        os.close(self.pipe)
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]


def begin(config: TrainingConfig, processes: int) -> Attempt:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reading, writing = os.pipe()
    pids = []
    for rank in range(processes):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": processes}
            os.environ.update({name: str(value) for name, value in where.items()})
            with joined_world() as world:
                trainer = Telling(config, world)
                trainer.begin(writing)
                trainer.run()
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    return Attempt(pids, reading)


def written_now(config: TrainingConfig) -> bool:
    return any(Path(config.out, "checkpoints").glob(".step-*.partial"))


def killed(config: TrainingConfig, processes: int, draw: random.Random, *, writing: bool) -> dict[str, object]:
    """One attempt and its end."""
    attempt = begin(config, processes)
    began = attempt.step(HANG_S)
    step = began
    last = draw.randrange(1, MOST_STEPS)
    while step is not None and began is not None and step < began + last:
        step = attempt.step(HANG_S)
    time.sleep(draw.uniform(0.0, 0.03))
    until = time.monotonic() + HANG_S
    while True:
        while writing and not written_now(config) and time.monotonic() < until:
            time.sleep(0.001)
        attempt.send(signal.SIGSTOP)
        partial = written_now(config)
        if partial or not writing or time.monotonic() > until:
            break
        attempt.send(signal.SIGCONT)
    while (told := attempt.step(0)) is not None:
        step = told
    attempt.send(signal.SIGKILL)
    return {"began": began, "step": step, "writing": partial, "ends": attempt.end()}


def main() -> None:
    config = TrainingConfig.load(Path(sys.argv[1]))
    processes, kills = int(sys.argv[4]), int(sys.argv[5])
    assert set(begin(replace(config, out=sys.argv[2]), processes).end()) == {0}
    draw = random.Random(5)
    config = replace(config, out=sys.argv[3])
    attempts = [killed(config, processes, draw, writing=number % 3 == 2) for number in range(kills)]
    last = begin(config, processes)
    began = last.step(HANG_S)
    assert set(last.end()) == {0}
    print(json.dumps({"attempts": attempts, "began": began}))


if __name__ == "__main__":
    main()
