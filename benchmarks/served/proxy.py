"""A wire between a client and a server that can be cut: clients that vanish."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Wire:
    """Forwards bytes between a client and the server at `url`, until it is cut."""

    def __init__(self, url: str) -> None:
        self.lead(url)
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    def lead(self, url: str) -> None:
        """Makes new connections go to the server at `url`; those that are there stay, as behind a Service."""
        self._host, _, port = url.rpartition(":")
        self._port = int(port)

    async def open(self) -> None:
        """Listens on a free port: `url`."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, to]
        for source, sink in ((reader, to), (there, writer)):
            task = asyncio.create_task(_pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def silence(self) -> None:
        """Nothing passes any more, and nobody is told: a machine that lost its power."""
        for task in self._tasks:
            task.cancel()

    def reset(self) -> None:
        """Both ends hear that the other is gone: a process that was killed."""
        self.silence()
        for writer in self._writers:
            held = writer.get_extra_info("socket")
            if held is not None:
                with contextlib.suppress(OSError):
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def close(self) -> None:
        """Lets go of everything."""
        self.reset()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.write_eof()


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    """A wire to `url`."""
    wire = Wire(url)
    await wire.open()
    try:
        yield wire
    finally:
        await wire.close()
