"""Key limits on nodes: each key has its places, and keys take turns."""

import asyncio
from typing import Any

import pytest

from peerjob import ArgumentError, Fail, Flow, Job, KeyLimit, OptionError, Query, Retry, State
from peerjob.handles.observing import observe
from peerjob.handles.reasons import why_instance
from peerjob.model.clock import to_datetime
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node
from support.factories import running_nodes, shared_url
from support.inside import Inside


@pytest.fixture
def inside(clock: VirtualClock) -> Inside:
    return Inside(clock)


async def test_each_key_has_its_own_places_and_keys_take_turns(clock: VirtualClock, inside: Inside) -> None:
    async def sync(tenant: str, number: int) -> None:
        await inside.run(tenant, 1, number)

    limited = Job("sync", sync, limits=[KeyLimit("tenant/{tenant}", concurrency=2)])
    async with running_nodes(clock, "a", "b", jobs=limited, workers=2) as (a, b):
        await a.schedule_many(limited.call("big", number) for number in range(100))
        await clock.advance(0.5)
        await b.schedule(limited, "small", 1)
        await clock.advance(2.5)
        assert inside.most == {"big": 2, "small": 1}
        big = [number for name, number in inside.order if name == "big"]
        assert big == sorted(big)
        keys = {view.key: view async for view in a.key_limits("sync")}
        assert (keys["tenant/big"].admitted, keys["tenant/big"].concurrency) == (2, 2)
        assert keys["tenant/big"].waiting > 80
        assert [view.key async for view in a.key_limits("sync", prefix="tenant/s")] in ([], ["tenant/small"])
        await a.cancel_instances(Query(kind="sync"))
        await drain(a)
        assert [view async for view in a.key_limits("sync", waiting_only=True)] == []


async def test_a_small_tenant_starts_within_as_many_ends_as_the_big_one_has_places(
    clock: VirtualClock, inside: Inside
) -> None:
    async def sync(tenant: str) -> None:
        await inside.run(tenant, 1)

    limited = Job("sync", sync, limits=[KeyLimit("{tenant}", concurrency=4)])
    async with running_node(limited, clock=clock, workers=4) as node:
        await node.schedule_many(limited.call("a") for _ in range(200))
        await clock.advance(10.5)
        began = len(inside.starts["a"])
        await node.schedule(limited, "b")
        await clock.advance(2)
        # b is behind the four instances of a that were in the queue, and before all others of a
        assert len(inside.starts["b"]) == 1
        before = sum(start < inside.starts["b"][0] for start in inside.starts["a"])
        assert before - began <= 4


async def test_a_retry_a_schedule_and_a_backfill_have_the_key(clock: VirtualClock) -> None:
    async def sync(tenant: str) -> None:
        await asyncio.sleep(1000)

    limited = Job("sync", sync, limits=[KeyLimit("tenant/{tenant}")])
    async with running_node(limited, clock=clock) as node:
        first = await node.schedule(limited, "x")
        await clock.advance(1)
        await first.cancel()
        await clock.advance(1)
        retried = await first.retry()
        schedule = await node.add_schedule(limited.with_options(every="1m", name="often", overlap="allow"), "x")
        await clock.advance("3m")
        await schedule.trigger()
        (view,) = [view async for view in node.key_limits("sync")]
        assert (view.key, view.admitted, view.concurrency) == ("tenant/x", 1, 1)
        assert view.waiting == 4
        assert (await retried.refresh()).state is State.PROCESSING
        waiting = next(one for one in await node.lookup_instances(Query(state=State.SCHEDULED)))
        (why, *_) = why_instance(await observe(node, waiting, to_datetime(clock.time_us())))
        assert why == (
            f"it waits for its key 'tenant/x': 1 of 1 are in the queue or run ({retried.id} on {node.name}), and 4 wait"
        )


