"""From what agents and workers print back to lines of rank 0, and to the error that ended a training."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from csm_components.failures import cause, error_from, is_echo
from csm_model.errors import CsmError

KEPT_LINES = 400
"""Of each output, the last so many are enough to tell what went wrong."""
_WORKER_LINE = re.compile(r"^\[[^\]]*?(\d+)\]:(.*)$")
_RANK_MARK = re.compile(r"^\[rank\d+\]: ?")  # torch puts it before the lines of a traceback
_EXIT = re.compile(r"^ *rank *: (\d+) \(local_rank.*\n *exitcode *: (-?\d+)", re.MULTILINE)  # torchrun's report
_SAID = re.compile(r"^error: (.+)$")  # how the trainer names an error that its caller can mend


class LaunchError(CsmError):
    """The trainer failed; `tail` holds the last lines of its traceback, `logs` is the folder of all that it printed."""

    def __init__(self, message: str, *, tail: list[str], logs: Path) -> None:
        super().__init__(message)
        self.tail = tail
        self.logs = logs


def worker_line(line: str) -> tuple[int, str] | None:
    """Rank and text of a line that a worker printed through its agent; None for a line of the agent's own."""
    match = _WORKER_LINE.match(line)
    return (int(match[1]), match[2]) if match else None


def failure(workers: list[str], agents: list[str], folder: Path) -> CsmError:
    """The error that the workers died of.

    Args:
        workers: last lines that the workers wrote, one worker after another.
        agents: last lines that the agents wrote.
        folder: where all of it is.
    """
    workers = [_RANK_MARK.sub("", line) for line in workers]
    if own := error_from(workers):
        return own
    if said := [match[1] for line in workers if (match := _SAID.match(line))]:
        return LaunchError(said[-1], tail=said, logs=folder)
    block = cause(workers)
    exits = [(int(rank), int(code)) for rank, code in _EXIT.findall("\n".join(agents))]
    killed = [(rank, -code) for rank, code in exits if code < 0 and -code != signal.SIGTERM]
    if block and not is_echo(block):
        last = block[-1]
    elif killed:
        rank, number = killed[0]
        last = f"rank {rank} was killed by {signal.Signals(number).name}" + (
            " (out of memory, or by hand)" if number == signal.SIGKILL else ""
        )
    elif block:
        last = block[-1]
    elif exits:
        last = "rank {} ended with exit code {}".format(*exits[0])
    else:
        last = " ".join(agents[-1:]) or "it printed nothing"
    return LaunchError(
        f"training failed: {last.strip()}; all that it printed is in {folder}",
        tail=block[-40:],
        logs=folder,
    )
