"""Models that die under live streams: two servers of `csm serve` whose models are killed in turn, and one alone.

Triton itself lives on when its model's process is killed, and says that it is well. What is asked here is that somebody
notices: the server goes red, is started again, and its streams go on elsewhere from their last frame.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csm_model.errors import CsmError
from csm_serving.client import SpeechClient
from csm_serving.client.retry import NEVER, Retry
from csm_serving.server.life import FOLDER, signs_in
from csm_serving.wire.protocol import SpeechRequest

from .listeners import Taken, hear
from .table import Row, told

GAP_S, RED_S, AGAIN_S = 5.0, 5.0, 30.0
_PATIENT = Retry(attempts=10_000, first_s=0.05, most_s=0.5, budget_s=120.0, busy=True)
_SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL)
_SERVE = """
import json, sys
from pathlib import Path
from csm_serving.launcher.triton import serve
from csm_serving.settings import load_settings
say = lambda triton: print(json.dumps([triton.url, triton.http_url]), flush=True)
bundle, settings, folder = Path(sys.argv[1]), load_settings(**json.loads(sys.argv[2])), Path(sys.argv[3])
sys.exit(serve(bundle, settings=settings, folder=folder, on_ready=say))
"""


class Served:
    """A server that is started again by who started it."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        assert process.stdout is not None
        self.process, self.folder = process, folder
        self.url, http_url = json.loads(process.stdout.readline())
        self._http = http_url.removeprefix("http://")

    @property
    def green(self) -> bool:
        """Whether it says that it is ready, or at least alive."""
        return any(self._ok(path) for path in ("/v2/models/csm/ready", "/v2/health/ready", "/v2/health/live"))

    @property
    def ready(self) -> bool:
        """Whether it says that its model is ready."""
        return self._ok("/v2/models/csm/ready")

    def kill(self, how: signal.Signals) -> float:
        """Kills its model; returns the seconds until nothing of it is green."""
        began = time.perf_counter()
        os.kill(next(signs_in(self.folder / FOLDER)).pid, how)
        while self.green:
            time.sleep(0.02)
        return time.perf_counter() - began

    def _ok(self, path: str) -> bool:
        connection = http.client.HTTPConnection(self._http, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def serving(bundle: Path, folder: Path, **given: Any) -> Iterator[Served]:
    """A server in a process of its own; `given` are settings."""
    settings = {"grpc_port": 0, "http_port": 0, "metrics_port": 0} | given
    command = [sys.executable, "-c", _SERVE, str(bundle), json.dumps(settings, default=str), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Served(process, folder)
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


@dataclass(kw_only=True)
class Killed:
    """What came of it."""

    wanted: dict[int, bytes]
    """What each stream says undisturbed, by its seed."""
    streams: list[Taken] = field(default_factory=list)
    retries: int = 0
    red_s: list[float] = field(default_factory=list)
    """Of each kill, the seconds until the server was not green any more."""
    again_s: list[float] = field(default_factory=list)
    """Of each kill of a server alone, the seconds until it spoke."""

    @property
    def gaps(self) -> list[float]:
        """The longest wait for a chunk, of each stream."""
        return [max((b - a for a, b in zip(s.arrived, s.arrived[1:], strict=False)), default=0.0) for s in self.streams]

    @property
    def wrong(self) -> list[Taken]:
        """Streams that were not as undisturbed."""
        return [s for s in self.streams if s.end is None or s.sound != self.wanted[s.request.seed]]


def run(
    bundle: Path, requests: Sequence[SpeechRequest], folder: Path, *, kills: int, alone: int, **given: Any
) -> Killed:
    """`kills` kills under as many live streams as there are requests, on two servers; then some of one alone.

    Args:
        bundle: what speaks.
        requests: the streams, over and over, each of a seed of its own.
        folder: for the servers' own.
        kills: of the two models, in turn, each when both servers are well.
        alone: of one that is alone.
        given: settings of both.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(bundle, folder / str(n), turn_key="7" * 64, **given)) for n in range(2)]
        done = Killed(wanted={})
        with SpeechClient([servers[0].url], retry=NEVER, raw=True) as client:
            for request in requests:
                undisturbed = hear(client, request)
                assert undisturbed.end, undisturbed.failure
                done.wanted[request.seed] = undisturbed.sound
        stopped = threading.Event()
        threads = [
            threading.Thread(target=_listen, args=([server.url for server in servers], request, done, stopped))
            for request in requests
        ]
        for thread in threads:
            thread.start()
        for number in range(kills):
            while not all(server.ready for server in servers):
                time.sleep(0.1)
            time.sleep(0.5)  # so that streams are live on both
            done.red_s.append(servers[number % 2].kill(_SIGNALS[number % len(_SIGNALS)]))
        stopped.set()
        for thread in threads:
            thread.join()
        for number in range(alone):
            while not servers[0].ready:
                time.sleep(0.1)
            done.red_s.append(servers[0].kill(_SIGNALS[number % len(_SIGNALS)]))
            done.again_s.append(_until_it_speaks(servers[0].url, requests[0]))
    return done


def _listen(urls: Sequence[str], request: SpeechRequest, done: Killed, stopped: threading.Event) -> None:
    with SpeechClient(urls, retry=_PATIENT, raw=True) as client:
        while not stopped.is_set():
            taken = hear(client, request)
            done.retries += taken.retries
            done.streams.append(taken)


def _until_it_speaks(url: str, request: SpeechRequest) -> float:
    began = time.perf_counter()
    with SpeechClient(url, retry=NEVER, raw=True) as client:
        while True:
            stream = client.open(request)
            try:
                next(stream)
                return time.perf_counter() - began
            except CsmError:
                time.sleep(0.1)
            finally:
                stream.close()


def rows_of(done: Killed) -> list[Row]:
    """The table's lines."""
    for taken in done.wrong[:10]:
        print(f"  !! {taken.failure}, {len(taken.codes)} frames")
    gaps = done.gaps
    return [
        told("kills: kills, streams, calls made again", f"{len(done.red_s)}, {len(done.streams)}, {done.retries}"),
        Row(
            what="kills: streams that did not end with their undisturbed frames",
            reach="0",
            found=f"{len(done.wrong)} of {len(done.streams)}",
            met=bool(done.streams) and not done.wrong,
        ),
        Row(
            what="kills: longest wait for a chunk, s",
            reach=f"{GAP_S:g} at most",
            found=f"{max(gaps, default=0):.2f}",
            met=max(gaps, default=0) <= GAP_S,
        ),
        Row(
            what="kills: health and readiness red after, s",
            reach=f"{RED_S:g} at most",
            found=f"most {max(done.red_s):.2f}",
            met=max(done.red_s) <= RED_S,
        ),
        Row(
            what="kills: alone, it speaks again after, s",
            reach=f"{AGAIN_S:g} at most",
            found=f"most {max(done.again_s):.1f} of {len(done.again_s)}",
            met=max(done.again_s) <= AGAIN_S,
        ),
    ]
