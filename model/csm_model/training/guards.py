"""What keeps a training from spoiling itself: a step whose loss is no number, or leaps, is not taken."""

from __future__ import annotations

import math
import signal
import statistics
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Self

from csm_model.errors import CsmError

_HISTORY = 64
_ENOUGH = 16
_LEAST_LEAP = 1.0  # nats; below, nothing is a leap, however quiet the history


CURE = "lower learning_rate or look at the data, and go on from the last checkpoint"


class DivergedError(CsmError):
    """Too many steps in a row could not be taken, or what was learnt is no number."""


class SpikeGuard:
    """Judges each step by its loss and its gradient norm.

    A loss is a spike where it lies more than `factor` robust deviations (1.4826 times the median absolute deviation)
    and more than one nat above the median of the last 64 steps taken.

    Args:
        factor: how many deviations; 0 lets every finite loss pass.
        limit: so many steps in a row may be skipped.
        history: the losses that an earlier run took.
    """

    def __init__(self, *, factor: float, limit: int, history: Sequence[float] | None = None) -> None:
        self.factor, self.limit = factor, limit
        self.history = list(history or [])
        self.in_a_row = 0
        """Steps that were just refused, one after another."""
        self.reason = ""
        """Why the last of them was."""
        self.lost = False
        """Whether one of them had no finite loss or gradient."""

    def refuses(self, loss: float, norm: float) -> str | None:
        """Why a step must not be taken; None where it may.

        Raises:
            DivergedError: more than `limit` steps in a row were refused.
        """
        reason = self._reason(loss, norm)
        if reason is None:
            self.in_a_row, self.reason, self.lost = 0, "", False
            self.history = [*self.history, loss][-_HISTORY:]
            return None
        self.in_a_row += 1
        self.reason = reason
        self.lost |= not (math.isfinite(loss) and math.isfinite(norm))
        if self.in_a_row > self.limit:
            raise DivergedError(self._diverged())
        return reason

    def check_end(self) -> None:
        """Raises `DivergedError` where a training ends in steps that were not taken; one leap alone is a bad pack."""
        if self.lost or self.in_a_row > 1:
            raise DivergedError(self._diverged())

    def _diverged(self) -> str:
        steps = f"{self.in_a_row} steps in a row" if self.in_a_row > 1 else "the step"
        return f"{steps} could not be taken, the last because {self.reason}: {CURE}"

    def _reason(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        if not self.factor or len(self.history) < _ENOUGH:
            return None
        middle = statistics.median(self.history)
        deviation = 1.4826 * statistics.median(abs(each - middle) for each in self.history)
        bound = middle + max(_LEAST_LEAP, self.factor * deviation)
        return f"the loss {loss:.3f} leaps above {bound:.3f}" if loss > bound else None


class StopSignal:
    """Notes SIGTERM from now on, so that the step at hand can be finished and saved."""

    def __init__(self) -> None:
        self.asked = False
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the signal back."""
        signal.signal(signal.SIGTERM, self._before)
