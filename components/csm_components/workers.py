"""Worker processes that start clean and leave when their parent dies, also when it was killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from csm_model.errors import CsmError

Task = TypeVar("Task")
Result = TypeVar("Result")


def _leave_with_parent() -> None:
    """Ends this process when its parent is gone: a pool's workers hold both ends of its pipes and would stay."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def _start(initializer: Callable[[], None] | None) -> None:
    _leave_with_parent()
    if initializer is not None:
        initializer()


def run_parallel(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yields `function(task)` for every task as each is done, in any order.

    One worker means this process, and no pool. Processes are spawned, so that no thread or lock of this one is copied.
    The first error of a task is raised; tasks not yet begun are then dropped.
    """
    if workers <= 1:
        if initializer is not None:
            initializer()
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start, initargs=(initializer,)
    )
    try:
        for job in as_completed([pool.submit(function, task) for task in tasks]):
            yield job.result()
    except BrokenProcessPool:
        raise CsmError(
            "a worker process died, most likely for want of memory; run the step again with fewer workers, "
            "it goes on from what is committed"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
