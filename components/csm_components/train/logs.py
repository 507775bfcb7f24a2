"""Lines of rank 0 among all that agents print."""

from __future__ import annotations

import re

KEPT_LINES = 400
"""Of each output, the last so many are kept."""
_WORKER_LINE = re.compile(r"^\[[^\]]*?(\d+)\]:(.*)$")


def worker_line(line: str) -> tuple[int, str] | None:
    """Rank and text of a line that a worker printed through its agent; None for a line of the agent's own."""
    match = _WORKER_LINE.match(line)
    return (int(match[1]), match[2]) if match else None
