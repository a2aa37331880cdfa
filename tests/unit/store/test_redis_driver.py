"""Connections of a driver whose server is replaced by another one, while calls are under way."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import hiredis
import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.store.lua.client import sentinel as sentinel_module
from peerjob.store.lua.client.address import parse_address
from peerjob.store.lua.client.connection import ServerConnection
from peerjob.store.lua.client.connection_options import ConnectionOptions
from peerjob.store.lua.client.redis_driver import RedisDriver
from peerjob.store.url import Host
from support.listening import listening
from support.waiting import PATIENCE, until

READ_ONLY = b"-READONLY You can't write against a read only replica.\r\n"
NOTHING = b"*-1\r\n"


class FakeServer:
    """A server or a sentinel with one answer for each command; it never answers a command without one."""

    def __init__(self, **answers: bytes) -> None:
        self.answers = {"CLIENT": b"+OK\r\n", "PING": b"+PONG\r\n", "ROLE": b"*1\r\n$6\r\nmaster\r\n", **answers}
        self.connections = 0
        self.seen = list[str]()
        self.waiting = dict[str, asyncio.StreamWriter]()
        """The latest connection whose command has no answer."""
        self.host = Host("127.0.0.1", 0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        requests = hiredis.Reader()
        while data := await reader.read(1000):
            requests.feed(data)
            while (words := requests.gets()) is not False:
                name = cast("list[bytes]", words)[0].decode()
                self.seen.append(name)
                if name in self.answers:
                    writer.write(self.answers[name])
                else:
                    self.waiting[name] = writer

    def knows(self, primary: Host) -> None:
        """Name the primary as a sentinel."""
        fields = {"ip": primary.name, "port": primary.port, "config-epoch": 1, "flags": "master"}
        words = [str(word) for pair in (fields | {"quorum": 2, "num-slaves": 1}).items() for word in pair]
        self.answers["SENTINEL"] = f"*{len(words)}\r\n{''.join(map(_bulk, words))}".encode()

    def announce(self, old: Host, new: Host) -> None:
        """Tell the subscriber of a failover."""
        text = f"jobs {old.name} {old.port} {new.name} {new.port}"
        self.waiting["SUBSCRIBE"].write(f"*3\r\n{_bulk('message')}{_bulk('+switch-master')}{_bulk(text)}".encode())


def _bulk(word: str) -> str:
    return f"${len(word)}\r\n{word}\r\n"


@asynccontextmanager
async def running(server: FakeServer) -> AsyncGenerator[FakeServer]:
    async with listening(server.serve) as port:
        server.host = Host("127.0.0.1", port)
        yield server


class Failover:
    """Two servers, a sentinel, and a driver that has found the first server."""

    def __init__(self, old: FakeServer, new: FakeServer, sentinel: FakeServer) -> None:
        self.old, self.new, self.sentinel = old, new, sentinel
        url = f"redis+sentinel://{sentinel.host}/jobs"
        self.driver = RedisDriver(parse_address(url), namespace="jobs", call_timeout=PATIENCE)


@pytest.fixture
async def failover(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Failover]:
    """A sentinel that names the old server, and has a subscriber."""
    monkeypatch.setattr(sentinel_module, "ASK_TIMEOUT", PATIENCE)
    monkeypatch.setattr(sentinel_module, "CHECK_EVERY", PATIENCE)
    async with AsyncExitStack() as cleanup, asyncio.timeout(PATIENCE / 2):
        old, new = FakeServer(BLMPOP=READ_ONLY), FakeServer(INFO=b"$8\r\nname:new\r\n", BLMPOP=NOTHING)
        for one in (old, new):
            await cleanup.enter_async_context(running(one))
        sentinel = await cleanup.enter_async_context(running(FakeServer()))
        sentinel.knows(old.host)
        here = Failover(old, new, sentinel)
        await here.driver.open()
        cleanup.push_async_callback(here.driver.close)
        await until(lambda: "SUBSCRIBE" in sentinel.waiting)
        sentinel.waiting["SUBSCRIBE"].write(f"*3\r\n{_bulk('subscribe')}{_bulk('+switch-master')}:1\r\n".encode())
        await until(lambda: sentinel.seen.count("SENTINEL") == 2)  # `follow` has asked, too
        await until(lambda: old.seen.count("ROLE") == 2)
        yield here


async def test_a_connection_is_not_kept_after_another_call_met_a_replica() -> None:
    """The address leads to a new primary, while connections to the old one stay open, and would answer reads."""
    async with AsyncExitStack() as cleanup, asyncio.timeout(PATIENCE):
        server = await cleanup.enter_async_context(running(FakeServer(BLMPOP=READ_ONLY)))
        driver = RedisDriver(parse_address(f"redis://{server.host}"), namespace="jobs", call_timeout=PATIENCE)
        cleanup.push_async_callback(driver.close)
        waiting = asyncio.create_task(driver.info())
        await until(lambda: "INFO" in server.waiting)
        with pytest.raises(StoreUnavailableError, match="READONLY"):
            await driver.pop("hints", 1, 1)
        server.waiting["INFO"].write(b"$8\r\nname:old\r\n")
        assert await waiting == {"name": "old"}
        server.answers["INFO"] = b"$8\r\nname:old\r\n"
        before = server.connections
        await driver.info()
        assert server.connections == before + 1


async def test_a_failover_that_one_sentinel_announces_is_followed_before_the_others_know(failover: Failover) -> None:
    """The calls that the message ends do not make the driver forget the new primary."""
    waiting = asyncio.create_task(failover.driver.info())
    await until(lambda: "INFO" in failover.old.waiting)
    failover.sentinel.announce(failover.old.host, failover.new.host)
    with pytest.raises(StoreUnavailableError, match="another primary"):
        await waiting
    assert failover.driver.server == failover.new.host
    assert await failover.driver.info() == {"name": "new"}


async def test_calls_to_the_old_primary_end_although_another_call_found_the_new_one(failover: Failover) -> None:
    waiting = asyncio.create_task(failover.driver.info())
    await until(lambda: "INFO" in failover.old.waiting)
    with pytest.raises(StoreUnavailableError, match="READONLY"):
        await failover.driver.pop("hints", 1, 1)
    failover.sentinel.knows(failover.new.host)
    assert await failover.driver.pop("hints", 1, 1) == []
    failover.sentinel.announce(failover.old.host, failover.new.host)
    with pytest.raises(StoreUnavailableError, match="another primary"):
        await waiting
    assert await failover.driver.info() == {"name": "new"}
    assert failover.sentinel.seen.count("SENTINEL") == 3, "the driver forgot the new primary"


async def test_calls_to_a_primary_go_on_that_the_driver_had_only_forgotten(failover: Failover) -> None:
    """A client whose caller gives up searches its server again, and mostly finds the same."""
    waiting = asyncio.create_task(failover.driver.info())
    await until(lambda: "INFO" in failover.old.waiting)
    failover.driver.give_up()
    failover.sentinel.announce(failover.new.host, failover.old.host)
    await until(lambda: failover.driver.server == failover.old.host)
    failover.old.waiting["INFO"].write(b"$8\r\nname:old\r\n")
    assert await waiting == {"name": "old"}


async def test_a_connection_that_opens_during_a_failover_is_not_used(
    failover: Failover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message comes after the answer to the sign-in, and before the call that opens the connection goes on."""
    failover.driver.give_up()
    received, told = ServerConnection.data_received, list[bytes]()

    def receive(self: ServerConnection, data: bytes) -> None:
        received(self, data)
        if self.__class__ is ServerConnection and data == b"+OK\r\n" and failover.driver.server and not told:
            told.append(data)
            moved = vars(RedisDriver)["_moved"](failover.driver, failover.new.host)
            with pytest.raises(StopIteration):  # it waits for nothing
                moved.send(None)

    monkeypatch.setattr(ServerConnection, "data_received", receive)
    with pytest.raises(StoreUnavailableError, match="another primary"):
        await failover.driver.info()
    assert told
    assert "INFO" not in failover.old.seen
    assert await failover.driver.info() == {"name": "new"}


