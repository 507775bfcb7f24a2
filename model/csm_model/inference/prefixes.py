"""Voice prompts that were read once: their keys and values, copied into every slot that begins with them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from csm_model.errors import InputError
from csm_model.inference.decoding import KeptRows, Prompt


class PrefixCache:
    """Rows by what they were read from; the ones that were not used for longest go when there is no more room.

    Args:
        room: the most memory that all of them may take, in bytes; 0 keeps none.
    """

    def __init__(self, room: int) -> None:
        if room < 0:
            raise InputError(f"room {room} for voice prompts: must be 0 (none are kept) bytes or more")
        self.room = room
        self.hits = self.misses = 0
        self._rows: OrderedDict[bytes, KeptRows] = OrderedDict()
        self._bytes = 0

    def get(self, prompt: Prompt) -> KeptRows | None:
        """The rows of a prompt, or None."""
        key = _key(prompt)
        rows = self._rows.get(key)
        if rows is None:
            self.misses += 1
            return None
        self.hits += 1
        self._rows.move_to_end(key)
        return rows

    def add(self, prompt: Prompt, rows: KeptRows) -> None:
        """Keeps the rows of a prompt."""
        key = _key(prompt)
        if key in self._rows or rows.bytes > self.room:
            return
        self._rows[key] = rows
        self._bytes += rows.bytes
        while self._bytes > self.room:
            _, gone = self._rows.popitem(last=False)
            self._bytes -= gone.bytes


def _key(prompt: Prompt) -> bytes:
    total = hashlib.sha256()
    for part in prompt.guided():
        total.update(part.contiguous().numpy().tobytes())
    return total.digest()
