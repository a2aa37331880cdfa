"""Kinds that are scheduled where they are not registered."""

import logging
from typing import Any, cast

import pytest

from peerjob import Client, Job, JobConflictError, Node, Query, Server, State, UnknownKindError
from peerjob.model.ids import IdSource
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import running_nodes


def double(x: int) -> int:
    return 2 * x


def triple(x: int) -> int:
    return 3 * x


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_a_job_object_is_served_where_it_is_scheduled(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(clock=clock) as node:
        instance = await node.schedule(Job("double", double), 21)
        assert await clock.run(instance.result()) == 42
        many = await node.schedule_many([Job("triple", triple).call(1), Job("triple", triple).call(2)])
        assert [await clock.run(one.result()) for one in many] == [3, 6]
        assert await clock.run((await node.schedule("triple", 3)).result()) == 9
        assert [message.split(" was ")[0] for message in warnings_of(caplog)] == ["job 'double'", "job 'triple'"]


@pytest.mark.parametrize("verb", ["schedule", "schedule_many", "add_schedule"])
async def test_each_verb_that_takes_a_job_serves_it_here(clock: VirtualClock, verb: str) -> None:
    """And has done so when it returns: the next text is a known kind."""
    every = Job("double", double, every="5m")
    async with running_node(clock=clock) as node:
        match verb:
            case "schedule":
                await node.schedule(every, 21)
            case "schedule_many":
                await node.schedule_many([every.call(21)])
            case _:
                await node.add_schedule(every, 21)
                await clock.advance("5m")
        assert await clock.run((await node.schedule("double", 4)).result()) == 8
        await drain(node)
        done = await node.lookup_instances(Query(kind="double"))
        assert [one.state for one in done] == [State.COMPLETED] * 2
        assert [kind for view in await node.nodes() for kind in view.info.kinds if kind == "double"] == ["double"]


async def test_a_function_that_is_made_anew_at_each_call_is_one_job(clock: VirtualClock) -> None:
    async with running_node(clock=clock) as node:
        instances = [await node.schedule(Job("k", lambda x: x + 1), number) for number in range(3)]
        assert [await clock.run(one.result()) for one in instances] == [1, 2, 3]


@pytest.mark.parametrize("how", ["default", "keyword"])
async def test_functions_of_one_text_that_differ_otherwise_are_two_jobs(clock: VirtualClock, how: str) -> None:
    def made(n: int) -> Any:
        return (lambda x, y=n: x + y) if how == "default" else (lambda x, *, y=n: x + y)

    async with running_node(clock=clock) as node:
        await node.schedule(Job("k", made(1)), 1)
        with pytest.raises(JobConflictError):
            await node.schedule(Job("k", made(2)), 1)
        assert await clock.run((await node.schedule(Job("k", made(1)), 5)).result()) == 6


async def test_two_closures_of_one_function_are_two_jobs(clock: VirtualClock) -> None:
    def adder(n: int) -> Job[[int], int, int]:
        def add(x: int) -> int:
            return x + n

        return Job("add", add)

    async with running_node(clock=clock) as node:
        await node.schedule(adder(1), 1)
        with pytest.raises(JobConflictError):
            await node.schedule(adder(2), 1)


async def test_a_variant_registers_its_definition_and_no_schedule(clock: VirtualClock) -> None:
    job = Job("double", double, max_retries=3, cron="* * * * *", name="often")
    async with running_node(clock=clock) as node:
        instance = await node.schedule(job.with_options(max_retries=7, at="2030-01-01T00:00Z"), 1)
        await instance.cancel()
        registered = node.job("double")
        assert (registered.policy.max_retries, registered.overrides, registered.timing.recurs) == (3, {}, False)
        await clock.advance("5m")
        assert await node.schedules() == []
        assert [one.kind for one in await node.lookup_instances()] == ["double"]


async def test_add_schedule_serves_its_job(clock: VirtualClock) -> None:
    async with running_node(clock=clock) as node:
        await node.add_schedule(Job("double", double, every="1m"), 4)
        await clock.advance("3m")
        results = [await one.result() for one in await node.lookup_instances()]
        assert len(results) >= 2
        assert set(results) == {8}


async def test_another_function_under_a_kind_is_a_conflict(clock: VirtualClock) -> None:
    async with running_node(Job("double", double), clock=clock) as node:
        other = Job("double", triple)
        for call in (node.schedule(other, 1), node.schedule_many([Job("new", double).call(1), other.call(1)])):
            with pytest.raises(
                JobConflictError, match=r"double.*test_unregistered_kinds:double.*test_unregistered_kinds:triple"
            ):
                await call
        with pytest.raises(JobConflictError):
            await node.add_schedule(other.with_options(every="1m"), 1)
        assert [job.kind for job in node.jobs()] == ["double"]
        assert len(await node.lookup_instances()) == 0
        assert await node.schedules() == []


async def test_bad_arguments_register_nothing(clock: VirtualClock) -> None:
    async with running_node(clock=clock) as node:
        with pytest.raises(TypeError):
            await node.schedule(cast(Any, Job("double", double)), 1, 2)
        assert node.jobs() == []


async def test_a_kind_that_was_unregistered_stays_so(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    job = Job("double", double)
    async with running_node(job, clock=clock) as node:
        node.unregister("double")
        await clock.advance(10)
        await node.schedule(job, 1)
        assert node.jobs() == []
        assert (await node.stats()).unserved == {"double": 1}
        assert [message for message in warnings_of(caplog) if "'double', which no live node runs" in message]


async def test_a_node_without_workers_takes_a_job_and_warns_once(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(clock=clock, workers=0) as gateway:
        for _ in range(3):
            await gateway.schedule(Job("double", double), 1)
        assert (gateway.jobs(), (await gateway.stats()).unserved) == ([], {"double": 3})
        assert len(warnings_of(caplog)) == 1


async def test_a_kind_by_name_must_have_been_published(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b") as (a, b):
        with pytest.raises(UnknownKindError, match="no node knows the kind 'double'"):
            await b.schedule("double", 4)
        with pytest.raises(UnknownKindError):
            await b.add_schedule("double", 4)
        assert len(await b.lookup_instances()) == 0
        a.register(Job("double", double))
        await clock.advance(1)
        assert await clock.run((await b.schedule("double", 4)).result()) == 8
        await a.stop()
        waiting = await b.schedule("double", 5)
        await clock.advance(10)
        assert (await b.stats()).unserved == {"double": 1}
        b.register(Job("double", double))
        assert await clock.run(waiting.result()) == 10


async def test_a_client_follows_the_same_rules(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        Node("memory://", workers=0) as gateway,
        Server(gateway, "127.0.0.1:0") as server,
        Client(server.target) as client,
    ):
        for schedule in (client.schedule, client.add_schedule):
            with pytest.raises(UnknownKindError, match="no node knows the kind 'double'"):
                await schedule("double", 1)
        with pytest.raises(UnknownKindError):
            await client.schedule_known(IdSource(client.clock).one(), Job("double", max_retries=1).call(1))
        with pytest.raises(UnknownKindError):
            await client.add_known_schedule(Job("double", every="1m").call(1))
        for _ in range(2):
            await client.schedule(Job("double", double), 1)
        await client.schedule("double", 1, allow_unknown=True)
        assert (await client.stats()).unserved == {"double": 3}
        own = [record for record in caplog.records if record.name == "peerjob.client"]
        assert [record.getMessage().split(";")[0] for record in own] == ["no live node runs the kind 'double'"]
