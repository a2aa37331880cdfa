"""Work that several callers share has no context variables of one of them, such as a span or a tenant."""

import asyncio
import contextvars
from pathlib import Path
from typing import Any

import pytest

from peerjob import Client, Job, Manager, Node, Query
from support.rpc import served

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")
PER_CALL = frozenset({"act", "lookup_instance", "final_or_removed", "_invoke"})
"""Tasks that one call starts, awaits and ends."""


def work() -> str:
    return tenant.get()


WORK = Job("work", work)


class StartedTasks:
    """The names of the coroutines whose task has the context of a caller."""

    def __init__(self) -> None:
        self.of_callers: set[str] = set()
        factory: Any = self._make
        asyncio.get_running_loop().set_task_factory(factory)

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        context = options.get("context") or contextvars.copy_context()
        if context.get(tenant, "none") != "none":
            self.of_callers.add(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)


async def act(manager: Manager, number: int) -> None:
    tenant.set(f"tenant {number}")
    made = await manager.schedule(WORK)
    await asyncio.gather(*(manager.lookup_instance(made.id) for _ in range(3)))
    assert await made.result(30) == "none"
    await made.retry()
    await manager.lookup_instances(Query(kind="work"))
    schedule = await manager.add_schedule(WORK.with_options(every="1d", name=f"daily {number}"))
    await schedule.trigger()
    await manager.cancel_instances(Query(uuid=made.id))
    await manager.count()
    await manager.wait(timeout=30)


@pytest.mark.parametrize("over", ["node", "client"])
async def test_no_task_of_a_verb_that_serves_others_has_the_context_of_a_caller(over: str, tmp_path: Path) -> None:
    # a store in memory answers at once, so that no calls wait for the answer to another
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with served(WORK, store=url) as (node, server), Client(server.target, jobs=[WORK]) as client:
        manager: Manager = node if over == "node" else client
        started = StartedTasks()
        await asyncio.gather(*(act(manager, number) for number in range(20)))
        tenant.set("operator")
        await manager.resize_workers(8)
        await manager.drain(30)
        await manager.undrain()
        assert {name for name in started.of_callers if name.rpartition(".")[2] not in PER_CALL} == set()


def test_a_blocking_node_has_the_context_of_its_maker_and_not_of_the_first_caller() -> None:
    manager = Node("memory://", jobs=[WORK]).blocking()

    def request() -> str:
        tenant.set("first")
        return manager.schedule(WORK).result(30)

    try:
        assert contextvars.copy_context().run(request) == "none"
    finally:
        manager.close()
