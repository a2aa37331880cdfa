"""A call that acts and is repeated with the same id: it acts once, and has the answer of the first."""

import asyncio
import re
from typing import Any
from uuid import uuid4

import pytest

from peerjob import (
    FireOutcome,
    Instance,
    Job,
    Node,
    NodeStateError,
    OptionError,
    Overlap,
    Query,
    State,
    StoreUnavailableError,
    UnknownInstanceError,
)
from peerjob.model.ids import IdSource, derived_id, id_time_us
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node
from support.factories import flaky_store, running_nodes, shared_url


def add(x: int, y: int) -> int:
    return x + y


def fail(number: int) -> None:
    raise ValueError(number)


async def nap() -> None:
    await asyncio.sleep(60)


ADD, FAIL = Job("add", add), Job("fail", fail, max_retries=0)
NAP = Job("nap", nap, every="1d", name="nap")


async def final(node: Node) -> Instance[Any]:
    made = await node.schedule(ADD, 1, 2)
    return await made.wait(30)


# -- schedule_as


async def test_a_repeated_id_shows_what_is_stored(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        id, other = IdSource(clock).take(2)
        assert (await node.schedule_as(id, ADD.call(1, 2))).is_new
        await drain(node)
        again = await node.schedule_as(id, ADD.call(5, 6))
        assert (again.args, again.state, again.is_new) == ((1, 2), State.COMPLETED, False)
        made = await node.schedule_many([ADD.call(7, 8), ADD.call(9, 9)], ids=[id, other])
        assert [(one.args, one.is_new) for one in made] == [((1, 2), False), ((9, 9), True)]


async def test_a_bulk_call_that_cannot_read_what_was_stored_before_is_unsure(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(ADD, store=flaky.store, clock=clock) as node:
        keyed = ADD.with_options(key="k")
        await node.schedule(keyed, 1, 2)
        flaky.fail("get")
        with pytest.raises(StoreUnavailableError) as caught:
            await node.schedule_many([ADD.call(3, 4), keyed.call(5, 6)])
        flaky.heal()
        assert caught.value.is_unsure
        assert await node.count() == 2


async def test_an_id_of_another_kind_is_refused(clock: VirtualClock) -> None:
    renamed = Job("sum", add, aliases=["add"])
    async with running_nodes(clock, "a", "b", jobs=[ADD, FAIL]) as (one, two):
        id = IdSource(clock).one()
        made = await one.schedule_as(id, ADD.call(1, 2))
        await made.wait(30)
        before = (await made.refresh()).record
        for node in (one, two):
            with pytest.raises(
                OptionError, match="uuid: expected an id that no instance of another kind has"
            ) as caught:
                await node.schedule_as(id, FAIL.call(1))
            assert not re.search(r"\badd\b", str(caught.value))
            with pytest.raises(OptionError, match=id):
                await node.schedule_many([FAIL.call(1)], ids=[id])
        assert (await made.refresh()).record == before
        assert await one.count() == 1
        # a job that has the kind as an alias is the same job
        two.unregister("add")
        two.register(renamed)
        again = await two.schedule_as(id, renamed.call(5, 6))
        assert (again.id, again.is_new, again.kind) == (id, False, "add")


async def test_a_call_whose_answer_the_store_lost_is_new(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(ADD, clock=clock, store=flaky.store, workers=0) as node:
        flaky.repeat("enqueue", times=2)
        id = IdSource(clock).one()
        assert (await node.schedule_as(id, ADD.call(1, 2))).is_new
        assert (await node.schedule(ADD, 1, 2)).is_new
        assert await node.count() == 2


async def test_a_repeat_of_what_was_removed_adds_nothing(clock: VirtualClock) -> None:
    brief = ADD.with_options(retention="0s")
    async with running_node(ADD, clock=clock) as node:
        id = IdSource(clock).one()
        await node.schedule_as(id, brief.call(1, 2))
        await drain(node)
        await node.clear_instances()
        again = await node.schedule_as(id, brief.call(1, 2))
        assert (again.id, again.is_new) == (id, False)
        assert await node.count() == 0


# -- retry


async def test_a_repeated_retry_is_the_first_one(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b", jobs=[ADD]) as (one, two):
        old, id = await final(one), IdSource(clock).one()
        first = await old.retry(id=id)
        assert (first.id, str(first.retry_of)) == (id, old.id)
        assert (await two.retry_instance(old.id, id=id.upper())).id == id
        await first.wait(30)
        again = await two.retry_instance(old.id, id=id)
        assert (again.id, again.state) == (id, State.COMPLETED)
        assert await one.count() == 2
        assert (await old.retry()).id != id


async def test_a_repeated_retry_calls_processors_once(clock: VirtualClock) -> None:
    seen: list[tuple[str, State]] = []
    told = Job("told", add, on_state_change=lambda instance, state: seen.append((instance.id, state)))
    async with running_node(told, clock=clock) as node:
        made = await (await node.schedule(told, 1, 2)).wait(30)
        id = IdSource(clock).one()
        for _ in range(2):
            await node.retry_instance(made.id, id=id)
            await clock.advance(1)
        assert [state for one, state in seen if one == id].count(State.CREATED) == 1


async def test_a_retry_is_known_for_longer_than_the_old_instance(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        old, id = await final(node), IdSource(clock).one()
        await node.retry_instance(old.id, id=id)
        await node.clear_instances()
        assert (await node.retry_instance(old.id, id=id)).id == id
        with pytest.raises(UnknownInstanceError):
            await node.retry_instance(old.id, id=IdSource(clock).one())
        with pytest.raises(UnknownInstanceError):
            await node.retry_instance(str(uuid4()), id=id)


async def test_a_retry_refuses_the_id_of_another_instance(clock: VirtualClock) -> None:
    async with running_node(ADD, clock=clock) as node:
        old, other = await final(node), await final(node)
        for id in (other.id, old.id):
            with pytest.raises(OptionError, match="id: expected an id that only a retry of"):
                await node.retry_instance(old.id, id=id)
        with pytest.raises(OptionError, match="id: expected a UUIDv7 of about now"):
            await node.retry_instance(old.id, id=uuid4())
        assert await node.count() == 2
        waiting = await node.schedule(ADD.with_options(after="1h"), 1, 2)
        with pytest.raises(NodeStateError):
            await node.retry_instance(waiting.id, id=IdSource(clock).one())


async def test_a_repeated_retry_of_many_makes_nothing_more(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b", jobs=[FAIL]) as (one, two):
        await one.schedule_many([FAIL.call(number) for number in range(20)])
        await drain(one)
        failed, id = Query(state=State.TERMINATED), IdSource(clock).one()
        first = await one.retry_instances(failed, id=id)
        assert [made.id for made in first] == [derived_id(id, str(made.retry_of)) for made in first]
        await drain(one)
        # the new instances have failed too, and match; the repeat makes no instances of them
        again = await two.retry_instances(failed, id=id)
        assert [made.id for made in again] == [made.id for made in first]
        assert {made.state for made in again} == {State.TERMINATED}
        assert await one.count() == 40
        assert len(await one.retry_instances(failed)) == 40


async def test_a_retry_of_many_keeps_their_order(clock: VirtualClock) -> None:
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    job = Job("note", note)
    async with running_node(job, clock=clock, workers=1) as node:
        await node.schedule_many([job.call(number) for number in range(300)])
        await drain(node)
        # the second retry is also of retries, which have one time in their ids
        for _ in range(2):
            ran.clear()
            made = await node.retry_instances(Query(kind="note"))
            await drain(node)
            assert ran == [one.args[0] for one in made]


# -- trigger


@pytest.mark.parametrize("overlap", list(Overlap))
async def test_a_repeated_trigger_is_the_first_one(clock: VirtualClock, overlap: Overlap) -> None:
    async with running_nodes(clock, "a", "b", jobs=[NAP.with_options(overlap=overlap.value)]) as (one, two):
        id = IdSource(clock).one()
        first = await (await one.lookup_schedule("nap")).trigger(id=id)
        assert first is not None
        assert first.id == id
        for _ in range(2):
            await clock.advance(40)
            again = await two.trigger_schedule("nap", id=id)
            assert again is not None
            assert (again.id, again.state) == (id, (await one.lookup_instance(id)).state)
        assert await one.count() == 1
        (fire,) = await one.fires("nap")
        assert (fire.outcome, fire.instance_id) == (FireOutcome.TRIGGERED, id)


async def test_a_repeated_trigger_is_skipped_as_the_first(clock: VirtualClock) -> None:
    async with running_node(NAP.with_options(overlap="skip"), clock=clock) as node:
        running = await node.trigger_schedule("nap")
        assert running is not None
        id = IdSource(clock).one()
        assert await node.trigger_schedule("nap", id=id) is None
        await running.wait(100)
        assert await node.trigger_schedule("nap", id=id) is None
        assert await node.count() == 1
        assert len(await node.fires("nap")) == 2


async def test_a_trigger_has_the_time_of_its_id(clock: VirtualClock) -> None:
    async with running_node(NAP, clock=clock) as node:
        id = IdSource(clock).one()
        await clock.advance(3)
        await node.trigger_schedule("nap", id=id)
        (fire,) = await node.fires("nap")
        assert fire.record.nominal_us == id_time_us(id)
        assert fire.record.at_us > fire.record.nominal_us
        assert fire.late.total_seconds() == 0


async def test_a_trigger_refuses_the_id_of_another_instance(clock: VirtualClock) -> None:
    async with running_node(ADD, NAP, clock=clock) as node:
        other = await final(node)
        with pytest.raises(OptionError, match="id: expected an id that only an instance of schedule 'nap'"):
            await node.trigger_schedule("nap", id=other.id)
        assert await node.fires("nap") == []
        assert await node.count() == 1


# -- lost answers


@pytest.mark.parametrize("what", ["retry", "retries", "trigger"])
async def test_a_call_whose_answer_was_lost_is_repeated_on_another_node(clock: VirtualClock, what: str) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    async with (
        running_node(ADD, NAP, clock=clock, store=flaky.store) as one,
        running_node(ADD, NAP, clock=clock, store=url) as two,
    ):
        old, id = await final(one), IdSource(clock).one()
        flaky.lose_answers("enqueue", "fire")

        async def act(node: Node) -> list[str]:
            if what == "retry":
                return [(await node.retry_instance(old.id, id=id)).id]
            if what == "retries":
                return [made.id for made in await node.retry_instances(Query(kind="add"), id=id)]
            made = await node.trigger_schedule("nap", id=id)
            return [made.id] if made is not None else []

        with pytest.raises(StoreUnavailableError):
            await act(one)
        assert await two.count() == 2
        assert await act(two) == await act(one) == [derived_id(id, old.id) if what == "retries" else id]
        assert await two.count() == 2


async def test_a_repeat_of_many_reads_what_is_stored_in_batches(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(FAIL, clock=clock, store=flaky.store) as node:
        await node.schedule_many([FAIL.call(number) for number in range(300)])
        await drain(node)
        failed, id = Query(state=State.TERMINATED), IdSource(clock).one()
        first = await node.retry_instances(failed, id=id)
        flaky.calls.clear()
        again = await node.retry_instances(failed, id=id)
        assert [made.id for made in again] == [made.id for made in first]
        assert flaky.calls["get"] <= 10
