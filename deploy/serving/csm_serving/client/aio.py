"""The client of a served model, for asyncio; `csm_serving.client.sync` is its twin for threads. It needs no torch."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from csm_model.errors import CsmError
from csm_serving.client import calls
from csm_serving.client.access import Access
from csm_serving.client.audio import Listener
from csm_serving.client.exchange import Exchange
from csm_serving.client.pool import Lease, Pool
from csm_serving.client.retry import Retry
from csm_serving.client.speech import Joined, SpeechOptions, Spoken, Taking, request_of, texts_of_streams, whole_request
from csm_serving.wire.defaults import CHUNK_TIMEOUT_S, CONNECT_TIMEOUT_S
from csm_serving.wire.errors import UnavailableError
from csm_serving.wire.protocol import Chunk, End, SpeechRequest

_END_TIMEOUT_S = 2.0
_WAKE = object()
Text = str | Iterable[str] | AsyncIterable[str]


class AsyncSpeechStream:
    """An asynchronous iterator over a stream's chunks. The request goes out with the first `anext`."""

    def __init__(
        self,
        responses: AsyncGenerator[Chunk | End, None],
        *,
        cancel: Callable[[], None],
        retries: Callable[[], int],
    ) -> None:
        self._responses = responses
        self._cancel = cancel
        self._retries = retries
        self.end: End | None = None
        """How the stream ended; None until it has."""

    @property
    def retries(self) -> int:
        """Times that the stream was asked for again."""
        return self._retries()

    def __aiter__(self) -> AsyncSpeechStream:
        return self

    async def __anext__(self) -> Chunk:
        item = await anext(self._responses)
        if isinstance(item, End):
            self.end = item
            await self.aclose()
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Cancels the stream if it still runs; an `anext` that waits ends the iteration."""
        self._cancel()

    async def aclose(self) -> None:
        """Cancels the stream if it still runs, and waits until its call is gone."""
        self._cancel()
        with contextlib.suppress(RuntimeError):  # another task iterates: it finds out by itself
            await self._responses.aclose()


class AsyncSpeechClient:
    """`SpeechClient` for one event loop: the same streams, policies and arguments (see there)."""

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
        self._pool: Pool[grpc.aio.Channel] = Pool(self.urls, connect, streams_per_channel=streams_per_channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; streams still open end with `UnavailableError`."""
        for channel in self._pool.close():
            await channel.close()

    def open(
        self, request: SpeechRequest, parts: Iterable[str] | AsyncIterable[str] | None = None
    ) -> AsyncSpeechStream:
        """The stream that answers `request`, whose text `parts` continue as they come; see `SpeechClient.open`."""
        return self._open(request, parts, waits=False)

    def stream(
        self, text: Text, speaker: int | None = None, *, go_on: bool = False, **asked: Unpack[SpeechOptions]
    ) -> AsyncSpeechStream:
        """Speaks `text`, whole or in parts as they come; arguments as `SpeechService.stream` has them.

        A plain iterable is asked in a thread, so that one that waits holds up nothing else.
        """
        if isinstance(text, str):
            texts = texts_of_streams(text) if go_on else [text]
            requests = [whole_request(one, speaker, asked) for one in texts]
            opened = [functools.partial(self._open, request, rest or None, waits=False) for request, rest in requests]
            return opened[0]() if len(opened) == 1 else _in_turn(opened)
        return self._open(request_of("later", speaker, asked), text, waits=True)

    async def say(
        self,
        text: Text,
        speaker: int | None = None,
        *,
        path: Path | None = None,
        listener: Listener | None = None,
        go_on: bool = False,
        **asked: Unpack[SpeechOptions],
    ) -> Spoken:
        """Speaks as `stream` does, to `listener` and into a file at `path`, which is there only when complete."""
        async with self.stream(text, speaker, go_on=go_on, **asked) as stream:
            with Taking(path, listener) as taking:
                async for chunk in stream:
                    taking.chunk(chunk)
                taking.end(stream.end)
            return taking.spoken(stream.retries)

    def _open(
        self, request: SpeechRequest, parts: Iterable[str] | AsyncIterable[str] | None, *, waits: bool
    ) -> AsyncSpeechStream:
        exchange = Exchange(
            request,
            retry=self._retry,
            chunk_timeout_s=self._chunk_timeout_s,
            more=parts is not None,
            waits=waits,
            raw=self._raw,
        )
        speaking = _AsyncSpeaking(self._pool, exchange, parts, self._access)
        return AsyncSpeechStream(speaking.responses(), cancel=speaking.cancel, retries=lambda: exchange.retries)


def _in_turn(opened: Sequence[Callable[[], AsyncSpeechStream]]) -> AsyncSpeechStream:
    """Streams one after another as one; see `csm_serving.client.speech.in_turn`."""
    streams: list[AsyncSpeechStream] = []
    joined = Joined()

    async def responses() -> AsyncGenerator[Chunk | End, None]:
        for open_next in opened:
            streams.append(open_next())
            async with streams[-1] as stream:
                async for chunk in stream:
                    yield joined.chunk(chunk)
            joined.over(stream.end)
            if stream.end is None:
                return
        assert joined.end is not None
        yield joined.end

    def cancel() -> None:
        for stream in streams[-1:]:
            stream.close()

    return AsyncSpeechStream(responses(), cancel=cancel, retries=lambda: sum(stream.retries for stream in streams))


