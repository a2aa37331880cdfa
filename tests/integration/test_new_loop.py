"""A node that ran in one event loop starts again in another one, as in tests, notebooks and scripts."""

import asyncio
from pathlib import Path

import pytest

from peerjob import Job, Node
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


def test_a_node_runs_under_load_in_one_loop_after_the_other(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    node = Node(store_url, jobs=[WORK], namespace="loops")
    for _ in range(3):
        asyncio.run(use(node))
    assert "different event loop" not in caplog.text


@pytest.mark.parametrize("form", ["valkey", "valkey+glide", "durable"])
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
