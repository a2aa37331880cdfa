"""Finding, counting, repeating and clearing instances."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from peerjob import (
    Filter,
    Instance,
    Job,
    JobFailed,
    NodeStateError,
    OptionError,
    Priority,
    Query,
    ScheduleError,
    State,
    UnknownInstanceError,
)
from peerjob.handles.observing import observe
from peerjob.model.clock import to_datetime
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import states_of


def work(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return number


WORK = Job("work", work)
OTHER = Job("other", work, tags=["blue"])


async def test_one_instance_by_id(clock: VirtualClock) -> None:
    async with running_node(WORK, OTHER, clock=clock) as node:
        instance = await node.schedule(WORK, 1)
        for id in (instance.id, instance.uuid, instance.id.upper(), f"{{{instance.id}}}"):
            assert await node.lookup_instance(id) == instance
        assert await (await node.lookup_instance(instance.id, WORK)).result() == 1
        with pytest.raises(UnknownInstanceError, match="other"):
            await node.lookup_instance(instance.id, OTHER)
        with pytest.raises(UnknownInstanceError):
            await node.lookup_instance("01900000-0000-7000-8000-000000000000")
        with pytest.raises(OptionError, match="UUID"):
            await node.lookup_instance("nonsense")


async def test_pages_are_full_and_join_up(clock: VirtualClock) -> None:
    async with running_node(WORK, clock=clock) as node:
        ids = [one.id for one in await node.schedule_many(WORK.call(number) for number in range(250))]
        await drain(node)

        query, found = Query(limit=60), list[str]()
        while True:
            page = await node.lookup_instances(query)
            found += [one.id for one in page]
            if page.cursor is None:
                break
            assert len(page) == 60
            query = query.at(page.cursor)
        assert found == ids
        assert [one.id async for one in node.iter_instances(Query(order="desc", limit=7))] == ids[::-1]
        assert [one.id for one in await node.lookup_instances(Query(limit=3, order="desc"))] == ids[:-4:-1]


async def test_every_criterion_must_match(clock: VirtualClock) -> None:
    async with running_node(WORK, OTHER, clock=clock) as node:
        good, bad = await node.schedule(WORK, 1), await node.schedule(WORK, -1)
        blue, late = await node.schedule(OTHER, 2), await node.schedule(OTHER.with_options(after=60), 3)
        await clock.advance(1)

        async def found(**criteria: Any) -> list[Instance[Any]]:
            query = Query(**criteria)
            instances = list(await node.lookup_instances(query))
            assert await node.count(query) == len(instances)
            return instances

        assert await found() == [good, bad, blue, late]
        assert await found(kind="work") == [good, bad]
        assert await found(kind="nope") == []
        assert await found(state=State.COMPLETED) == [good, blue]
        assert await found(state="completed", kind="other") == [blue]
        assert await found(state=[State.TERMINATED, State.SCHEDULED]) == [bad, late]
        assert await found(tag="blue", state=State.ACTIVE) == [late]
        assert await found(uuid=bad.uuid) == [bad]
        assert await found(uuid=bad.uuid, state=State.COMPLETED) == []
        assert await found(instance=bad) == [bad]
        assert await found(after=good.created_at, before=good.created_at + timedelta(milliseconds=1)) != []
        assert await found(before=good.created_at) == []


@pytest.mark.parametrize(
    ("criteria", "error"),
    [
        ({"limit": 0}, OptionError),
        ({"limit": 10_001}, OptionError),
        ({"order": "up"}, OptionError),
        ({"state": "nonsense"}, OptionError),
        ({"uuid": "nonsense"}, OptionError),
        ({"after": to_datetime(0).replace(tzinfo=None)}, ScheduleError),
    ],
    ids=str,
)
def test_a_query_that_cannot_be_is_refused(criteria: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Query(**criteria)


async def test_history_tells_each_state_with_its_node_and_reason(clock: VirtualClock) -> None:
    job = Job("fail", lambda: work(-1), max_retries=1, backoff=5)
    async with running_node(job, clock=clock, name="here") as node:
        instance = await node.schedule(job)
        await drain(node)

        history = await node.lookup_history(Query(instance=instance))
        assert [(str(entry.state), entry.node, entry.note) for entry in history] == [
            ("Created", "here", ""),
            ("Scheduled", "here", ""),
            ("Processing", "here", ""),
            ("Scheduled", "here", "retry 1 in 5s: ValueError: -1"),
            ("Processing", "here", ""),
            ("Terminated", "here", "ValueError: -1"),
        ]
        times = [entry.timestamp for entry in history]
        assert times == sorted(times)
        assert await states_of(instance) == [str(entry.state) for entry in history]
        only = await node.lookup_history(Query(instance=instance, state=State.PROCESSING))
        assert [entry.timestamp for entry in only] == [times[2], times[4]]


async def test_stats_count_by_kind_and_state(clock: VirtualClock) -> None:
    async with running_node(WORK, OTHER, clock=clock) as node:
        for number in (1, 2, -1):
            await node.schedule(WORK, number)
        await node.schedule(OTHER.with_options(after=60), 1)
        await clock.advance(1)
        stats = await node.stats()

        assert stats.total() == 4
        assert stats.total(State.FINAL) == 3
        assert stats.total(State.COMPLETED, "work") == 2
        assert stats.total(State.ACTIVE, "nope") == 0
        assert (stats.delayed, stats.nodes, stats.undecodable) == (1, 1, 0)


async def test_an_instance_is_repeated_with_its_arguments_and_options(clock: VirtualClock) -> None:
    runs: list[int] = []

    def fail(number: int) -> None:
        runs.append(number)
        raise ValueError

    job = Job("fail", fail)
    async with running_node(job, clock=clock) as node:
        variant = job.with_options(
            max_retries=1, priority=3, tags=["again"], key="once", retention="10m", max_crashes=7, after=60
        )
        old = await node.schedule(variant, 5)
        with pytest.raises(NodeStateError, match="final"):
            await old.retry()
        await drain(node)
        new = await old.retry()

        assert (new.retry_of, new.id != old.id, new.is_new) == (old.uuid, True, True)
        assert (new.args, new.priority, new.tags, new.attempts) == (old.args, 3, ("again",), 0)
        with pytest.raises(JobFailed):
            await clock.run(new.result(), limit=30)
        assert runs == [5, 5, 5, 5]
        assert new.attempts == 2
        assert (await old.refresh()).state is State.TERMINATED
        await clock.advance("15m")
        with pytest.raises(UnknownInstanceError):
            await new.refresh()


async def test_all_that_match_are_repeated(clock: VirtualClock) -> None:
    async with running_node(WORK, clock=clock) as node:
        await node.schedule_many(WORK.call(number) for number in range(-5, 5))
        waiting = await node.schedule(WORK.with_options(after="1h"), 9)
        await clock.advance(1)
        again = await node.retry_instances(Query(state=State.TERMINATED))

        assert sorted(one.args[0] for one in again) == [-5, -4, -3, -2, -1]
        await clock.advance(1)
        assert await node.count(Query(state=State.TERMINATED)) == 10
        assert await node.retry_instances(Query(instance=waiting)) == []


async def test_clear_instances_takes_final_ones_that_match(clock: VirtualClock) -> None:
    async with running_node(WORK, clock=clock) as node:
        old = await node.schedule(WORK, 1)
        await clock.advance("5m")
        new, waiting = await node.schedule(WORK, 2), await node.schedule(WORK.with_options(after="1h"), 3)
        await clock.advance(1)

        assert await node.clear_instances(Filter(older_than="3m")) == 1
        assert list(await node.lookup_instances()) == [new, waiting]
        with pytest.raises(UnknownInstanceError):
            await old.refresh()
        assert await node.clear_instances() == 1
        assert list(await node.lookup_instances()) == [waiting]


async def test_clear_history_folds_and_clear_logs_forgets(clock: VirtualClock) -> None:
    def talk(instance: Instance[Any]) -> None:
        instance.log.info("hello")

    async with running_node(Job("talk", talk), clock=clock) as node:
        instance = await node.schedule("talk")
        await drain(node)

        assert await node.clear_history() == 1
        assert (await states_of(instance))[-1] == "Completed"
        assert len(await states_of(instance)) <= 2
        assert len(await instance.logs()) == 1
        assert await node.clear_logs(Filter(after=to_datetime(clock.time_us()) + timedelta(hours=1))) == 0
        assert await node.clear_logs() == 1
        assert await instance.logs() == []
        assert (await instance.refresh()).state is State.COMPLETED


async def test_clear_forgets_everything_and_ends_what_runs(clock: VirtualClock) -> None:
    import asyncio

    reasons: list[str | None] = []

    async def long() -> None:
        from peerjob import Context

        try:
            await asyncio.sleep(60)
        finally:
            reasons.append(Context.current().reason)

    async with running_node(Job("long", long), WORK, clock=clock, workers=2) as node:
        await node.schedule_many(node.job("long").call() for _ in range(4))
        await clock.advance(1)
        await node.clear()
        await clock.advance(5)

        assert reasons == ["lost", "lost"]
        assert await node.count() == 0
        assert await clock.run((await node.schedule(WORK, 3)).result()) == 3


async def test_final_instances_leave_by_themselves_with_all_that_belongs_to_them(clock: VirtualClock) -> None:
    async with running_node(WORK, clock=clock) as node:
        instance = await node.schedule(WORK.with_options(retention="5m"), 1)
        await drain(node)
        await clock.advance("6m")
        with pytest.raises(UnknownInstanceError):
            await instance.refresh()
        assert await node.count() == 0


async def test_only_instances_that_are_due_and_come_first_are_ahead_of_one(clock: VirtualClock) -> None:
    async def hang() -> None:
        await asyncio.sleep(1000)

    job, first = Job("hang", hang), Priority.HIGH
    async with running_node(job, clock=clock, workers=1) as node:
        await node.schedule(job)
        await clock.advance(1)
        await node.schedule(job.with_options(priority=first))
        await node.schedule(job.with_options(priority=first, after="1h"))
        await node.schedule(job.with_options(priority=Priority.LOW))
        await node.schedule("elsewhere", allow_unknown=True)
        instance = await node.schedule(job)
        seen = await observe(node, instance, to_datetime(clock.time_us()))
        assert (seen.before, seen.counted_all) == (1, True)
