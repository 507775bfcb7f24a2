"""Faults of one stream's own work, which are nobody else's matter."""

from __future__ import annotations

import threading

from csm_model.errors import words_of


def fault_of(error: BaseException) -> Exception:
    """What was raised as a stream's fault, to be kept or told; raises on what tells this process to end.

    That is Ctrl-C and the like, which come to the main thread only. A panic of a Rust library is no `Exception`
    (PyO3's PanicException), and a fault all the same.
    """
    if isinstance(error, Exception):
        return error
    if threading.current_thread() is threading.main_thread() and isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    return RuntimeError(f"{type(error).__name__}: {words_of(error)}")
