"""How many failures of the model itself a server stands, before it is taken for broken and started again.

A stream that breaks is no matter of the server's. A step that breaks has taken all its streams with it, whoever asked
for what; so has, for its caller, a prompt that the model cannot read. One may be an accident, several in a row are not.
A prompt alone could be some caller's doing: what spoke since shows that the server is well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from csm_model.errors import words_of

MOST: Final = 5
"""So many failures in a row, or so many broken steps within `WITHIN_S`, are no accident."""
WITHIN_S: Final = 60.0


class FailureBudget:
    """What may still go wrong; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_a_row = 0
        self._steps: deque[float] = deque(maxlen=MOST)

    def worked(self) -> None:
        """A step was made."""
        self._in_a_row = 0

    def failed(self, error: Exception, *, step: bool) -> str | None:
        """A step broke, or the reading of a prompt; why the server is broken where that is too much."""
        now = self._clock()
        self._in_a_row += 1
        if step:
            self._steps.append(now)
        what = " ".join(f"{type(error).__name__}: {words_of(error)}".split())[:200]
        if self._in_a_row >= MOST:
            return f"the model failed {self._in_a_row} times in a row, the last time with {what}"
        if len(self._steps) == MOST and now - self._steps[0] <= WITHIN_S:
            return f"{MOST} steps broke within {WITHIN_S:g} s, the last one with {what}"
        return None
