"""A connection to a server that answers in parts, too late, too much or not at all."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import hiredis
import pytest

from peerjob.store.lua.client.address import parse_address
from peerjob.store.lua.client.connection import ServerConnection
from peerjob.store.lua.client.connection_options import server_options
from peerjob.store.lua.client.replies import CallTimeoutError, DisconnectedError, ProtocolError, ServerError
from peerjob.store.url import Host
from support.listening import Serve, listening
from support.waiting import PATIENCE, until

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"


@asynccontextmanager
async def connected(serve: Serve) -> AsyncGenerator[ServerConnection]:
    """A connection to a server that accepts it, and then serves it with `serve`."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = hiredis.Reader()
        while requests.gets() is False:  # CLIENT SETNAME
            if not (data := await reader.read(1000)):
                return  # the client left: at the end, `read` gives nothing again and again, without a pause
            requests.feed(data)
        writer.write(b"+OK\r\n")
        await serve(reader, writer)

    async with listening(accept) as port, asyncio.timeout(PATIENCE):
        deadline = asyncio.get_running_loop().time() + PATIENCE
        connection = await ServerConnection.open(
            Host("127.0.0.1", port), server_options(parse_address(f"redis://127.0.0.1:{port}"), PATIENCE), deadline
        )
        try:
            yield connection
        finally:
            connection.end()


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
    assert isinstance(error, ServerError)


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
        (b"-LOADING Redis is loading the dataset in memory\r\n", ServerError),
        (b"-NOAUTH Authentication required.\r\n", ServerError),
        (b"!nonsense\r\n", ProtocolError),
        (PONG + PONG, ProtocolError),
        (b"", DisconnectedError),
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
    opened = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await opened.wait()
        writer.write(sent)

    async with connected(serve) as connection:
        opened.set()
        await until(lambda: connection.is_closed)
        with pytest.raises(DisconnectedError):
            await call(connection)


async def test_the_end_of_a_connection_fails_the_call_under_way() -> None:
    """An ended connection has no call that waits for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with connected(serve) as connection:
        waiting = call(connection)
        connection.end()
        with pytest.raises(DisconnectedError):
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
        connection.fail(DisconnectedError("the sentinels chose another primary"))
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


@asynccontextmanager
async def opening(
    serve: Serve, path: str = "", within: float = PATIENCE
) -> AsyncGenerator[Awaitable[ServerConnection]]:
    """The connection to a server that `serve` serves from its first byte; the server closes it before it ends."""
    ended = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            ended.set()

    async with listening(accept) as port, asyncio.timeout(PATIENCE):
        options = server_options(parse_address(f"redis://user:password@127.0.0.1:{port}{path}"), PATIENCE)
        deadline = asyncio.get_running_loop().time() + within
        yield ServerConnection.open(Host("127.0.0.1", port), options, deadline)
        await ended.wait()


def commands_of(reader: asyncio.StreamReader) -> AsyncGenerator[list[bytes]]:
    """The commands that a client sends."""
    requests = hiredis.Reader()

    async def each() -> AsyncGenerator[list[bytes]]:
        while data := await reader.read(1000):
            requests.feed(data)
            while (command := requests.gets()) is not False:
                yield cast("list[bytes]", command)

    return each()


async def test_a_new_connection_signs_in_and_has_a_name_and_a_database() -> None:
    """Each command needs the one in front of it."""
    seen = list[object]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in commands_of(reader):
            seen.append(command)
            writer.write(b"+OK\r\n")

    async with opening(serve, "/3") as connection:
        (await connection).end()
    assert seen == [[b"AUTH", b"user", b"password"], [b"CLIENT", b"SETNAME", b"peerjob"], [b"SELECT", b"3"]]


async def test_a_connection_over_a_unix_socket_signs_in_once(tmp_path: Path) -> None:
    """redis-py signs in on such a connection a second time, if nothing keeps it from that."""
    seen, ended = list[object](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in commands_of(reader):
            seen.append(command[0])
            writer.write(b"+OK\r\n")
        ended.set()

    path = str(tmp_path / "redis.sock")
    options = server_options(parse_address(f"redis+unix://:password@{path}"), PATIENCE)
    async with listening(serve, path), asyncio.timeout(PATIENCE):
        (await ServerConnection.open(path, options, asyncio.get_running_loop().time() + PATIENCE)).end()
        await ended.wait()
    assert seen == [b"AUTH", b"CLIENT"]


@pytest.mark.parametrize(
    ("answers", "raised", "text"),
    [
        ([], CallTimeoutError, "^$"),
        ([b"-ERR max number of clients reached\r\n"], ServerError, "max number"),
        ([b"+OK\r\n", b"-NOPERM No permissions to run the command\r\n"], ServerError, "NOPERM"),
        ([b"*2147483647\r\n"], ProtocolError, "more than 999,999 elements"),
    ],
    ids=["no answer", "a refused sign-in", "a refused command", "an endless answer"],
)
async def test_a_refused_sign_in_raises_the_reason(answers: list[bytes], raised: type[Exception], text: str) -> None:
    """The error has the code of the server, and no connection stays open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = list(answers)
        async for _ in commands_of(reader):
            if left:
                writer.write(left.pop(0))
            if answers and not left:
                writer.write_eof()

    async with opening(serve, within=PATIENCE if answers else 0.05) as connection:
        with pytest.raises(raised, match=text):
            await connection


@pytest.mark.parametrize("ends", [False, True], ids=["stays open", "closed"])
async def test_a_server_that_refuses_a_connection_before_its_first_command_is_understood(ends: bool) -> None:
    """A server with too many clients writes its error at once; redis-py's stream can have read it already."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        if ends:
            writer.write_eof()
        await reader.read()

    async with opening(serve) as connection:
        with pytest.raises(ServerError, match="max number of clients"):
            await connection


def full_queue(cleanup: ExitStack, address: str, port: int) -> None:
    """Let an address answer no further attempt to connect, as that of a machine that is gone."""
    listening = cleanup.enter_context(socket.create_server((address, port), backlog=0))
    for _ in range(3):
        waiting = cleanup.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listening.getsockname())


async def test_a_host_is_reached_at_its_second_address_while_the_first_one_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A DNS name can still lead to a machine that is gone. Linux lets a full queue answer nothing."""
    addresses = ("127.0.0.2", "127.0.0.1")

    def found(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        assert host == "store.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    closed = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"peerjob\r\n")
        writer.write(b"+OK\r\n")
        await reader.read()
        closed.set()

    with ExitStack() as cleanup:
        async with listening(accept) as port, asyncio.timeout(PATIENCE):
            host = Host("store.example", port)
            full_queue(cleanup, addresses[0], host.port)
            deadline = asyncio.get_running_loop().time() + PATIENCE
            options = server_options(parse_address(f"redis://{host}"), PATIENCE)
            (await ServerConnection.open(host, options, deadline)).end()
            await closed.wait()
