"""Members of a cluster that are down, hang, lag or do not know a name, beside others that answer."""

import asyncio
import binascii
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self, cast

import hiredis
import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.store.lua.client.address import parse_address
from peerjob.store.lua.client.cluster_search import key_slot, locate
from peerjob.store.lua.client.connection_options import server_options
from peerjob.store.lua.client.driver import prefix
from peerjob.store.lua.client.redis_driver import RedisDriver
from peerjob.store.url import Host
from support.servers import free_port
from support.waiting import PATIENCE

PRIMARY = Host("10.0.0.9", 7000)
UNKNOWN = Host("?", 7001)


class Member:
    """A member of a cluster that names the same servers to each question, or never answers."""

    def __init__(self, *servers: Host, hangs: bool = False) -> None:
        self.servers = servers
        self.hangs = hangs
        self.questions = 0
        self.pong = b"+PONG\r\n"
        self.host = Host("127.0.0.1", 0)
        self.connections = set[asyncio.Transport]()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self), "127.0.0.1", 0)
        self.host = Host("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Close all connections, and refuse later ones."""
        self._server.close()
        for one in self.connections:
            one.abort()

    def reply(self, request: Sequence[bytes]) -> bytes:
        if request[0] != b"CLUSTER":
            return self.pong if request[0] == b"PING" else b"+OK\r\n"
        self.questions += 1
        if self.hangs:
            return b""
        servers = [f"*2\r\n${len(one.name)}\r\n{one.name}\r\n:{one.port}\r\n" for one in self.servers]
        return f"*1\r\n*{2 + len(servers)}\r\n:0\r\n:16383\r\n{''.join(servers)}".encode() if servers else b"*0\r\n"


class Connection(asyncio.Protocol):
    """A connection to a member."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._requests = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._member.connections.add(self._transport)

    def data_received(self, data: bytes) -> None:
        self._requests.feed(data)
        while (request := self._requests.gets()) is not False:
            self._transport.write(self._member.reply(cast("list[bytes]", request)))


async def search(*known: Host) -> tuple[Host, tuple[Host, ...]]:
    address = parse_address(f"redis://{','.join(map(str, known))}?cluster=true")
    async with asyncio.timeout(PATIENCE):
        return await locate(prefix("jobs"), known, address, server_options(address, PATIENCE * 2))


async def test_members_that_hang_or_are_down_delay_a_search_only_briefly() -> None:
    """Each has twice the time of the whole search to answer."""
    async with AsyncExitStack() as cleanup:
        hanging = [await cleanup.enter_async_context(Member(hangs=True)) for _ in range(2)]
        answering = await cleanup.enter_async_context(Member(PRIMARY))
        down = Host("127.0.0.1", free_port())
        found, members = await search(hanging[0].host, down, hanging[1].host, answering.host)
        assert found == PRIMARY
        assert [one.questions for one in (*hanging, answering)] == [1, 1, 1]
        assert members == (PRIMARY, answering.host)


async def test_the_next_search_begins_with_another_member() -> None:
    """A member that is cut off from the others may name a server that is gone, each time."""
    async with AsyncExitStack() as cleanup:
        behind, other = await cleanup.enter_async_context(Member()), await cleanup.enter_async_context(Member())
        other.servers = (PRIMARY, behind.host, other.host)
        behind.servers = (Host("127.0.0.1", 1), behind.host, other.host)
        found, members = await search(behind.host, other.host)
        assert found == Host("127.0.0.1", 1)
        found, members = await search(*(one for one in members if one != found))
        assert found == PRIMARY
        assert members[-1] == other.host


async def test_a_server_without_a_known_name_is_looked_up_at_another_member() -> None:
    """A cluster that announces host names gives `?` for a member whose name has not arrived yet."""
    async with AsyncExitStack() as cleanup:
        new, old = (
            await cleanup.enter_async_context(Member(UNKNOWN, PRIMARY)),
            await cleanup.enter_async_context(Member(PRIMARY, UNKNOWN)),
        )
        found, members = await search(new.host, old.host)
        assert found == PRIMARY
        assert members == (PRIMARY, old.host)
        with pytest.raises(StoreUnavailableError, match="no server of the cluster has the slot"):
            await search(new.host)


async def test_the_hosts_of_the_url_are_asked_when_all_other_members_are_gone() -> None:
    """Pods come back with new addresses; the name in the URL leads to them."""
    async with AsyncExitStack() as cleanup:
        members = [await cleanup.enter_async_context(Member()) for _ in range(4)]
        named, second, third, fourth = members
        driver = RedisDriver(parse_address(f"redis://{named.host}?cluster=true"), namespace="jobs")
        cleanup.push_async_callback(driver.close)
        named.servers = (second.host,)
        await driver.open()
        second.servers, second.pong = (third.host,), f"-MOVED 1 {third.host}\r\n".encode()
        with pytest.raises(StoreUnavailableError):
            await driver.open()
        await driver.open()
        assert driver.server == third.host

        named.servers = (fourth.host,)
        second.leave()
        third.leave()
        with pytest.raises(StoreUnavailableError):
            await driver.open()
        await driver.open()
        assert driver.server == fourth.host


async def test_a_member_with_too_many_clients_is_an_outage() -> None:
    """A server of a cluster words this error otherwise than a single server."""
    async with AsyncExitStack() as cleanup:
        full = await cleanup.enter_async_context(Member())
        full.servers = (full.host,)
        driver = RedisDriver(parse_address(f"redis://{full.host}?cluster=true"), namespace="jobs")
        cleanup.push_async_callback(driver.close)
        full.pong = b"-ERR max number of clients + cluster connections reached\r\n"
        with pytest.raises(StoreUnavailableError, match="max number of clients"):
            await driver.open()


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("123456789", "123456789"),
        ("a{123456789}b{c}", "123456789"),
        ("a{{123456789}}", "{123456789"),
        ("a{}{123456789}", "a{}{123456789}"),
        ("123456789{", "123456789{"),
        ("}{123456789}", "123456789"),
    ],
)
def test_the_slot_of_a_key_is_that_of_its_first_hash_tag(key: str, hashed: str) -> None:
    """The check value of this CRC is 31C3; the rest are the rules of Redis Cluster's specification."""
    assert key_slot("123456789") == 0x31C3
    assert key_slot(key) == binascii.crc_hqx(hashed.encode(), 0) % 16_384
