"""What one job leaves behind in context variables is not seen by the code of any other."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from peerjob import Context, Depends, Instance, Job, Node, State, SystemClock
from peerjob.testing import VirtualClock, drain, running_node
from support import bodies
from support.factories import lines_of, shared_url

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")


async def later() -> str:
    seen = tenant.get()
    tenant.set("another job's")
    return seen


def sync() -> str:
    seen = tenant.get()
    tenant.set("another job's")
    return seen


@pytest.mark.parametrize("start", ["none", "the node's"])
async def test_bodies_begin_with_the_variables_of_their_nodes_start(clock: VirtualClock, start: str) -> None:
    jobs = [Job("later", later), Job("sync", sync), Job("inline", sync, run_in="async")]
    token = tenant.set(start)
    try:
        async with running_node(jobs, clock=clock, workers=2) as node:
            tenant.set("the caller's")
            instances = await node.schedule_many(job.call() for _ in range(30) for job in jobs)
            await drain(node)
            assert {await one.result() for one in instances} == {start}
    finally:
        tenant.reset(token)


async def test_a_lifespan_may_set_variables_for_the_bodies(clock: VirtualClock) -> None:
    class Lifespan:
        def __init__(self, node: Node) -> None: ...

        async def __aenter__(self) -> None:
            tenant.set("the lifespan's")

        async def __aexit__(self, *exc: object) -> None: ...

    async with running_node(Job("later", later), clock=clock, lifespan=Lifespan) as node:
        assert await clock.run((await node.schedule("later")).result()) == "the lifespan's"


async def test_bodies_in_one_process_begin_with_the_variables_of_its_start() -> None:
    jobs = [Job("sync", bodies.leaves_a_variable, run_in="process"), Job("later", bodies.leaves_one, run_in="process")]
    async with running_node(jobs, clock=SystemClock(), workers=1) as node:
        results = [await (await node.schedule(job)).result(timeout=60) for _ in range(2) for job in jobs]
        assert len({pid for pid, _ in results}) == 1
        assert {seen for _, seen in results} == {"none"}


async def test_a_resource_shares_its_variables_with_its_body_alone(clock: VirtualClock) -> None:
    seen: list[str] = []

    async def of_loop() -> AsyncGenerator[str]:
        seen.append(tenant.get())
        token = tenant.set("the resource's")
        yield "x"
        tenant.reset(token)

    def of_thread() -> Generator[str]:
        seen.append(tenant.get())
        token = tenant.set("the resource's")
        yield "x"
        tenant.reset(token)

    async def async_body(x: str = Depends(of_loop)) -> str:
        return tenant.get()

    def body(x: str = Depends(of_thread)) -> str:
        return tenant.get()

    jobs = [Job("async", async_body), Job("thread", body)]
    async with running_node(jobs, clock=clock, workers=1) as node:
        for job in jobs * 2:
            assert await clock.run((await node.schedule(job)).result()) == "the resource's"
    assert seen == ["none"] * 4


async def test_a_resource_of_the_node_does_not_see_the_run_that_asked_first(clock: VirtualClock) -> None:
    def of_attempt() -> None:
        tenant.set("another job's")

    def of_node() -> str:
        return tenant.get()

    async def body(first: None = Depends(of_attempt), second: str = Depends(of_node, scope="node")) -> str:
        return second

    async with running_node(Job("body", body), clock=clock) as node:
        assert await clock.run((await node.schedule("body")).result()) == "none"


@pytest.mark.parametrize("is_async", [True, False])
async def test_processors_and_backoffs_see_no_variable_of_any_body(clock: VirtualClock, is_async: bool) -> None:
    seen: list[tuple[str, str]] = []

    def note(who: str) -> int:
        seen.append((who, tenant.get()))
        tenant.set("another processor's")
        return 1

    def processor(who: str) -> Any:
        async def callback(instance: Instance[Any], _: object) -> None:
            note(who)
            assert Context.current().id in ("", instance.id)

        return callback if is_async else lambda instance, _: note(who)

    async def fails() -> None:
        tenant.set("another job's")
        raise ValueError

    async def schedules(node: Node) -> str:
        tenant.set("the caller's")
        return (await node.schedule("works")).id

    options = {"on_complete": processor("complete"), "on_state_change": processor("state")}
    jobs = [
        Job("works", later, **options),
        Job(
            "fails",
            fails,
            max_retries=1,
            retry_on=lambda error: bool(note("retry_on")),
            backoff=lambda instance, error: note("backoff"),
            on_terminate=processor("terminate"),
            on_state_change=processor("state"),
        ),
        Job("schedules", schedules),
    ]
    async with running_node(jobs, clock=clock, workers=1) as node:
        await node.schedule("fails")
        await node.schedule("schedules")
        await drain(node)
        await clock.settle()
        assert await node.count() == 3
    assert {who for who, _ in seen} == {"complete", "state", "terminate", "backoff", "retry_on"}
    assert {variable for _, variable in seen} == {"none"}


async def test_each_node_of_a_process_keeps_the_lines_of_its_own_runs_once(clock: VirtualClock) -> None:
    async def talk(instance: Instance[Any]) -> None:
        logging.getLogger("app").warning("captured")
        instance.log.info("own")

    url, job = shared_url(), Job("talk", talk)
    async with (
        running_node(job, clock=clock, store=url, name="a") as a,
        running_node(job, clock=clock, store=url, name="b"),
    ):
        instances = [await a.schedule("talk") for _ in range(4)]
        await drain(a)
        await clock.advance(1)
        for instance in instances:
            assert await lines_of(instance) == ["captured", "own"]
        assert {(await one.refresh()).state for one in instances} == {State.COMPLETED}
    assert asyncio.all_tasks() == {asyncio.current_task()}