async def test_a_late_refusal_of_the_old_primary_keeps_the_new_one(
    failover: Failover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another call has found the new primary, while this one still connects to the old one."""
    connect, asked, refused = ServerConnection.open, asyncio.Event(), asyncio.Event()

    async def slow(server: Host | str, options: ConnectionOptions, deadline: float) -> ServerConnection:
        if server == failover.driver.server == failover.old.host:  # it was found, and asked for its role
            asked.set()
            await refused.wait()
            raise ConnectionRefusedError("refused")
        return await connect(server, options, deadline)

    monkeypatch.setattr(ServerConnection, "open", slow)
    failover.driver.give_up()
    late = asyncio.create_task(failover.driver.info())
    await asked.wait()
    failover.driver.give_up()
    failover.sentinel.knows(failover.new.host)
    assert await failover.driver.info() == {"name": "new"}
    refused.set()
    with pytest.raises(StoreUnavailableError, match="refused"):
        await late
    assert failover.driver.peer == (failover.new.host, failover.new.host.name)
    assert await failover.driver.info() == {"name": "new"}


async def test_a_call_waits_for_its_confirmation_beside_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    address = parse_address("redis://127.0.0.1?durability=replicas:1&durability_timeout=20s")
    driver = RedisDriver(address, namespace="jobs", call_timeout=3)
    timeouts = list[float]()

    async def send(commands: Sequence[object], timeout: float, *, alone: bool = False) -> Sequence[object]:
        timeouts.append(timeout)
        return [b"answer", b"", 1][: len(commands)]

    monkeypatch.setattr(driver, "_send", send)
    assert await driver.run_durably(("settle", (1, 1))) == [b"answer"]
    assert timeouts == [23]
