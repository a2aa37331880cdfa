"""A node that ran in one event loop starts again in another one, as in tests, notebooks and scripts."""

import asyncio
import os
from pathlib import Path

import pytest

from peerjob import Job, Node, NodeStateError
from support.closed_loops import after_a_closed_loop
from support.division import in_matrix
from support.servers import StartServer


def work(number: int) -> int:
    return number


WORK = Job("work", work)
MANY = 600
"""Enough concurrent calls that some wait for a lock or for a connection."""


async def use(node: Node) -> None:
    async def one(number: int) -> int:
        return await (await node.schedule(WORK, number)).result(timeout=30)

    async with node:
        schedules = (node.add_schedule(WORK.with_options(every="1d", name=f"s{n}"), n) for n in range(40))
        reads = (read() for _ in range(200) for read in (node.stats, node.activity, node.lookup_instances))
        results, *_ = await asyncio.gather(
            asyncio.gather(*map(one, range(MANY))), asyncio.gather(*schedules), asyncio.gather(*reads)
        )
        assert results == list(range(MANY))


@pytest.mark.parametrize("store_url", [in_matrix("memory"), "redis", "valkey", in_matrix("etcd")], indirect=True)
def test_a_node_runs_under_load_in_one_loop_after_the_other(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    node = Node(store_url, jobs=[WORK], namespace="loops")
    for _ in range(3):
        asyncio.run(use(node))
    assert "different event loop" not in caplog.text


@pytest.mark.parametrize("form", [in_matrix("valkey"), in_matrix("valkey+glide"), in_matrix("durable")])
def test_a_node_on_valkey_does_too(start_server: StartServer, form: str, caplog: pytest.LogCaptureFixture) -> None:
    server = start_server("valkey", appendonly=True, config=("--appendfsync", "always"))
    url = f"{server.url}?durability=aof" if form == "durable" else server.url.replace("valkey:", f"{form}:")
    node = Node(url, jobs=[WORK])
    for _ in range(3):
        asyncio.run(use(node))
    assert "different event loop" not in caplog.text


def test_a_node_on_a_file_does_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = Node(f"sqlite:///{tmp_path}/jobs.db", jobs=[WORK])
    for _ in range(3):
        asyncio.run(use(node))
    assert "different event loop" not in caplog.text


@pytest.mark.parametrize("store_url", [in_matrix("memory"), "redis", "valkey", in_matrix("etcd")], indirect=True)
def test_a_node_whose_loop_was_closed_is_released_by_a_stop_and_starts_again(store_url: str) -> None:
    assert "was closed without a stop" in after_a_closed_loop(store_url)


@pytest.mark.matrix("make test runs it on another engine")
def test_a_node_on_glide_is_too(start_server: StartServer) -> None:
    url = start_server("valkey").url.replace("valkey:", "valkey+glide:")
    assert "was closed without a stop" in after_a_closed_loop(url)


async def _schedule(node: Node) -> None:
    await node.schedule(WORK, 1)


def test_a_forked_child_is_told(redis_url: str) -> None:
    """It would use the connections of its parent."""
    read, write = os.pipe()

    async def main() -> None:
        async with Node(redis_url, jobs=[WORK], namespace="forked") as node:
            pid = os.fork()
            if pid == 0:
                asyncio._set_running_loop(None)
                try:
                    asyncio.run(_schedule(node))
                except NodeStateError as error:
                    os.write(write, str(error).encode())
                finally:
                    os._exit(0)
            await asyncio.to_thread(os.waitpid, pid, 0)
            assert await (await node.schedule(WORK, 3)).result(30) == 3

    asyncio.run(main())
    os.close(write)
    assert "was started before a fork" in os.read(read, 10_000).decode()
    os.close(read)
