"""A node that drains is shown so, and takes work again after `undrain`."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from peerjob import Client, Job, Node, NodeStateError, OptionError, Server, State, UnknownNodeError
from peerjob.model.record import Instruction
from peerjob.node.observe.metrics import Metrics
from peerjob.remote.client.remote_manager import WAIT
from peerjob.testing import VirtualClock, running_node
from peerjob.testing.factories import Factory
from support.factories import flaky_store, memory_store, running_nodes, shared_url
from support.flaky import FlakyStore
from support.scrapes import scrape


async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


SLEEP = Job("sleep", sleep)


async def intakes(node: Node) -> dict[str, str]:
    return {view.name: view.intake for view in await node.nodes()}


async def test_each_state_of_a_drain_is_in_the_row_of_the_node(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b", jobs=SLEEP, workers=2) as (a, b):
        b.unregister("sleep")
        assert await intakes(b) == {"a": "active", "b": "active"}
        running = await a.schedule(SLEEP, 5)
        await clock.advance(1)
        draining = asyncio.ensure_future(a.drain())
        await clock.advance(1)
        assert await intakes(b) == {"a": "draining", "b": "active"}
        await clock.run(draining)
        assert await intakes(b) == {"a": "drained", "b": "active"}
        assert (await running.refresh()).state is State.COMPLETED

        waiting = await b.schedule("sleep", 1)
        await clock.advance(5)
        assert (await b.stats()).unserved == {"sleep": 1}
        await a.undrain()
        assert await intakes(b) == {"a": "active", "b": "active"}
        assert await clock.run(waiting.result()) == "done"
        assert (await b.stats()).unserved == {}


@pytest.mark.parametrize("by", ["name", "incarnation"])
async def test_any_node_drains_any_other(clock: VirtualClock, by: str) -> None:
    async with running_nodes(clock, "a", "b", jobs=SLEEP) as (a, b):
        node = "a" if by == "name" else a.incarnation
        running = await a.schedule(SLEEP, 5)
        await clock.advance(1)
        with pytest.raises(TimeoutError, match="'a' is not drained after 2 s"):
            await clock.run(b.drain(2, node=running.node or node))
        await clock.run(b.drain(node=running.node or node))
        assert await intakes(a) == {"a": "active", "b": "active"} | {running.node or "a": "drained"}


async def test_any_node_resizes_any_other(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b", jobs=SLEEP, workers=1) as (a, b):
        b.unregister("sleep")
        first, second = await a.schedule(SLEEP, 60), await a.schedule(SLEEP, 60)
        await clock.run(b.resize_workers(2, node="a"))
        await clock.advance(1)
        assert [(await one.refresh()).state for one in (first, second)] == [State.PROCESSING] * 2
        assert (a.num_workers, b.num_workers) == (2, 1)
        draining = asyncio.ensure_future(b.drain(node="a"))
        await clock.advance(2)
        await clock.run(b.resize_workers(3, node=a.incarnation))
        assert (a.num_workers, await intakes(a)) == (3, {"a": "draining", "b": "active"})
        await clock.run(draining)
        with pytest.raises(OptionError, match="from 1 to 10,000"):
            await b.resize_workers(10_001, node="a")
        with pytest.raises(UnknownNodeError, match="'c'"):
            await b.resize_workers(1, node="c")
        await a.stop()
        assert a.num_workers == 3


async def test_an_undrain_from_elsewhere_ends_a_drain(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b", jobs=SLEEP, workers=1) as (a, b):
        b.unregister("sleep")
        await a.schedule(SLEEP, 60)
        await clock.advance(1)
        here, there = asyncio.ensure_future(a.drain()), asyncio.ensure_future(b.drain(node="a"))
        await clock.advance(3)
        await clock.run(b.undrain(node="a"))
        for waiting in (here, there):
            with pytest.raises(NodeStateError, match="'a' takes work again"):
                await clock.run(waiting)
        assert await intakes(b) == {"a": "active", "b": "active"}
        assert await clock.run((await b.schedule("sleep", 1)).result()) == "done"


async def test_an_undrained_node_claims_at_once(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        await clock.run(node.drain())
        waiting = await node.schedule(SLEEP, 0)
        await clock.advance(15)
        await node.undrain()
        await clock.advance(0.1)
        assert (await waiting.refresh()).state is State.COMPLETED


async def test_a_drain_can_be_repeated_after_an_undrain(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b") as (a, b):
        for _ in range(2):
            await clock.run(b.drain(node="a"))
            await clock.run(b.drain(node="a"))
            assert (await intakes(b))["a"] == "drained"
            await clock.run(b.undrain(node="a"))
            await clock.run(b.undrain(node="a"))
            assert (await intakes(b))["a"] == "active"
        await a.undrain()


@pytest.mark.parametrize("verb", ["drain", "undrain"])
async def test_a_bad_name_is_refused(clock: VirtualClock, verb: str) -> None:
    async with running_nodes(clock, "a", "same", "same") as (a, one, other):
        call: Any = getattr(a, verb)
        with pytest.raises(UnknownNodeError, match=r"'b'.*live: a, same"):
            await call(node="b")
        with pytest.raises(OptionError, match=f"2 nodes have it.*{one.incarnation}"):
            await call(node="same")
        for bad in ("", "x" * 201, 7):
            with pytest.raises(OptionError, match="node: expected text"):
                await call(node=bad)
        await clock.run(call(node=other.incarnation))


async def test_a_node_that_dies_while_it_drains_is_an_ordinary_dead_node(clock: VirtualClock) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    async with (
        running_node(SLEEP, clock=clock, store=flaky.store, name="a", workers=1) as a,
        running_node(SLEEP, clock=clock, store=url, name="b", workers=1) as b,
    ):
        b.unregister("sleep")
        instance = await a.schedule(SLEEP, 30)
        await clock.advance(1)
        draining = asyncio.ensure_future(b.drain(node="a"))
        await clock.advance(2)
        assert (await intakes(b))["a"] == "draining"
        flaky.fail()
        with pytest.raises(UnknownNodeError, match="'a'"):
            await clock.run(draining)
        b.register(SLEEP)
        await clock.advance(10)
        assert (await b.lookup_instance(instance.id)).node == "b"
        flaky.heal()
        await clock.advance(10)
        assert await intakes(b) == {"a": "drained", "b": "active"}
        await a.undrain()


async def test_a_node_of_an_older_release_is_shown_and_refuses_instructions(clock: VirtualClock) -> None:
    url = shared_url()
    store = memory_store(clock, url)
    async with running_nodes(clock, "a", "old", jobs=SLEEP, store=url) as (a, _):
        (view,) = [view for view in await a.nodes() if view.name == "old"]
        await store.join(replace(view.info, intake="", version="0.0.9"), ttl_us=5_000_000)
        assert await intakes(a) == {"a": "active", "old": ""}
        for call in (a.drain(node="old"), a.undrain(node="old"), a.resize_workers(2, node="old")):
            with pytest.raises(NodeStateError, match=r"'old' runs release 0\.0\.9"):
                await call


async def test_a_node_that_does_not_follow_is_named_in_the_first_turn_of_a_client(clock: VirtualClock) -> None:
    url = shared_url()
    store = memory_store(clock, url)
    paused = replace(Factory(clock).node("paused"), intake="active")
    async with running_nodes(clock, "a", store=url) as (a,):
        await store.join(paused, ttl_us=600_000_000)
        with pytest.raises(NodeStateError, match="'paused' has not followed the call"):
            await clock.run(a.wait_drained(WAIT, node="paused", is_begun=False))


@pytest.mark.parametrize("verb", ["turn", "claim_on_hint"])
async def test_a_claim_whose_answer_comes_during_a_drain_is_handed_back(clock: VirtualClock, verb: str) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    if verb == "turn":
        flaky.fail("claim_on_hint")
    late = flaky.stall_answers("claim_on_hint")
    async with (
        running_node(SLEEP, clock=clock, store=flaky.store, name="a", workers=1) as a,
        running_node(clock=clock, store=url, name="b", workers=0) as b,
    ):
        await clock.advance(5.5)  # the first wait for hints has no claim
        if verb == "turn":
            late = flaky.stall_answers("turn")
        instance = await b.schedule("sleep", 1)
        while (await b.lookup_instance(instance.id)).state is not State.PROCESSING:
            await clock.advance(0.01)
        draining = asyncio.ensure_future(a.drain())
        await clock.advance(0.01)
        late.release()
        await clock.run(draining)
        found = await b.lookup_instance(instance.id)
        assert (found.state, found.attempts, found.record.losses) == (State.SCHEDULED, 0, 0)


class LeavingStore(FlakyStore):
    """A store of which a node leaves just before an instruction to it."""

    async def instruct(self, incarnation: str, instruction: Instruction) -> bool:
        await self.inner.leave(incarnation)
        return await self.inner.instruct(incarnation, instruction)


async def test_a_node_that_leaves_before_the_instruction_is_unknown(clock: VirtualClock) -> None:
    store = LeavingStore(memory_store(clock))
    await store.inner.open()
    await store.inner.join(replace(Factory(clock).node("gone"), intake="active"), ttl_us=600_000_000)
    async with running_node(clock=clock, store=store.store, name="a") as a:
        with pytest.raises(UnknownNodeError, match=r"'gone' \(live: a\)"):
            await a.drain(node="gone")


async def test_a_stopping_node_is_shown_as_draining_and_cannot_be_undrained(clock: VirtualClock) -> None:
    async with running_nodes(clock, "a", "b", jobs=SLEEP) as (a, b):
        b.unregister("sleep")
        await a.schedule(SLEEP, 5)
        await clock.advance(1)
        stopping = asyncio.ensure_future(a.stop(grace=10))
        await clock.advance(1)
        assert await intakes(b) == {"a": "draining", "b": "active"}
        with pytest.raises(NodeStateError, match="is stopping"):
            await a.undrain()
        await clock.run(stopping)


async def test_the_row_follows_after_an_outage(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store, name="a") as node:
        flaky.fail("join")
        await clock.run(node.drain())
        assert await intakes(node) == {"a": "active"}
        flaky.heal()
        await clock.advance(3)
        assert await intakes(node) == {"a": "drained"}


async def test_a_repeated_instruction_is_followed_once(clock: VirtualClock) -> None:
    url = shared_url()
    store = memory_store(clock, url)
    async with running_nodes(clock, "a", "b", store=url) as (a, b):
        await store.instruct(a.incarnation, Instruction("x", drain=True))
        await clock.advance(3)
        await a.undrain()
        await clock.advance(5)
        assert await intakes(b) == {"a": "active", "b": "active"}


async def test_metrics_show_the_intake(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        metrics = Metrics(node)
        before = (await scrape(metrics))["peerjob_node_intake"]
        await clock.run(node.drain())
        after = (await scrape(metrics))["peerjob_node_intake"]
    assert before == {("active",): 1, ("draining",): 0, ("drained",): 0}
    assert after == {("active",): 0, ("draining",): 0, ("drained",): 1}


async def test_a_client_and_its_blocking_twin_drain_any_node() -> None:
    url = shared_url()
    async with (
        Node(url, jobs=SLEEP, name="a") as a,
        Node(url, jobs=SLEEP, name="b") as b,
        Server(b, "127.0.0.1:0") as server,
        Client(f"127.0.0.1:{server.port}") as client,
    ):
        await client.drain(10, node="a")
        assert await intakes(a) == {"a": "drained", "b": "active"}
        assert {view.name: view.intake for view in await client.nodes()} == await intakes(a)
        await client.undrain(node="a")
        await client.drain(10)
        assert await intakes(a) == {"a": "active", "b": "drained"}
        with pytest.raises(UnknownNodeError) as raised:
            await client.drain(1, node="c")
        assert (raised.value.node, raised.value.live) == ("c", ("a", "b"))

        def undrain() -> None:
            with Client(f"127.0.0.1:{server.port}").blocking() as manager:
                manager.undrain()

        await asyncio.to_thread(undrain)
        assert await intakes(a) == {"a": "active", "b": "active"}
