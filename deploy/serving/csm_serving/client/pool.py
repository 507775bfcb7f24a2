"""A client's connections: a few channels, each with a bounded number of streams, over one server or several.

HTTP/2 bounds the streams of a connection (proxies at about 100), and one connection ends at one server: more streams
than a channel's share open another channel. A channel whose server failed gets no new stream and is closed after its
last one, so that the next attempt resolves the name and connects anew. Thread-safe.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from csm_model.errors import InputError
from csm_serving.wire.errors import UnavailableError

_SHUN_S = 2.0
"""Seconds for which a server that failed is passed over, where there is another."""
C = TypeVar("C")


@dataclass(eq=False)
class Lease(Generic[C]):
    """A channel, while a stream holds it."""

    url: str
    channel: C
    streams: int = 0
    broken: bool = False


class Pool(Generic[C]):
    """Channels to the servers at `urls` (`host:port`), taken in turn; `connect` makes one, without waiting for it."""

    def __init__(
        self,
        urls: Sequence[str],
        connect: Callable[[str], C],
        *,
        streams_per_channel: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not urls or not all(urls):
            raise InputError(f"addresses {list(urls)}: give at least one host:port")
        if streams_per_channel < 1:
            raise InputError(f"streams_per_channel {streams_per_channel}: must be at least 1")
        self._turn = itertools.count()
        self._urls = tuple(urls)
        self._connect = connect
        self._most = streams_per_channel
        self._clock = clock
        self._failed = dict.fromkeys(urls, float("-inf"))
        self._leases: list[Lease[C]] = []
        self._closed = False
        self._lock = threading.Lock()

    @property
    def channels(self) -> int:
        """Channels that are open now."""
        return len(self._leases)

    def take(self) -> Lease[C]:
        """A channel with room, of the next server that has not just failed; raises `UnavailableError` when closed."""
        with self._lock:
            if self._closed:
                raise UnavailableError("the client is closed; make another one")
            url = self._next()
            lease = next(
                (held for held in self._leases if held.url == url and not held.broken and held.streams < self._most),
                None,
            )
            if lease is None:
                self._leases.append(lease := Lease(url, self._connect(url)))
            lease.streams += 1
            return lease

    def give_back(self, lease: Lease[C], *, broken: bool) -> C | None:
        """Ends a stream's hold of its channel; returns a channel that the caller must close, or None."""
        with self._lock:
            lease.streams -= 1
            if broken:
                lease.broken = True
                self._failed[lease.url] = self._clock()
            spare = any(held is not lease and held.url == lease.url and not held.broken for held in self._leases)
            if lease.streams or lease not in self._leases or not (lease.broken or spare):
                return None
            self._leases.remove(lease)
            return lease.channel

    def close(self) -> list[C]:
        """Gives out no more channels; returns those that the caller must close."""
        with self._lock:
            self._closed = True
            channels = [lease.channel for lease in self._leases]
            self._leases.clear()
            return channels

    def _next(self) -> str:
        now, first = self._clock(), next(self._turn) % len(self._urls)
        urls = self._urls[first:] + self._urls[:first]
        return next((url for url in urls if now - self._failed[url] > _SHUN_S), min(urls, key=self._failed.__getitem__))
