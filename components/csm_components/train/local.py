"""Agents as processes of this machine: torchx's `local_cwd`.

"2x1" is two agents of one worker each, joined over loopback by gloo: the cheapest true multi-node run.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from torchx.runner import get_runner
from torchx.specs import AppState

from csm_components.train.app import LaunchSpec, build_app
from csm_components.train.failures import cause, forget, left
from csm_components.train.guard import CORES_VARIABLE, ERRORS_VARIABLE, STOP_SECONDS, guarded_children, tell
from csm_components.train.logs import KEPT_LINES, worker_line
from csm_components.train.signals import kept_handlers, stop_on_signals

_GRACE_SECONDS = 20.0
"""What the other agents get to notice that one has failed."""


def launch(
    spec: LaunchSpec,
    *,
    on_line: Callable[[str], None] | None = None,
    on_tick: Callable[[], None] | None = None,
    poll_seconds: float = 0.5,
) -> None:
    """Runs the application to its end.

    SIGTERM is passed on to the workers, which save and end; then it ends this process with 143.

    Args:
        on_line: called with each line that rank 0 prints.
        on_tick: called at each poll.

    Raises:
        CsmError: of the trainer's own type where it raised one; `LaunchError` for anything else that ended it.
    """
    errors = str(spec.log_dir.absolute() / "errors")
    forget(errors)
    spec = replace(spec, env={**spec.env, ERRORS_VARIABLE: errors})
    app = build_app(spec, rendezvous_port=_free_port())
    spec.log_dir.mkdir(parents=True, exist_ok=True)
    with kept_handlers(), get_runner() as runner:
        dryrun = runner.dryrun(app, "local_cwd", cfg={"log_dir": str(spec.log_dir)})
        stop_on_signals()
        _spread_over_cores(dryrun.request, spec)
        handle = runner.schedule(dryrun)
        try:
            _watch(runner, handle, errors, on_line=on_line, on_tick=on_tick, poll_seconds=poll_seconds)
        except SystemExit:
            tell(guarded_children(), signal.SIGTERM)
            _await_end(runner, handle)
            raise
        finally:
            runner.cancel(handle)


def _watch(
    runner: Any,
    handle: str,
    errors: str,
    *,
    on_line: Callable[[str], None] | None,
    on_tick: Callable[[], None] | None,
    poll_seconds: float,
) -> None:
    tails: _Tails | None = None
    failing_since: float | None = None
    while True:
        status = runner.status(handle)
        assert status is not None, "the local scheduler knows the application that it started"
        tails = tails or _Tails(Path(urlparse(status.ui_url).path))
        for line in tails.new_lines():
            said = worker_line(line)
            if said and said[0] == 0 and on_line:
                on_line(said[1])
        if on_tick:
            on_tick()
        if status.is_terminal():
            break
        if status.structured_error_msg not in ("", "<NONE>"):
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > _GRACE_SECONDS:
                break
        time.sleep(poll_seconds)
    if status.state != AppState.SUCCEEDED:
        raise cause(left(errors), tails.folder, tails.last_line())


def _await_end(runner: Any, handle: str) -> None:
    """Waits while the workers save; torchx itself would kill them after ten seconds."""
    until = time.monotonic() + STOP_SECONDS
    while time.monotonic() < until:
        status = runner.status(handle)
        if status is None or status.is_terminal():
            return
        time.sleep(0.2)


class _Tails:
    """Follows what all agents print; keeps the last lines of each file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets: dict[Path, int] = {}
        self._rests: dict[Path, str] = {}
        self._kept: dict[Path, deque[str]] = {}

    def new_lines(self) -> Iterator[str]:
        """Lines that came since the last call."""
        for file in sorted(self.folder.glob("*/*/std*.log")):
            if file.parent.parent.name == "torchelastic":  # torchrun's own copies of the same lines
                continue
            with file.open("rb") as stream:
                stream.seek(self._offsets.get(file, 0))
                data = stream.read()
            self._offsets[file] = self._offsets.get(file, 0) + len(data)
            *lines, rest = (self._rests.get(file, "") + data.decode(errors="replace")).split("\n")
            self._rests[file] = rest
            kept = self._kept.setdefault(file, deque(maxlen=KEPT_LINES))
            for line in lines:
                kept.append(line)
                yield line

    def last_line(self) -> str:
        """The last line of all."""
        return next(
            (line for file in sorted(self._kept, reverse=True) for line in reversed(self._kept[file]) if line), ""
        )


def _core_shares(agents: int) -> list[list[int]]:
    """The cores of each agent: equal shares of what this process may use; none where they do not suffice."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // agents
    return [cores[agent * share : (agent + 1) * share] for agent in range(agents)] if share else []


def _spread_over_cores(request: Any, spec: LaunchSpec) -> None:
    """Gives each replica of the local request its own cores (a torchx role has one environment for all replicas)."""
    shares = _core_shares(spec.agents) if spec.pin else []
    for replicas in request.role_params.values():
        for replica, share in zip(replicas, shares, strict=False):
            replica.env[CORES_VARIABLE] = ",".join(str(core) for core in share)
            replica.env.setdefault("OMP_PROC_BIND", "true")  # without shares, it binds every worker to the first core


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
