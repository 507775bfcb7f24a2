"""Noticing that Triton stops. It tells its models only after their last stream has ended, which may be too late.

On SIGTERM Triton closes its HTTP port within a second, lets live streams go on until its exit timeout, and then exits
under them, without a word to their callers. So the model watches that port while it has live streams, and ends them in
time. From that SIGTERM on Triton takes no more text for a live stream either: so `csm serve` tells the model first, by
a file (`csm_serving.server.life`), and Triton when nothing is live.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

_PERIOD_S = 0.25
_REFUSALS = 2
"""So many refused connections in a row mean that the port is closed for good."""


def reachable(host: str) -> str:
    """The address at which a server that listens on `host` is found from this machine."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


class PortWatch:
    """Calls `on_closed` once, from its own thread, when a port that was open refuses connections, or it is `told`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        busy: Callable[[], bool],
        on_closed: Callable[[], object],
        told: Callable[[], bool] = lambda: False,
    ) -> None:
        self._address = (reachable(host), port)
        self._busy = busy
        self._on_closed = on_closed
        self._told = told
        self._was_open = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="csm-watch", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Looks at once whether the port is open, if it was not yet: it must have been, to be found closed."""
        if not self._was_open:
            self._was_open = self._is_open() is True

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        refusals = 0
        while refusals < _REFUSALS:
            if self._stopped.wait(_PERIOD_S):
                return
            if self._told():
                break
            if not self._was_open:
                self.look()
            elif self._busy():  # else there is nobody to save: Triton will say so itself
                refusals = refusals + 1 if self._is_open() is False else 0
        self._on_closed()

    def _is_open(self) -> bool | None:
        """None where it cannot be told: a busy machine is not a closed port."""
        try:
            socket.create_connection(self._address, timeout=_PERIOD_S).close()
        except ConnectionRefusedError:
            return False
        except OSError:
            return None
        return True
