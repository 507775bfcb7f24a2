"""How many processes train, written AGENTSxWORKERS."""

from __future__ import annotations

import re

from csm_model.errors import InputError


def parse_nodes(nodes: str) -> tuple[int, int]:
    """Agents, and workers of each; raises `InputError` for anything but AGENTSxWORKERS."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", nodes)
    if not match:
        raise InputError(f"nodes {nodes!r}: must be AGENTSxWORKERS, such as 2x1")
    return int(match[1]), int(match[2])
