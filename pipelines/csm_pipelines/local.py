"""One step in a process of its own: it tells what happens on a pipe, and all that it prints goes to its log."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from csm_components.events import restored
from csm_model.errors import CsmError

_STOP_SECONDS = 60.0
"""What a step gets to end when the run is stopped."""
_LOOK_SECONDS = 0.5


class StepError(CsmError):
    """A step ended in an error that is no `CsmError` of its own: a fault of this program or of the machine."""


def run_task(arguments: Sequence[str], step: str, logs: Path, progress: Callable[[str, str], None]) -> dict[str, Any]:
    """Runs the program of a step to its end; its result.

    Args:
        arguments: of the program.
        step: name of the step.
        logs: folder for its log.
        progress: called with the step and where it is.

    Raises:
        CsmError: what the step raised, with its own type; `StepError` for anything else that ended it.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{step}.log"
    reading, writing = os.pipe()
    program = [sys.executable, "-m", "csm_components.run", *arguments]
    program += ["--events", str(writing), "--parent", str(os.getpid())]
    ended: dict[str, Any] = {}
    with log.open("wb") as printed, os.fdopen(reading, "rb", buffering=0) as events:
        process = subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            pass_fds=(writing,),
        )
        os.close(writing)
        try:
            for event in _events(events.fileno(), process):
                if event["event"] == "progress":
                    progress(step, event["words"])
                elif event["event"] in ("result", "error"):
                    ended = event
            code = process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    if code == 0 and ended.get("event") == "result":
        return dict(ended["result"])
    raise restored(ended) or StepError(f"step {step} {_why(code, ended)}; all that it printed is in {log}")


def _events(descriptor: int, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The events of a step, until it has ended; whoever it has left behind is not waited for."""
    rest = b""
    while True:
        over = process.poll() is not None
        ready, _, _ = select.select([descriptor], [], [], 0 if over else _LOOK_SECONDS)
        data = os.read(descriptor, 65_536) if ready else b""
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
        if (ready and not data) or (over and not ready):
            return


def _why(code: int, ended: dict[str, Any]) -> str:
    if ended.get("event") == "error":
        return f"failed: {ended['type']}" + (f": {ended['message']}" if ended["message"] else "")
    if code < 0:
        number = signal.Signals(-code)
        return f"was killed by {number.name}" + (" (out of memory, or by hand)" if number == signal.SIGKILL else "")
    return f"ended with exit status {code} and said no more"
