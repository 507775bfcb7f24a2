"""When a client asks again for a stream that could not begin, or broke off in the middle."""

from __future__ import annotations

import random
from dataclasses import dataclass

from csm_model.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often, and after what waits. The defaults bridge a server that hands its streams over or restarts soon.

    Asking again is safe: a stream depends on its request and seed only, and goes on after the last frame that came.
    Waits grow by 2 and are drawn evenly between 0 and their bound ("full jitter", M. Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015), so that clients of a server that fell do not come back all at once.

    Raises:
        InputError: a negative number.
    """

    attempts: int = 5
    """Times a stream may be asked for again in its life; 0: never."""
    first_s: float = 0.1
    """Bound of the first wait."""
    most_s: float = 2.0
    """Bound of every wait."""
    budget_s: float = 15.0
    """Seconds after a break in which the last attempt must begin."""
    busy: bool = False
    """Whether a server without room is asked again too, not before it said. A stream that broke off asks always."""

    def __post_init__(self) -> None:
        for name in ("attempts", "first_s", "most_s", "budget_s"):
            if not getattr(self, name) >= 0:
                raise InputError(f"retry: {name} {getattr(self, name)}: must be 0 or more")

    def wait_s(self, attempt: int, draw: random.Random) -> float:
        """Seconds to wait before attempt number `attempt`, from 0."""
        return draw.uniform(0.0, min(self.most_s, self.first_s * 2.0 ** min(attempt, 30)))


NEVER = Retry(attempts=0)
"""No second attempt."""
