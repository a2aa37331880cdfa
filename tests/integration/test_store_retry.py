"""`store_retry` and `Client(timeout=)`: calls fail sooner while the store is away, and no outcome is lost by it."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from peerjob import Client, Job, Node, Server, State, StoreUnavailableError
from support.division import in_matrix
from support.processes import ChildProcess
from support.servers import ServerProcess
from support.stalls import Stalls, now_us
from support.waiting import PATIENCE

RETRY = 1.0
ANSWER = 5.0
"""Seconds that a try waits for an answer of a server that hangs."""
SLACK = 4.0
"""Seconds that this machine may need; well below the default of 30 s."""


@pytest.mark.parametrize("hangs", [False, in_matrix(True, "each try waits for 5 s")], ids=["down", "hangs"])
async def test_a_call_fails_soon_and_the_outcome_is_committed_after_the_outage(
    durable_server: ServerProcess, namespace: str, hangs: bool
) -> None:
    runs, began, go, ended = Counter[int](), asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(number: int) -> int:
        runs[number] += 1
        began.set()
        await go.wait()
        ended.set()
        return number

    job = Job("work", work)
    # trust in the lease outlasts the outage, so that the body ends during it
    async with Node(
        durable_server.url, jobs=[job], namespace=namespace, store_retry=f"{RETRY:g}s", lease_ttl="2m"
    ) as node:
        instance = await node.schedule(job, 7)
        await began.wait()
        if hangs:
            durable_server.pause()
        else:
            durable_server.kill()
        go.set()
        await ended.wait()
        with Stalls() as stalls:
            for _ in range(3):
                called_us = now_us()
                with pytest.raises(StoreUnavailableError):
                    await node.schedule(job, 8)
                assert stalls.took(called_us) < (ANSWER if hangs else RETRY) + SLACK
        if hangs:
            durable_server.resume()
        else:
            await asyncio.to_thread(durable_server.start)

        assert await instance.result(timeout=PATIENCE) == 7
        record = await instance.refresh()
        assert (record.state, record.attempts, runs[7]) == (State.COMPLETED, 1, 1)


async def test_a_call_fails_soon_while_another_process_holds_a_file(tmp_path: Path) -> None:
    job, url = Job("work", lambda: None), f"sqlite://{tmp_path / 'a.db'}"
    async with Node(url, jobs=[job], store_retry=RETRY, lease_ttl="2m") as node:
        with ChildProcess.python("support.sqlite_process", "hold", url, output=tmp_path / "holder") as holder:
            await holder.line("holds$")
            with Stalls() as stalls:
                called_us = now_us()
                with pytest.raises(StoreUnavailableError, match=f"process {holder.pid} "):
                    await node.schedule(job)
                assert stalls.took(called_us) < ANSWER + SLACK
        await (await node.schedule(job)).result(PATIENCE)


async def test_the_timeout_of_a_client_ends_a_call_that_waits_for_the_store(
    durable_server: ServerProcess, namespace: str
) -> None:
    job = Job("work", lambda: None)
    async with (
        Node(durable_server.url, jobs=[job], namespace=namespace, lease_ttl="2m") as node,
        Server(node, "127.0.0.1:0") as server,
        Client(f"127.0.0.1:{server.port}", timeout=RETRY) as client,
    ):
        await client.schedule("work")
        durable_server.kill()
        with Stalls() as stalls:
            began_us = now_us()
            with pytest.raises(TimeoutError, match="not answered within 1 s"):
                await client.schedule("work")
            assert stalls.took(began_us) < RETRY + SLACK
        await asyncio.to_thread(durable_server.start)
