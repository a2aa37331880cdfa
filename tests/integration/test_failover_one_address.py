"""A failover behind one address: the old primary lives on as a replica, and connections to it stay open."""

import asyncio
import contextlib

import pytest

from peerjob import Job, Node
from support.servers import Server, StartServer
from support.waiting import IN_TIME, until


class Address:
    """One port that leads to one of several servers; a connection stays with the server that it was made to."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Address":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, far_writer))
                group.create_task(_pass_on(far_reader, writer))
        finally:
            far_writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


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
    async with Address(first.port) as address:
        url = f"{first.scheme}://127.0.0.1:{address.port}"
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
