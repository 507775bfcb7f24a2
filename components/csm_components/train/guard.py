"""Runs a module so that it never outlives the process that started it, on its own share of the cores.

    python -m csm_components.train.guard MODULE ARGS...

torchx starts torchrun agents in their own sessions, and an agent does the same with its workers. If the starter is
killed with SIGKILL, nobody tells them, and they would go on writing checkpoints beside the next attempt. Linux can send
a signal at the death of a parent (`prctl(2)`, PR_SET_PDEATHSIG); this module asks for it before it becomes MODULE.

An agent that is asked to stop (SIGTERM: its machine is wanted back) would end its workers and fail. Here it asks its
workers to stop and goes on watching them: they save, end with 0, and so does the agent. No other signal is touched.

A process that dies of an exception leaves a record of it (`csm_components.train.failures`).
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
NAME = "csm_components.train.guard"
"""Of this module, also where it runs as `__main__`."""
AGENT = "torch.distributed.run"
"""The module that is an agent; any other is a worker."""
CORES_VARIABLE = "CSM_GUARD_CORES"
"""Cores that the process may use, e.g. "0,1"; unset: all."""
ERRORS_VARIABLE = "CSM_GUARD_ERRORS"
"""Where a process leaves what it dies of: a folder, or an address of the storage; unset: nowhere."""
STOP_SECONDS = 600.0
"""What workers get to save once they were asked to stop; then they are killed."""
LEAVE_SECONDS = 10.0
"""What an agent gets to end once its workers have: it waits for the other agents, of which nothing is to come any more,
and for those that are gone already 300 seconds in vain, in a call that no signal ends."""
_LOOK_SECONDS = 0.5


def die_with_parent(with_signal: signal.Signals) -> None:
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


def guarded_children() -> list[int]:
    """Process ids of the children of this process that run this module."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and NAME in (folder / "cmdline").read_bytes().decode().split("\0"):
                found.append(int(folder.name))
        except (OSError, ValueError):  # it ended while it was looked at
            continue
    return found


def tell(pids: list[int], what: signal.Signals) -> None:
    """Sends a signal to those processes that are still there."""
    for pid in pids:
        try:
            os.kill(pid, what)
        except ProcessLookupError:
            continue


def pass_stop_on() -> None:
    """From now on SIGTERM to this process goes to its workers; without any, it ends this process.

    torchrun installs a handler of its own that shuts everything down. The signal is blocked before there are other
    threads, so that handler never runs; a thread waits for the signal instead.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        workers, until = guarded_children(), time.monotonic() + STOP_SECONDS
        tell(workers, signal.SIGTERM)
        while (left := [pid for pid in guarded_children() if pid in workers]) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        tell(left, signal.SIGKILL)
        if left or not workers:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LEAVE_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, name="stop", daemon=True).start()


def main() -> None:
    """Becomes the module named by the first argument."""
    module, sys.argv = sys.argv[1], sys.argv[1:]
    if module == AGENT:
        die_with_parent(signal.SIGTERM)
        pass_stop_on()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # inherited from the agent
        die_with_parent(signal.SIGKILL)  # the agent waits for its workers: without it, they are on their own
    keep_to_cores(os.environ.get(CORES_VARIABLE, ""))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        _say_why(error)
        raise


def _say_why(error: BaseException) -> None:
    """Leaves what this process dies of where its starter looks; an error that a caller can mend is then one line."""
    if place := os.environ.get(ERRORS_VARIABLE):
        from csm_components.train.failures import leave  # not before it is needed: an agent is light

        leave(place, error)
    from csm_model.errors import CsmError

    if isinstance(error, CsmError):
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