def _connect(url: str, access: Access, connect_timeout_s: float) -> grpc.aio.Channel:
    options = calls.channel_options(url, connect_timeout_s)
    if (credentials := access.credentials()) is not None:
        return grpc.aio.secure_channel(url, credentials, options=options)
    return grpc.aio.insecure_channel(url, options=options)


class _AsyncSpeaking:
    """A stream while it runs: the call it is in, and a task that brings its text."""

    def __init__(
        self,
        pool: Pool[grpc.aio.Channel],
        exchange: Exchange,
        parts: Iterable[str] | AsyncIterable[str] | None,
        access: Access,
    ) -> None:
        self._pool = pool
        self._exchange = exchange
        self._parts = parts
        self._access = access
        self._closed = False
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self._call: Any = None
        self._ends = False
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()

    def cancel(self) -> None:
        """Ends the stream."""
        self._closed = True
        self._changed.set()
        self._arrived.put_nowait(_WAKE)
        if self._call is not None and not self._ends:
            self._call.cancel()

    async def responses(self) -> AsyncGenerator[Chunk | End, None]:
        """The chunks, then the end."""
        feeder = None if self._parts is None else asyncio.create_task(self._feed(self._parts))
        try:
            await self._until(lambda: self._exchange.ready)
            while not self._is_over():
                lease, broken, wait_s = self._pool.take(), False, 0.0
                answers = self._answers(lease)
                try:
                    async for item in answers:
                        yield item
                except CsmError as error:
                    if error is self._failure:
                        raise
                    broken = isinstance(error, UnavailableError)
                    wait_s = self._exchange.again_in(error)
                finally:
                    await answers.aclose()
                    if (channel := self._pool.give_back(lease, broken=broken)) is not None:
                        await channel.close()
                if wait_s:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._until(lambda: False)
        finally:
            self.cancel()
            if feeder is not None:
                feeder.cancel()
                await asyncio.wait([feeder])
        if self._exchange.end is not None:
            yield self._exchange.end

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Waits until something holds, or the stream is closed; raises where its text failed."""
        while not holds() and not self._closed and self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    async def _answers(self, lease: Lease[grpc.aio.Channel]) -> AsyncGenerator[Chunk, None]:
        """The chunks of one call."""
        exchange = self._exchange
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._outbox, self._arrived = outbox, arrived
        for message in exchange.begin():
            outbox.put_nowait(message)
        self._send()
        self._changed.set()
        try:
            ask = calls.infer_stream(lease.channel)
            call = ask(_messages(outbox), timeout=exchange.timeout_s, metadata=self._access.metadata)
        except grpc.aio.UsageError:  # grpc's word for a closed channel
            raise UnavailableError("the client is closed; make another one") from None
        self._call, self._ends = call, False
        collector = asyncio.create_task(self._collect(call, arrived))
        try:
            while not exchange.over and not self._closed:
                try:
                    async with asyncio.timeout(exchange.poll_s):
                        answer = await arrived.get()
                except TimeoutError:
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
                    item = exchange.take(answer, lease.url)
                    self._send()
                    self._changed.set()
                    if isinstance(item, Chunk):
                        yield item
        finally:
            outbox.put_nowait(None)  # a server cannot exit while a call's sending side is open
            # Triton 2.51 leaks a stream that is cancelled just when its last response came.
            if self._ends:
                await asyncio.wait([collector], timeout=_END_TIMEOUT_S)
            call.cancel()
            await asyncio.wait([collector])

    async def _collect(self, call: Any, arrived: asyncio.Queue[Any]) -> None:
        """Takes responses off the wire as they come, so that a slow reader holds up nobody; then None or the error."""
        try:
            async for response in call:
                self._ends = self._ends or Exchange.is_last(response)
                arrived.put_nowait(response)
            arrived.put_nowait(None)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            arrived.put_nowait(error if isinstance(error, grpc.RpcError) else None)

    def _is_over(self) -> bool:
        return self._closed or self._exchange.end is not None

    def _send(self) -> None:
        """Puts what may go now into the call."""
        for message in self._exchange.due():
            self._outbox.put_nowait(message)

    async def _feed(self, parts: Iterable[str] | AsyncIterable[str]) -> None:
        """Offers the text as it comes, no faster than the server takes it."""
        try:
            async for text in _each(parts):
                self._exchange.offer(text)
                self._send()
                self._changed.set()
                await self._until(lambda: self._is_over() or not self._exchange.full)
                if self._is_over():
                    return
            self._exchange.finish()
            self._send()
        except Exception as error:
            self._failure = error
            self._arrived.put_nowait(_WAKE)
        self._changed.set()


async def _each(parts: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    if isinstance(parts, AsyncIterable):
        async for text in parts:
            yield text
        return
    if isinstance(parts, Sequence):
        for text in parts:
            yield text
        return
    source, over = iter(parts), object()
    while (text_or_over := await asyncio.to_thread(next, source, over)) is not over:
        yield str(text_or_over)


async def _messages(outbox: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while (message := await outbox.get()) is not None:
        yield message
