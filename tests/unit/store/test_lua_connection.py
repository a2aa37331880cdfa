"""A connection to a server that answers in parts, too late, too much or not at all."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import AuthenticationError, BusyLoadingError, InvalidResponse, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from peerjob.store.lua.address import parse_address
from peerjob.store.lua.connection import CallTimeoutError, ServerConnection
from peerjob.store.lua.redis_options import connection_options
from support.waiting import PATIENCE, until

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def connected(serve: Serve, *, sign_in: bytes = b"+OK\r\n") -> AsyncGenerator[ServerConnection]:
    """A connection to a server that accepts it, and then serves it with `serve`."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            requests = hiredis.Reader()
            for _ in range(3):  # CLIENT SETNAME, and two of CLIENT SETINFO
                while requests.gets() is False:
                    if not (data := await reader.read(1000)):
                        return  # the client left: at the end, `read` gives nothing again and again, without a pause
                    requests.feed(data)
                writer.write(sign_in)
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address = parse_address(f"redis://127.0.0.1:{port}")
    async with server, asyncio.timeout(PATIENCE):
        connection = await ServerConnection.open(
            Connection(host="127.0.0.1", port=port, **connection_options(address, PATIENCE))
        )
        try:
            yield connection
        finally:
            await connection.end()


def call(connection: ServerConnection, count: int = 1, *, within: float = PATIENCE) -> "asyncio.Future[list[Any]]":
    """Send PING `count` times."""
    return connection.call(PING * count, count, asyncio.get_running_loop().time() + within)


async def test_replies_that_come_in_parts_are_joined() -> None:
    """Each part is sent alone, because the server waits for the next call in between."""
    parts = asyncio.Queue[bytes]()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await parts.get():
            writer.write(part)
            await writer.drain()

    async with connected(serve) as connection:
        answer = call(connection, 3)
        for byte in b"$5\r\nhel\r\n\r\n*2\r\n:1\r\n$-1\r\n-ERR no\r\n":
            parts.put_nowait(bytes([byte]))
            await asyncio.sleep(0)
        text, pair, error = await answer
        parts.put_nowait(b"")
    assert text == b"hel\r\n"
    assert pair == [1, None]
    assert isinstance(error, ResponseError)


async def test_a_late_answer_fails_the_call_and_not_before_its_time() -> None:
    """The timer of an earlier call with a longer time does not lengthen the time of a later call."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(PONG)
        await reader.read()

    async with connected(serve) as connection:
        assert await call(connection) == [b"PONG"]
        time = asyncio.get_running_loop().time
        begin = time()
        with pytest.raises(CallTimeoutError) as raised:
            await call(connection, within=0.05)
        assert time() - begin >= 0.05
        assert raised.value.late >= 0


async def test_the_timer_of_a_short_call_does_not_shorten_a_later_call() -> None:
    """The timer of the first call runs while the second waits."""
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(PONG)
        await reader.readexactly(len(PING))
        await release.wait()
        writer.write(PONG)

    async with connected(serve) as connection:
        assert await call(connection, within=0.05) == [b"PONG"]
        second = call(connection)
        await asyncio.sleep(0.1)
        assert not second.done()
        release.set()
        assert await second == [b"PONG"]


@pytest.mark.parametrize(
    ("reply", "raised"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", BusyLoadingError),
        (b"-NOAUTH Authentication required.\r\n", AuthenticationError),
        (b"!nonsense\r\n", InvalidResponse),
        (PONG + PONG, InvalidResponse),
        (b"", RedisConnectionError),
    ],
    ids=["loading", "not signed in", "no reply", "two replies", "closed"],
)
async def test_an_answer_that_ends_the_connection_is_raised(reply: bytes, raised: type[Exception]) -> None:
    """The driver closes the connection after each of these errors."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(reply)

    async with connected(serve) as connection:
        with pytest.raises(raised):
            await call(connection)


@pytest.mark.parametrize("sent", [b"", PONG], ids=["closed", "reply to no command"])
async def test_an_idle_connection_that_the_server_spoils_is_closed(sent: bytes) -> None:
    """A reply that belongs to no call would become the answer to the next call."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    async with connected(serve) as connection:
        await until(lambda: connection.is_closed)
        with pytest.raises(RedisConnectionError):
            await call(connection)


async def test_the_end_of_a_connection_fails_the_call_under_way() -> None:
    """An ended connection has no call that waits for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with connected(serve) as connection:
        waiting = call(connection)
        await connection.end()
        with pytest.raises(RedisConnectionError):
            await waiting
        assert connection.is_closed


async def test_a_connection_that_fails_after_its_answer_is_closed() -> None:
    """The driver has not read the answer yet when it learns of a failover: the connection leads to the old primary."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(PONG)
        await reader.read()

    async with connected(serve) as connection:
        answer = call(connection)
        await until(answer.done)
        connection.fail(RedisConnectionError("the sentinels chose another primary"))
        assert await answer == [b"PONG"]
        assert connection.is_closed


async def test_a_connection_does_not_keep_the_replies_of_its_last_call() -> None:
    """A driver keeps idle connections open, and a reply can be large."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(b"*1\r\n*1\r\n:1\r\n")
        await reader.read()

    async with connected(serve) as connection:
        replies = await call(connection)
        assert all(value is not replies for value in vars(connection).values())


async def test_a_refused_connection_raises_the_error_of_the_server() -> None:
    """The driver tells from its class why the server refuses connections."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.raises(RedisConnectionError, match="max number of clients"):
        async with connected(serve, sign_in=b"-ERR max number of clients reached\r\n"):
            pass
