"""Child processes of a node on etcd survive until their first output."""

import asyncio
import sys

import pytest
import uvloop

from peerjob import Job, Node

PROGRAMS = 60
"""With the fork handlers of gRPC, about six of them would die."""


async def start_programs(url: str) -> list[int | None]:
    async with Node(url, namespace="fork", workers=0, allow_unknown=True) as node:

        async def work() -> None:
            while True:
                await node.schedule_many(Job("work").call(n) for n in range(100))

        working = asyncio.create_task(work())
        ends: list[int | None] = []
        for _ in range(PROGRAMS):
            program = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
            ends.append(await program.wait())
        working.cancel()
        await node.clear()
    return ends


@pytest.mark.matrix("forks for many seconds")
def test_programs_that_uvloop_starts_survive_calls_under_way(etcd_url: str) -> None:
    assert uvloop.run(start_programs(etcd_url)) == [0] * PROGRAMS
