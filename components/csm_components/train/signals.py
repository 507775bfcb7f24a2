"""SIGTERM and SIGINT as exceptions, so that a launcher can tell its agents."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def stop_on_signals() -> None:
    """From now on SIGTERM and SIGINT end the main thread by an exception, so that `finally` blocks stop the children.

    Called after torchx's scheduler exists, which puts handlers of its own in place (they raise a torchx type).
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Restores the signal handlers at its end (only the main thread has them)."""
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
