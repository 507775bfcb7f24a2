"""Follows what the pods of a job print: each pod in a thread of its own, each line once, through broken streams.

A stream that breaks is taken up again at the time of its last line. A pod that takes another's place (a restart) has
its own file. Rank 0 may be on any pod, since a rendezvous deals ranks out as agents come.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

from csm_components.cluster import Cluster, ClusterError
from csm_components.train.logs import KEPT_LINES, worker_line
from csm_model.errors import MissingDependencyError

_AGAIN_SECONDS = 1.0


class Follower:
    """What pods print, as files and as lines of rank 0.

    Args:
        cluster: where the pods are.
        folder: for a file a pod.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self.folder = cluster, folder
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self._kept: dict[str, deque[str]] = {}
        self._ended: set[str] = set()
        self._closed = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)

    def look(self, pods: list[dict[str, Any]]) -> None:
        """Begins to follow the pods that have begun, and notes those that have ended or gone."""
        there = set()
        for pod in pods:
            meta, phase = pod["metadata"], pod.get("status", {}).get("phase")
            name, uid = str(meta["name"]), str(meta["uid"])
            there.add(uid)
            if phase in ("Succeeded", "Failed"):
                self._ended.add(uid)
            if phase in ("Running", "Succeeded", "Failed") and uid not in self._threads:
                self._kept[uid] = deque(maxlen=KEPT_LINES)
                thread = threading.Thread(target=self._follow, args=(name, uid), daemon=True, name=f"log of {name}")
                self._threads[uid] = thread
                thread.start()
        self._ended |= set(self._threads) - there

    def new_lines(self) -> list[str]:
        """What rank 0 printed since the last call."""
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return lines

    def finish(self, seconds: float = 10.0) -> None:
        """Waits until the logs of pods that have ended are whole."""
        until = time.monotonic() + seconds
        for uid, thread in self._threads.items():
            if uid in self._ended:
                thread.join(timeout=max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Follows nothing any more."""
        self._closed.set()

    def last_lines(self) -> tuple[list[str], list[str]]:
        """The last lines of the workers, one worker after another, and those of the agents."""
        workers: dict[tuple[str, int], list[str]] = {}
        agents = []
        for uid, kept in self._kept.items():
            for line in list(kept):
                said = worker_line(line)
                if said is None:
                    agents.append(line)
                else:
                    workers.setdefault((uid, said[0]), []).append(said[1])
        return [line for lines in workers.values() for line in lines], agents

    def _follow(self, name: str, uid: str) -> None:
        since, last, seen = "", ("", ""), 0  # the last line's time, and how many lines of that very time have come
        with (self.folder / f"{name}-{uid[:8]}.log").open("w", encoding="utf-8") as file:
            while not self._closed.is_set():
                was_over = uid in self._ended
                again = 0
                try:
                    for stamp, line in self._cluster.log(name, since=since):
                        moment = _moment(stamp)
                        if moment < last:
                            continue
                        if moment == last:
                            again += 1
                            if again <= seen:
                                continue
                            seen = again
                        else:
                            since, last, seen, again = stamp, moment, 1, 1
                        self._take(uid, line, file)
                except ClusterError as error:
                    if error.code == 404:  # it was removed; what it printed last is lost
                        return
                except MissingDependencyError:
                    pass
                else:
                    if was_over:
                        return
                self._closed.wait(_AGAIN_SECONDS)

    def _take(self, uid: str, line: str, file: TextIO) -> None:
        file.write(f"{line}\n")
        file.flush()
        self._kept[uid].append(line)
        said = worker_line(line)
        if said and said[0] == 0:
            self._lines.put(said[1])


def _moment(stamp: str) -> tuple[str, str]:
    """A time such as 2026-11-28T14:00:00.12Z as what can be compared: it comes without the zeros at its end."""
    seconds, _, fraction = stamp.removesuffix("Z").partition(".")
    return seconds, fraction.ljust(9, "0")
