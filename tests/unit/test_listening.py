"""The server of streams that other tests use."""

import asyncio
import socket

from support.listening import listening
from support.waiting import PATIENCE


async def test_a_connection_that_has_just_come_is_closed_at_the_end() -> None:
    """Otherwise a later test fails with a warning of its stream."""
    begun = list[asyncio.StreamWriter]()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(writer)
        await asyncio.Event().wait()

    async with listening(serve) as port:
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        while not any("serve" in repr(task) for task in asyncio.all_tasks()):  # noqa: ASYNC110  # no step more
            await asyncio.sleep(0)
    assert begun == [], "its task has taken no step"
    with connection:
        assert await asyncio.to_thread(connection.recv, 1) == b""
