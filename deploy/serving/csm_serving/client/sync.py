"""The client of a served model, for threads; `csm_serving.client.aio` is its twin for asyncio. It needs no torch."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from csm_model.errors import CsmError
from csm_serving.client import calls
from csm_serving.client.access import Access
from csm_serving.client.exchange import Exchange
from csm_serving.client.pool import Lease, Pool
from csm_serving.client.retry import Retry
from csm_serving.client.speech import SpeechService, SpeechStream
from csm_serving.wire.defaults import CHUNK_TIMEOUT_S, CONNECT_TIMEOUT_S
from csm_serving.wire.errors import UnavailableError
from csm_serving.wire.protocol import Chunk, End, SpeechRequest

_END_TIMEOUT_S = 2.0
_WAKE = object()


class SpeechClient(SpeechService):
    """Speaks through the servers at `url` (`host:port` of their gRPC). Several threads may hold streams at once.

    Streams go to the servers in turn. One that broke off goes on, from the frame after the last that came, at the next
    server that answers, as often as `retry` says; its iterator shows nothing of it.

    Args:
        url: one address or several.
        retry: when to ask again; `csm_serving.client.retry.NEVER` for not at all.
        chunk_timeout_s: seconds without a chunk after which a server counts as gone.
        connect_timeout_s: seconds to wait for a server to answer at all.
        streams_per_channel: streams of one connection; more open another one.
        raw: hand sound out as the bytes that came (`Chunk.encoded`), undecoded, to be forwarded.
        tls, ca, client_cert, token: how it makes sure of the servers and says who it is; see `Access`.
    """

    def __init__(
        self,
        url: str | Sequence[str] = calls.DEFAULT_URL,
        *,
        retry: Retry | None = None,
        chunk_timeout_s: float = CHUNK_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        streams_per_channel: int = 64,
        raw: bool = False,
        tls: bool = False,
        ca: Path | str | None = None,
        client_cert: tuple[Path | str, Path | str] | None = None,
        token: str | None = None,
    ) -> None:
        calls.check_seconds(chunk_timeout_s=chunk_timeout_s, connect_timeout_s=connect_timeout_s)
        self.urls = calls.addresses(url)
        self._access = Access(tls=tls, ca=ca, client_cert=client_cert, token=token)
        self._retry = retry or Retry()
        self._raw = raw
        self._chunk_timeout_s = chunk_timeout_s
        connect = functools.partial(_connect, access=self._access, connect_timeout_s=connect_timeout_s)
        self._pool: Pool[grpc.Channel] = Pool(self.urls, connect, streams_per_channel=streams_per_channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; streams still open end with `UnavailableError`."""
        for channel in self._pool.close():
            channel.close()

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        """The stream that answers `request`, whose text `parts` continue as they come.

        `UnavailableError` and others come while iterating. An exception of `parts` cancels the stream and is raised
        there too.
        """
        exchange = Exchange(
            request,
            retry=self._retry,
            chunk_timeout_s=self._chunk_timeout_s,
            more=parts is not None,
            raw=self._raw,
        )
        speaking = _Speaking(self._pool, exchange, parts, self._access)
        return SpeechStream(speaking.responses(), cancel=speaking.cancel, retries=lambda: exchange.retries)


def _connect(url: str, access: Access, connect_timeout_s: float) -> grpc.Channel:
    options = calls.channel_options(url, connect_timeout_s)
    if (credentials := access.credentials()) is not None:
        return grpc.secure_channel(url, credentials, options=options)
    return grpc.insecure_channel(url, options=options)


