"""A TCP proxy between the nodes and a server, which harms all connections on request."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Generator
from typing import Self

SLOW_BYTES, SLOW_PAUSE = 512, 0.05
"""A slow connection passes so many bytes, and then waits for so many seconds."""
RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """Passes bytes on in both directions.

    `cut_off` tells by the port of a client whether its connection is in a partition now.
    """

    def __init__(self, server_port: int, cut_off: Callable[[int], bool] = lambda _: False) -> None:
        self._server_port = server_port
        self._cut_off = cut_off
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._delay = 0.0
        self._slow = False
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def cut(self) -> Generator[None]:
        """No byte passes, and no connection ends: a partition."""
        self._delay = float("inf")
        try:
            yield
        finally:
            self._delay = 0.0
            self.drop()

    @contextlib.contextmanager
    def delayed(self, seconds: float) -> Generator[None]:
        """Each part of a request and of an answer comes late."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    @contextlib.contextmanager
    def slowed(self) -> Generator[None]:
        """Few bytes pass per second."""
        self._slow = True
        try:
            yield
        finally:
            self._slow = False

    def drop(self) -> None:
        """Reset all connections: the peers get RST, also in the middle of an answer."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._writers.add(upstream)
            source: int = writer.get_extra_info("peername")[1]
            pumps = [
                asyncio.create_task(self._pump(reader, upstream, source)),
                asyncio.create_task(self._pump(answers, writer, source)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the lab ends
        finally:
            for one in filter(None, (writer, upstream)):
                self._writers.discard(one)
                one.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: int) -> None:
        while data := await reader.read(65536):
            while self._delay == float("inf") or self._cut_off(source):  # noqa: ASYNC110  # ends with the connection
                await asyncio.sleep(0.05)
            if self._delay:
                await asyncio.sleep(self._delay)
            while self._slow and data:
                writer.write(data[:SLOW_BYTES])
                data = data[SLOW_BYTES:]
                await asyncio.sleep(SLOW_PAUSE)
            writer.write(data)
            await writer.drain()
