"""Runs a module so that it never outlives the process that started it, on its own share of the cores.

    python -m csm_components.train.guard MODULE ARGS...

torchx starts torchrun agents in their own sessions, and an agent does the same with its workers. If the starter is
killed with SIGKILL, nobody tells them, and they would go on writing checkpoints beside the next attempt. Linux can send
a signal at the death of a parent (`prctl(2)`, PR_SET_PDEATHSIG); this module asks for it before it becomes MODULE.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1
CORES_VARIABLE = "CSM_GUARD_CORES"
"""Cores that the process may use, e.g. "0,1"; unset: all."""


def die_with_parent(with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Asks Linux to send `with_signal` to this process when its parent dies; does nothing on other systems."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), with_signal)


def keep_to_cores(cores: str) -> None:
    """Binds this process to `cores` ("0,1"), a worker to its share of them; no cores: binds nothing."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    numbers = [int(core) for core in cores.split(",")]
    worker, workers = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    share = len(numbers) // workers
    os.sched_setaffinity(0, numbers[worker * share : (worker + 1) * share] if share else numbers)


def main() -> None:
    """Becomes the module named by the first argument."""
    die_with_parent()
    keep_to_cores(os.environ.get(CORES_VARIABLE, ""))
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