async def test_a_retry_leaves_the_key_and_comes_back(clock: VirtualClock, inside: Inside) -> None:
    async def sync(tenant: str, number: int) -> None:
        await inside.run(tenant, 1, number)
        if number == 0 and len(inside.starts[tenant]) == 1:
            raise Retry("10s")

    limited = Job("sync", sync, max_retries=1, backoff="10s", limits=[KeyLimit("{tenant}")])
    async with running_node(limited, clock=clock) as node:
        await node.schedule_many(limited.call("x", number) for number in range(3))
        await drain(node)
        assert inside.most["x"] == 1
        assert [number for _, number in inside.order] == [0, 1, 2, 0]


async def test_the_key_of_a_kind_whose_code_is_elsewhere(clock: VirtualClock) -> None:
    async def sync(tenant: int) -> None:
        await asyncio.sleep(1000)

    url = shared_url()
    template = Job("template", sync, limits=[KeyLimit("tenant/{tenant}", concurrency=2)])
    function = Job("function", sync, limits=[KeyLimit(lambda arguments: f"t{arguments.tenant}")])
    async with (
        running_node(template, function, store=url, clock=clock, name="worker") as worker,
        running_node(store=url, clock=clock, workers=0, name="web") as web,
    ):
        for text in ("7", 7):
            await web.schedule("template", text)
        await worker.schedule(template, 7)
        await worker.schedule(function, 8)
        (view,) = [view async for view in web.key_limits("template")]
        assert (view.key, view.admitted, view.waiting) == ("tenant/7", 2, 1)
        with pytest.raises(OptionError, match="limits: expected a key that this node can make"):
            await web.schedule("function", 8)
        assert [view.key async for view in web.key_limits("function")] == ["t8"]


@pytest.mark.parametrize("option", ["key", "limits"])
async def test_a_template_of_a_kind_whose_code_is_elsewhere_takes_its_default(clock: VirtualClock, option: str) -> None:
    async def sync(number: int, tenant: str = "all") -> None:
        await asyncio.sleep(1000)

    template = "tenant/{tenant}"
    job = Job("sync", sync, key=template) if option == "key" else Job("sync", sync, limits=[KeyLimit(template)])
    url = shared_url()
    async with (
        running_node(job, store=url, clock=clock),
        running_node(store=url, clock=clock, workers=0, name="web") as web,
    ):
        made = await web.schedule("sync", 1)
        keys = [made.key] if option == "key" else [view.key async for view in web.key_limits("sync")]
        assert keys == ["tenant/all"]


@pytest.mark.parametrize(
    "key",
    [lambda _: 1 / 0, lambda _: 7, lambda _: "", lambda _: "x" * 201],
    ids=["raises", "no text", "empty", "too long"],
)
async def test_a_key_function_that_makes_no_key_stores_nothing(clock: VirtualClock, key: Any) -> None:
    async with running_node(Job("sync", lambda: 1, limits=[KeyLimit(key)]), clock=clock) as node:
        with pytest.raises((ArgumentError, OptionError), match="key"):
            await node.schedule("sync")
        assert await node.count() == 0


async def test_a_key_of_an_output_is_refused(clock: VirtualClock) -> None:
    """A member of a flow has its key when the flow is stored, and an output has no value then."""

    async def read(tenant: str) -> str:
        return tenant

    job = Job("read", read, limits=[KeyLimit("{tenant}")])
    flow = Flow("two")
    flow.add(job.call(flow.add(job.call("a")).output))
    async with running_node(job, clock=clock) as node:
        with pytest.raises(ArgumentError, match="member 'read/1' of flow 'two': tenant: the key needs its value"):
            await node.schedule_flow(flow)
        assert await node.count() == 0


async def test_a_retry_whose_arguments_fit_no_key_is_refused(clock: VirtualClock) -> None:
    async def sync(tenant: int) -> None:
        raise Fail("no")

    url = shared_url()
    async with running_node(Job("sync", lambda _: 1 / 0), store=url, clock=clock) as node:
        failed = await node.schedule("sync", ["a", "b"])
        await drain(node)
    async with running_node(Job("sync", sync, limits=[KeyLimit("{tenant}")]), store=url, clock=clock) as node:
        with pytest.raises(ArgumentError, match=r"do not fit job 'sync': tenant: .*integer"):
            await node.retry_instance(failed.uuid)
        assert await node.count() == 1
