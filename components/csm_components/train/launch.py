"""Starts the trainer with torchx: the only module that imports it.

One `AppDef` is the whole specification. Here the scheduler is `local_cwd`, which starts the torchrun agents as
processes on this machine; the same `AppDef` is what a cluster's scheduler takes. "2x1" is two agents of one worker
each, joined over loopback by gloo: the cheapest true multi-node run.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlparse

from torchx.components import dist
from torchx.runner import get_runner
from torchx.specs import AppDef, AppState

from csm_components.failures import cause, error_from, is_echo
from csm_components.train.guard import AGENT, CORES_VARIABLE, NAME, STOP_SECONDS, guarded_children, tell
from csm_model.errors import CsmError, InputError

_WORKER_LINE = re.compile(r"^\[[^\]]*?(\d+)\]:(.*)$")
_RANK_MARK = re.compile(r"^\[rank\d+\]: ?")  # torch puts it before the lines of a traceback
_EXIT = re.compile(r"^ *rank *: (\d+) \(local_rank.*\n *exitcode *: (-?\d+)", re.MULTILINE)  # torchrun's report
_SAID = re.compile(r"^error: (.+)$")  # how the trainer names an error that its caller can mend
_KEPT_LINES = 400
_GRACE_SECONDS = 20.0
"""What the other agents get to notice that one has failed."""


class LaunchError(CsmError):
    """The trainer failed; `tail` holds the last lines of its traceback, `logs` is the folder of all that it printed."""

    def __init__(self, message: str, *, tail: list[str], logs: Path) -> None:
        super().__init__(message)
        self.tail = tail
        self.logs = logs


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What to start, and how often."""

    module: str
    """Module that each worker runs, as `python -m` would."""
    args: tuple[str, ...] = ()
    """Its arguments."""
    nodes: str = "2x1"
    """Agents x workers of each."""
    log_dir: Path
    """Folder for everything that the agents and workers print; a new folder in it for each start."""
    threads: int = 1
    """Compute threads of a worker."""
    pin: bool = True
    """Give each agent its own share of the cores, where there are enough."""
    env: Mapping[str, str] = field(default_factory=dict)
    """More environment for the workers."""

    def __post_init__(self) -> None:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", self.nodes)
        if not match:
            raise InputError(f"nodes {self.nodes!r}: must be AGENTSxWORKERS, such as 2x1")
        if self.threads < 1:
            raise InputError(f"threads {self.threads}: must be at least 1")

    @property
    def agents(self) -> int:
        """Number of torchrun agents."""
        return int(self.nodes.split("x")[0])

    @property
    def world_size(self) -> int:
        """Workers of all agents."""
        return self.agents * int(self.nodes.split("x")[1])


def build_app(spec: LaunchSpec, *, rendezvous_port: int) -> AppDef:
    """The torchx application: `dist.torchrun`, whose agents and workers both die with the process that started them."""
    env = {
        "OMP_NUM_THREADS": str(spec.threads),
        "PET_LOCAL_ADDR": "localhost",  # the host's own name need not resolve
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONUNBUFFERED": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[${rank}]:",  # torchrun's default is the rank within the agent
        **spec.env,
    }
    app = dist.torchrun(
        spec.module,
        *spec.args,
        m=NAME,
        j=spec.nodes,
        name=spec.module.rsplit(".", 1)[-1],
        env=env,
        rdzv_port=rendezvous_port,
    )
    role = app.roles[0]
    command = role.args[1]
    if role.args[0] != "-c" or not command.startswith("torchrun "):
        raise LaunchError(f"torchx built {command!r}: expected a torchrun command", tail=[], logs=spec.log_dir)
    # `exec`, so that the agent is our own child; our interpreter, so that no other torchrun on PATH is taken.
    role.args[1] = f"exec {sys.executable} -m {NAME} {AGENT} {command.removeprefix('torchrun ')}"
    return app


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
    app = build_app(spec, rendezvous_port=_free_port())
    spec.log_dir.mkdir(parents=True, exist_ok=True)
    with _kept_handlers(), get_runner() as runner:
        dryrun = runner.dryrun(app, "local_cwd", cfg={"log_dir": str(spec.log_dir)})
        _stop_on_signals()
        _spread_over_cores(dryrun.request, spec)
        handle = runner.schedule(dryrun)
        try:
            _watch(runner, handle, spec, on_line=on_line, on_tick=on_tick, poll_seconds=poll_seconds)
        except SystemExit:
            tell(guarded_children(), signal.SIGTERM)
            _await_end(runner, handle)
            raise
        finally:
            runner.cancel(handle)


def _watch(
    runner: Any,
    handle: str,
    spec: LaunchSpec,
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
            match = _WORKER_LINE.match(line)
            if match and match[1] == "0" and on_line:
                on_line(match[2])
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
        raise _failure(tails, spec)


def _await_end(runner: Any, handle: str) -> None:
    """Waits while the workers save; torchx itself would kill them after ten seconds."""
    until = time.monotonic() + STOP_SECONDS
    while time.monotonic() < until:
        status = runner.status(handle)
        if status is None or status.is_terminal():
            return
        time.sleep(0.2)


def _failure(tails: _Tails, spec: LaunchSpec) -> CsmError:
    """The error that the workers died of."""
    workers = [_RANK_MARK.sub("", line) for line in tails.worker_lines()]
    if own := error_from(workers):
        return own
    if said := [match[1] for line in workers if (match := _SAID.match(line))]:
        return LaunchError(said[-1], tail=said, logs=tails.folder)
    agents = tails.kept_lines()
    block = cause(workers)
    exits = [(int(rank), int(code)) for rank, code in _EXIT.findall("\n".join(agents))]
    killed = [(rank, -code) for rank, code in exits if code < 0 and -code != signal.SIGTERM]
    if block and not is_echo(block):
        last = block[-1]
    elif killed:
        rank, number = killed[0]
        last = f"rank {rank} was killed by {signal.Signals(number).name}" + (
            " (out of memory, or by hand)" if number == signal.SIGKILL else ""
        )
    elif block:
        last = block[-1]
    elif exits:
        last = "rank {} ended with exit code {}".format(*exits[0])
    else:
        last = " ".join(agents[-1:]) or "it printed nothing"
    return LaunchError(
        f"training failed: {last.strip()}; all that it printed is in {tails.folder}",
        tail=block[-40:],
        logs=tails.folder,
    )


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
            kept = self._kept.setdefault(file, deque(maxlen=_KEPT_LINES))
            for line in lines:
                kept.append(line)
                yield line

    def worker_lines(self) -> list[str]:
        """The last lines that each worker wrote to its standard error, from torchrun's own copies."""
        files = sorted(self.folder.glob("torchelastic/**/stderr.log"))
        return [line for file in files for line in file.read_text(errors="replace").splitlines()[-_KEPT_LINES:]]

    def kept_lines(self) -> list[str]:
        """The last lines of every file, file after file."""
        return [line for file in sorted(self._kept) for line in self._kept[file]]


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


def _stop_on_signals() -> None:
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
def _kept_handlers() -> Iterator[None]:
    """Restores the signal handlers at its end (only the main thread has them)."""
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
