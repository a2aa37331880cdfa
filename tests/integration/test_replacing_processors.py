"""Processors are called for an instance that a later fire replaces, as for any cancelled one, on each engine."""

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from peerjob import Instance, Job, Node, State
from support.waiting import PATIENCE


async def sleep() -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("store_url", ["redis", "etcd"], indirect=True)
@pytest.mark.parametrize("by", ["fire", "trigger"])
async def test_processors_hear_once_that_an_instance_was_replaced(store_url: str, namespace: str, by: str) -> None:
    loop = asyncio.get_running_loop()
    states: dict[str, list[State]] = defaultdict(list)
    replaced: asyncio.Future[str] = loop.create_future()

    async def on_state_change(instance: Instance[Any], state: State) -> None:
        states[instance.id].append(state)
        if state is State.CANCELLED and not replaced.done():
            replaced.set_result(instance.id)

    job = Job("sleep", sleep, on_state_change=on_state_change)
    async with Node(store_url, jobs=[job], namespace=namespace, workers=2) as node:
        every = "500ms" if by == "fire" else "1d"
        schedule = await node.add_schedule(job.with_options(every=every, overlap="replace", name="often"))
        if by == "trigger":
            assert await schedule.trigger() is not None
            assert await schedule.trigger() is not None
        async with asyncio.timeout(PATIENCE):
            first = await replaced
        await schedule.remove()

        assert (await node.lookup_instance(first)).state is State.CANCELLED
    assert states[first].count(State.CANCELLED) == 1
