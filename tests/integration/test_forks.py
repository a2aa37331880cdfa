"""A process forks while it has a node or a client: the child leaves the parent's alone, and is told so."""

import asyncio
import subprocess
import sys
import time

import pytest

from peerjob import Client, Job, Node, NodeStateError, Server, StoreError
from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.drivers import open_store
from support.forks import in_child
from support.waiting import IN_TIME, PATIENCE

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


async def double(n: int) -> int:
    return 2 * n


DOUBLE = Job("double", double)


@pytest.fixture(params=["redis_url", "valkey+glide", "etcd_url", "sqlite"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/jobs.db"
    if "glide" in request.param:
        found: str = request.getfixturevalue("valkey_url")
        return found.replace("valkey:", "valkey+glide:")
    plain: str = request.getfixturevalue(request.param)
    return plain


class Parent:
    """A node on an event loop that does not run at the moment of a fork, as before a server forks its workers."""

    def __init__(self, url: str, namespace: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.node = Node(url, jobs=[DOUBLE], namespace=namespace, name="parent")
        self.loop.run_until_complete(self.node.start())
        self.incarnation = self.joined()

    def joined(self) -> str:
        (one,) = self.loop.run_until_complete(self.node.nodes())
        return one.info.incarnation

    def double(self, n: int) -> int:
        return self.loop.run_until_complete(self._double(n))

    async def _double(self, n: int) -> int:
        return await (await self.node.schedule(DOUBLE, n)).result(timeout=IN_TIME)

    def close(self) -> None:
        self.loop.run_until_complete(self.node.stop())
        self.loop.close()


def test_a_child_that_goes_on_with_the_loop_of_its_parent_is_refused(url: str, namespace: str) -> None:
    """The tasks of the node go on, too, and must not read what the server answers the parent."""
    parent = Parent(url, namespace)
    assert parent.double(1) == 2

    def use() -> None:
        with pytest.raises(NodeStateError, match="before a fork"):
            parent.double(2)
        parent.loop.run_until_complete(asyncio.sleep(0.2))  # long enough for tasks that would use the connections
        with pytest.raises(NodeStateError, match="before a fork"):
            parent.loop.run_until_complete(parent.node.start())
        parent.loop.run_until_complete(parent.node.stop())

    began = parent.loop.time()
    assert in_child(use) == 0
    assert parent.double(3) == 6
    assert parent.joined() == parent.incarnation
    assert parent.loop.time() - began < IN_TIME
    parent.close()


def test_a_child_does_not_take_the_answer_that_waits_for_its_parent(url: str, namespace: str) -> None:
    """An answer of GLIDE is an address in the memory of the parent."""
    parent = Parent(url, namespace)
    asked = [parent.loop.create_task(parent.node.nodes()) for _ in range(50)]
    parent.loop.run_until_complete(asyncio.sleep(0))

    def go_on() -> None:
        time.sleep(0.1)  # the answers come meanwhile
        parent.loop.run_until_complete(asyncio.sleep(0.2))

    assert in_child(go_on) == 0
    for answer in parent.loop.run_until_complete(asyncio.gather(*asked)):
        assert [node.info.incarnation for node in answer] == [parent.incarnation]
    parent.close()


def test_a_stop_in_a_child_does_not_end_the_lease_of_the_parent(redis_url: str, namespace: str) -> None:
    """A stop in another event loop releases what a closed loop left behind, but not what is the parent's."""
    parent = Parent(redis_url, namespace)

    def stop() -> None:
        parent.loop.close()
        asyncio.run(parent.node.stop())

    assert in_child(stop) == 0
    assert parent.double(1) == 2
    assert parent.joined() == parent.incarnation
    parent.close()


def test_a_store_is_not_shared_with_a_child(url: str, namespace: str) -> None:
    loop = asyncio.new_event_loop()
    store = open_store(url, namespace=namespace, clock=SystemClock(), limits=StoreLimits())
    loop.run_until_complete(store.open())

    def use() -> None:
        with pytest.raises(StoreError, match="opened before a fork"):
            loop.run_until_complete(store.health())
        loop.run_until_complete(store.close())

    assert in_child(use) == 0
    loop.run_until_complete(store.health())
    loop.run_until_complete(store.close())
    loop.close()


def test_grpc_is_refused_where_it_would_hang() -> None:
    """A child lacks the threads of gRPC that the parent has."""

    async def once(target: str) -> int:
        async with Client(target) as client:
            return await (await client.schedule(DOUBLE, 1)).result(timeout=IN_TIME)

    async def parent() -> None:
        async with Node(jobs=[DOUBLE]) as node, Server(node, "127.0.0.1:0") as server, Client(server.target) as client:

            def use() -> None:
                with pytest.raises(NodeStateError, match="used gRPC before it forked"):
                    asyncio.run(once(server.target))
                with pytest.raises(NodeStateError, match="used gRPC before it forked"):
                    asyncio.run(client.stats())
                asyncio.run(client.stop())

            assert await once(server.target) == 2
            assert in_child(use) == 0
            assert await once(server.target) == 2
            assert (await client.stats()).counts

    asyncio.run(parent())


_FORKS_AFTER_GRPC = """
import asyncio, gc, os, signal, sys
from peerjob import Client, Node, Server

async def use() -> list[object]:
    async with Node() as node, Server(node, "127.0.0.1:0") as server, Client(server.target) as client:
        await client.stats()
        return [client, server, *client._connection._nodes]

used = asyncio.run(use())
if "cycle" in sys.argv:
    used.append(used)
if "frozen" in sys.argv:
    gc.collect()
    gc.freeze()
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    del used
    gc.collect()
    sys.exit(3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("kept_in", ["names", "cycle", "frozen"])
def test_a_child_frees_the_grpc_of_its_parent_and_ends(kept_in: str) -> None:
    """The last object that is freed would wait for a thread that only the parent has."""
    program = [sys.executable, "-c", _FORKS_AFTER_GRPC, kept_in]
    assert subprocess.run(program, check=False, timeout=PATIENCE).returncode == 3
