"""The jobs that keep a namespace small."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from peerjob import INJECTED, Instance, Job, Node, Query, State, history_cleaner, instance_cleaner, log_cleaner
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import advance, running_node
from support.factories import lines_of, shared_url, states_of

BEFORE_MIDNIGHT = datetime(2026, 1, 1, 23, 50, tzinfo=UTC)


def work(instance: Instance[Any] = INJECTED) -> None:
    instance.log.info("worked")


async def nap() -> None:
    await asyncio.sleep(86_400)


WORK = Job("work", work, retention="90d")
SAYS = {
    history_cleaner: "folded the history of",
    log_cleaner: "removed the logs of",
    instance_cleaner: "removed",
}
CLEANERS = [*SAYS]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(start=BEFORE_MIDNIGHT)


async def last_of(node: Node, kind: str) -> Instance[Any]:
    (instance,) = await node.lookup_instances(Query(kind=kind, order="desc", limit=1))
    return instance


def test_their_kinds_and_their_defaults() -> None:
    assert [(one.kind, one.options["cron"]) for one in (make() for make in CLEANERS)] == [
        ("system.history.cleaner", "0 0 * * *"),
        ("system.log.cleaner", "0 0 * * *"),
        ("system.instance.cleaner", "0 0 * * *"),
    ]


@pytest.mark.parametrize("make", CLEANERS, ids=lambda make: make.__name__)
async def test_each_clears_its_own_of_what_is_old_at_midnight_and_says_so(clock: VirtualClock, make: Any) -> None:
    cleaner = make("8m")
    async with running_node(WORK, cleaner, clock=clock) as node:
        old = await node.schedule("work")
        await advance(node, "5m")
        new = await node.schedule("work")
        await advance(node, "6m")

        left = {one.id for one in await node.lookup_instances(Query(kind="work"))}
        assert left == ({new.id} if make is instance_cleaner else {old.id, new.id})
        assert await lines_of(new) == ["worked"]
        assert len(await states_of(new)) == 4
        if make is log_cleaner:
            assert await lines_of(old) == []
        elif make is history_cleaner:
            assert await states_of(old) == ["Completed"]
            assert await lines_of(old) == ["worked"]
        ran = await last_of(node, cleaner.kind)
        assert await ran.result() == 1
        (line,) = await lines_of(ran)
        assert line == f"{SAYS[make]} 1 final instance(s) older than 8m"


@pytest.mark.parametrize("make", CLEANERS, ids=lambda make: make.__name__)
async def test_by_default_what_is_younger_than_30_days_stays(clock: VirtualClock, make: Any) -> None:
    url, cleaner = shared_url(), make(cron="0 0 29 2 *")
    async with running_node(WORK, clock=clock, store=url) as node:
        await node.schedule("work")
        await advance(node, 10)
    for passes, cleared in (("29d", 0), ("2d", 1)):
        await clock.advance(passes)
        async with running_node(cleaner, clock=clock, store=url) as node:
            assert await (await node.schedule(cleaner)).result() == cleared


async def test_the_age_is_judged_at_each_run(clock: VirtualClock) -> None:
    cleaner = instance_cleaner(older_than="19m", cron="*/10 * * * *")
    async with running_node(WORK, cleaner, clock=clock) as node:
        await node.schedule("work")
        await advance(node, "15m")
        assert await node.count(Query(kind="work")) == 1
        await advance(node, "10m")
        assert await node.count(Query(kind="work")) == 0


async def test_what_is_not_final_stays(clock: VirtualClock) -> None:
    async with running_node(Job("nap", nap), instance_cleaner(0), clock=clock) as node:
        running = await node.schedule("nap")
        waiting = await node.schedule(Job("elsewhere"))
        await advance(node, "11m")
        assert (await running.refresh()).state is State.PROCESSING
        assert (await waiting.refresh()).state is State.SCHEDULED


async def test_a_run_by_hand_may_take_another_age(clock: VirtualClock) -> None:
    async with running_node(WORK, log_cleaner(), clock=clock) as node:
        worked = await node.schedule("work")
        await advance(node, 10)
        assert await (await node.schedule("system.log.cleaner", older_than="5s")).result() == 1
        assert await lines_of(worked) == []


async def test_other_options_come_with_a_variant(clock: VirtualClock) -> None:
    cleaner = history_cleaner("7d").with_options(timezone="Asia/Tokyo", priority=9)
    async with running_node(cleaner, clock=clock) as node:
        schedule = await node.lookup_schedule("system.history.cleaner")
        assert (schedule.timezone, schedule.priority) == ("Asia/Tokyo", 9)
        assert schedule.next_at == BEFORE_MIDNIGHT + timedelta(hours=15, minutes=10)


def test_an_age_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="older_than"):
        instance_cleaner("soon")