class _Speaking:
    """A stream while it runs: the call it is in, and a thread that brings its text."""

    def __init__(
        self, pool: Pool[grpc.Channel], exchange: Exchange, parts: Iterable[str] | None, access: Access
    ) -> None:
        self._pool = pool
        self._exchange = exchange
        self._parts = parts
        self._access = access
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._call: Any = None
        self._ends = False
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def cancel(self) -> None:
        """Ends the stream, from any thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._arrived.put(_WAKE)
            call = None if self._ends else self._call
        if call is not None:
            call.cancel()

    def responses(self) -> Generator[Chunk | End, None, None]:
        """The chunks, then the end."""
        if self._parts is not None:
            threading.Thread(target=self._feed, args=(self._parts,), name="csm-client-text", daemon=True).start()
        try:
            while not self._is_over():
                lease, broken, wait_s = self._pool.take(), False, 0.0
                try:
                    yield from self._answers(lease)
                except CsmError as error:
                    if error is self._failure:
                        raise
                    broken = isinstance(error, UnavailableError)
                    wait_s = self._exchange.again_in(error)
                finally:
                    if (channel := self._pool.give_back(lease, broken=broken)) is not None:
                        channel.close()
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, timeout=wait_s)
        finally:
            self.cancel()
        if self._exchange.end is not None:
            yield self._exchange.end

    def _answers(self, lease: Lease[grpc.Channel]) -> Generator[Chunk, None, None]:
        """The chunks of one call."""
        exchange = self._exchange
        with self._changed:
            outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
            arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._outbox, self._arrived = outbox, arrived
            for message in exchange.begin():
                outbox.put(message)
            self._send()
            self._changed.notify_all()
            try:
                ask = calls.infer_stream(lease.channel)
                call = ask(iter(outbox.get, None), timeout=exchange.timeout_s, metadata=self._access.metadata)
            except ValueError:  # grpc's word for a closed channel
                raise UnavailableError("the client is closed; make another one") from None
            self._call, self._ends = call, False
        threading.Thread(target=self._collect, args=(call, arrived), name="csm-client", daemon=True).start()
        try:
            while not exchange.over and not self._closed:
                try:
                    answer = arrived.get(timeout=exchange.poll_s)
                except queue.Empty:
                    with self._changed:
                        exchange.check(lease.url)
                    continue
                if self._failure is not None:
                    raise self._failure
                if answer is None:
                    raise UnavailableError(f"{lease.url} closed the stream before the turn was over; ask again")
                if isinstance(answer, grpc.RpcError):
                    if not self._closed:
                        raise calls.error_of(answer, lease.url, encrypted=self._access.encrypted)
                elif answer is not _WAKE:
                    with self._changed:
                        item = exchange.take(answer, lease.url)
                        self._send()
                        self._changed.notify_all()
                    if isinstance(item, Chunk):
                        yield item
        finally:
            outbox.put(None)  # a server cannot exit while a call's sending side is open
            if self._ends:
                _let_end(call, arrived)
            else:
                call.cancel()

    def _collect(self, call: Any, arrived: queue.SimpleQueue[Any]) -> None:
        """Takes responses off the wire as they come, so that a slow reader holds up nobody; then None or the error."""
        try:
            for response in call:
                if Exchange.is_last(response) and arrived is self._arrived:
                    self._ends = True
                arrived.put(response)
            arrived.put(None)
        except grpc.RpcError as error:
            arrived.put(error)

    def _is_over(self) -> bool:
        return self._closed or self._exchange.end is not None

    def _send(self) -> None:
        """Puts what may go now into the call."""
        for message in self._exchange.due():
            self._outbox.put(message)

    def _feed(self, parts: Iterable[str]) -> None:
        """Offers the text as it comes, no faster than the server takes it."""
        try:
            for text in parts:
                with self._changed:
                    self._exchange.offer(text)
                    self._send()
                    self._changed.wait_for(lambda: self._is_over() or not self._exchange.full)
                    if self._is_over():
                        return
            with self._changed:
                self._exchange.finish()
                self._send()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
                self._arrived.put(_WAKE)


def _let_end(call: Any, arrived: queue.SimpleQueue[Any]) -> None:
    """Waits for the end of a call whose last response came: Triton 2.51 leaks a stream that is cancelled just then."""
    try:
        while isinstance(arrived.get(timeout=_END_TIMEOUT_S), calls.ANSWER):
            pass
    except queue.Empty:
        call.cancel()
