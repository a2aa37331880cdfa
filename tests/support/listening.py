"""A server of streams in a test, whose connections end with it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, object]]


@asynccontextmanager
async def listening(serve: Serve, path: str = "") -> AsyncGenerator[int]:
    """Serve each connection in a task, on the port that it yields or on the path of a Unix socket.

    The end of a task closes its connection. asyncio closes none whose task is cancelled, and later warns of its stream.
    """
    serving: set[asyncio.Task[object]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)
        # in a callback: a task that is cancelled before its first step runs no code
        task.add_done_callback(lambda _: writer.close())

    server = await (asyncio.start_unix_server(accept, path) if path else asyncio.start_server(accept, "127.0.0.1", 0))
    try:
        yield 0 if path else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def passed_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    *,
    host: str = "127.0.0.1",
    delay: float = 0,
) -> None:
    """Pass a connection on to a port of this machine, until both sides have ended; the first answer waits `delay`."""
    from_there, to_there = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(copied(reader, to_there))
            group.create_task(copied(from_there, writer, delay=delay))
    finally:
        to_there.close()


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delay: float = 0) -> None:
    """Write what comes, and close at its end."""
    try:
        await asyncio.sleep(delay)
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
