"""A failover behind one address: the old primary lives on as a replica, and connections to it stay open."""

import asyncio

import pytest

from peerjob import Job, Node
from support.listening import listening, passed_on
from support.servers import Server, StartServer
from support.waiting import IN_TIME, until


class Address:
    """One port that leads to one of several servers; a connection stays with the server that it was made to."""

    def __init__(self, target: int) -> None:
        self.target = target

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await passed_on(reader, writer, self.target)


@pytest.fixture(params=["redis", "valkey+glide"])
def pair(request: pytest.FixtureRequest, start_server: StartServer) -> tuple[Server, Server]:
    first, second = start_server(request.param), start_server(request.param)
    second.command("REPLICAOF", "127.0.0.1", first.port)
    return first, second


async def test_a_node_leaves_a_primary_that_was_demoted(pair: tuple[Server, Server]) -> None:
    first, second = pair

    async def in_sync() -> bool:
        info = second.command("INFO", "replication")
        return isinstance(info, dict) and info["master_link_status"] == "up"

    await until(in_sync)

    async def double(n: int) -> int:
        return 2 * n

    job = Job("double", double)
    address = Address(first.port)
    async with listening(address.serve) as port:
        url = f"{first.scheme}://127.0.0.1:{port}"
        async with (
            Node(url, jobs=[job], workers=4, name="worker") as worker,
            Node(url, name="client", workers=0) as own,
        ):
            # what waits for hints, a result and the lease has connections by now
            assert await (await own.schedule(job, 1)).result(timeout=IN_TIME) == 2
            second.command("REPLICAOF", "NO", "ONE")
            first.command("REPLICAOF", "127.0.0.1", second.port)
            address.target = second.port
            for node in (own, worker):
                instances = [await node.schedule(job, n) for n in range(10)]
                assert [await one.result(timeout=IN_TIME) for one in instances] == [2 * n for n in range(10)]
