"""Several nodes on one store: names, leases that lapse, trust that ends, and work that is taken back."""

import asyncio
import itertools
import logging
from collections import Counter
from typing import Any

import pytest
from msgspec import structs

from peerjob import INJECTED, Context, Instance, Job, Node, OwnershipLost, Query, State
from peerjob.model.record import Claimed
from peerjob.node.work import runner
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store, lines_of, notes_of, running_nodes, shared_url, states_of
from support.kept import kept
from support.records import logged


class Long:
    """Runs until the test ends it, and records where it began and how it ended."""

    def __init__(self) -> None:
        self.began: Counter[str] = Counter()
        self.ended: list[str | None] = []
        self.running = 0

    async def __call__(self, seconds: float, ctx: Context = INJECTED) -> str:
        assert ctx.instance is not None
        node = str(ctx.instance.node)
        self.began[node] += 1
        self.running += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.running -= 1
            self.ended.append(ctx.reason)
        return node


async def test_two_nodes_of_one_name_do_not_confuse_each_other(clock: VirtualClock) -> None:
    long = Long()
    job = Job("long", long)
    async with running_nodes(clock, "same", "same", jobs=job, workers=2) as (one, other):
        instances = await one.schedule_many(job.call(5) for _ in range(4))
        await clock.advance(1)
        views = await one.nodes()
        assert [view.info.name for view in views] == ["same", "same"]
        assert {view.info.incarnation for view in views} == {one.incarnation, other.incarnation}
        assert [len([w for w in node.workers() if w.instance]) for node in (one, other)] == [2, 2]
        await clock.run(other.stop(grace=0))
        await drain(one)
        assert long.ended.count("drain") == 2
        assert {(await one.lookup_instance(i.id)).attempts for i in instances} == {1}
        assert await one.count(Query(state=State.COMPLETED)) == 4


async def test_a_node_that_is_cut_off_stops_its_bodies_before_a_peer_runs_them_again(clock: VirtualClock) -> None:
    url, long = shared_url(), Long()
    flaky = flaky_store(clock, url)
    job = Job("long", long)
    async with running_node(job, clock=clock, store=flaky.store, name="cut off", workers=3) as lost:
        instances = await lost.schedule_many(job.call(60) for _ in range(3))
        await clock.advance(1)
        first = lost.incarnation
        async with running_node(job, clock=clock, store=url, name="peer", workers=5) as peer:
            flaky.fail()
            most = 0
            for _ in range(80):
                await clock.advance(0.1)
                most = max(most, long.running)
            assert most == 3
            assert long.ended == ["lost"] * 3
            assert long.began == {"cut off": 3, "peer": 3}
            flaky.heal()
            await clock.advance(3)
            assert lost.incarnation != first
            assert {view.info.name for view in await peer.nodes()} == {"cut off", "peer"}
            await drain(peer)
            for instance in instances:
                found = await peer.lookup_instance(instance.id)
                assert (found.state, await found.result(), found.attempts) == (State.COMPLETED, "peer", 1)
                assert await states_of(found) == ["Created", *["Scheduled", "Processing"] * 2, "Completed"]
            # and it works again
            peer.unregister("long")
            assert await clock.run((await peer.schedule(job, 1)).result()) == "cut off"


async def test_a_lapse_of_the_node_s_own_counts_as_a_loss_and_not_as_a_crash(clock: VirtualClock) -> None:
    url, long = shared_url(), Long()
    flaky = flaky_store(clock, url)
    job = Job("long", long)
    async with (
        running_node(job, clock=clock, store=flaky.store, name="lapsing") as lapsing,
        running_node(clock=clock, store=url, workers=0, name="peer") as peer,
    ):
        instance = await lapsing.schedule(job, 60)
        await clock.advance(1)
        flaky.fail()
        await clock.advance(10)
        assert ((await peer.lookup_instance(instance.id)).crashes) == 1
        flaky.heal()
        await clock.advance(3)
        found = await peer.lookup_instance(instance.id)
        assert (found.crashes, found.losses) == (0, 1)
        assert any("node lost" in note for note in await notes_of(found))


async def test_a_short_outage_costs_no_work(clock: VirtualClock) -> None:
    long, flaky = Long(), flaky_store(clock)
    job = Job("long", long)
    async with running_node(job, clock=clock, store=flaky.store) as node:
        instance = await node.schedule(job, 10)
        await clock.advance(1.5)
        flaky.fail()
        await clock.advance(2.5)
        flaky.heal()
        assert await clock.run(instance.result()) == node.name
        assert (long.ended, instance.attempts, sum(long.began.values())) == ([None], 1, 1)


async def test_when_trust_ends_nothing_new_starts_and_what_runs_is_cancelled_as_lost(clock: VirtualClock) -> None:
    long, flaky = Long(), flaky_store(clock)
    job = Job("long", long)
    async with running_node(job, clock=clock, store=flaky.store, workers=2) as node:
        await node.schedule_many(job.call(60) for _ in range(2))
        waiting = await node.schedule(job, 1)
        await clock.advance(1.5)
        # the store answers, but for the lease
        flaky.fail("renew")
        await clock.advance(3.4)
        assert long.ended == []
        await clock.advance(1.2)
        assert long.ended == ["lost", "lost"]
        await clock.advance(20)
        assert long.running == 0
        assert (await waiting.refresh()).state is State.SCHEDULED
        flaky.heal()
        await clock.advance(2)
        assert long.running == 2
        await clock.run(waiting.wait())


async def test_a_job_may_go_on_through_the_loss_of_the_store(clock: VirtualClock) -> None:
    long, flaky = Long(), flaky_store(clock)
    patient, plain = Job("patient", long, on_store_loss="continue"), Job("plain", long)
    async with running_node(patient, plain, clock=clock, store=flaky.store) as node:
        instance, other = await node.schedule(patient, 30), await node.schedule(plain, 30)
        await clock.advance(1)
        flaky.fail()
        await clock.advance(15)
        assert long.ended == ["lost"]
        flaky.heal()
        await clock.advance(1)
        assert await clock.run(instance.result()) == node.name
        assert instance.attempts == 1
        # no peer could reap, so the claim held and the result counts
        assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Completed"]
        await clock.run(other.wait())


async def test_a_stale_holder_changes_nothing(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    url, owners = shared_url(), list[Any]()
    flaky = flaky_store(clock, url)

    async def stubborn(ctx: Context = INJECTED, instance: Instance[Any] = INJECTED) -> str:
        here = instance.node
        await ctx.assert_owner()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            await asyncio.sleep(20)  # longer than its peer takes
        instance.log.info("too late from %s", here)
        ctx.progress(1.0, "too late")
        try:
            await ctx.assert_owner()
        except OwnershipLost:
            owners.append((here, "lost"))
        else:
            owners.append((here, "owner"))
        return f"result of {here}"

    job = Job("stubborn", stubborn)
    async with running_node(job, clock=clock, store=flaky.store, name="stale") as stale:
        instance = await stale.schedule(job)
        await clock.advance(1)
        async with running_node(job, clock=clock, store=url, name="peer") as peer:
            flaky.fail()
            await clock.advance(8)
            flaky.heal()
            await clock.advance(60)
            found = await peer.lookup_instance(instance.id)
            assert await found.result() == "result of peer"
            assert await lines_of(found) == ["too late from peer"]
            assert await states_of(found) == ["Created", *["Scheduled", "Processing"] * 2, "Completed"]
            assert sorted(owners) == [("peer", "owner"), ("stale", "lost")]


async def test_after_an_outage_for_all_no_live_node_is_reaped(clock: VirtualClock) -> None:
    url, long = shared_url(), Long()
    patient = Job("long", long, on_store_loss="continue")
    async with running_nodes(clock, "looker", store=url, workers=0) as (looker,):
        stores = [flaky_store(clock, url) for _ in range(3)]
        nodes = [
            running_node(patient, clock=clock, store=one.store, name=f"node {number}", workers=2)
            for number, one in enumerate(stores)
        ]
        async with nodes[0] as first, nodes[1], nodes[2]:
            instances = await first.schedule_many(patient.call(40) for _ in range(6))
            await clock.advance(1)
            looker_stop = looker.stop()
            await clock.run(looker_stop)
            incarnations = {view.info.incarnation for view in await first.nodes()}
            for one in stores:
                one.fail()
            await clock.advance(20)  # four times the lease
            for number, one in enumerate(stores):  # and they come back one by one
                one.heal()
                await clock.advance(0.5 + number / 10)
            await clock.advance(6)
            assert {view.info.incarnation for view in await first.nodes()} == incarnations
            await drain(first)
            for instance in instances:
                await instance.refresh()
                assert (instance.state, instance.crashes, instance.losses, instance.attempts) == (
                    State.COMPLETED,
                    0,
                    0,
                    1,
                )
            assert sum(long.began.values()) == 6


async def test_a_claim_whose_reply_was_lost_is_sent_again_and_nothing_is_claimed_twice(clock: VirtualClock) -> None:
    long, flaky = Long(), flaky_store(clock)
    job = Job("long", long)
    async with running_node(job, clock=clock, store=flaky.store, workers=5) as node:
        await clock.advance(0.5)
        flaky.lose_answers("turn", times=3)
        instances = await node.schedule_many(job.call(1) for _ in range(20))
        await drain(node)
        for instance in instances:
            assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Completed"]
        assert sum(long.began.values()) == 20


@pytest.mark.parametrize("verb", ["turn", "claim_on_hint"])
async def test_a_stranded_claim_is_handed_back_within_seconds(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    long, flaky = Long(), flaky_store(clock)
    job = Job("long", long)

    def emptied(answer: tuple[Any, Claimed | None]) -> tuple[Any, Claimed | None]:
        return answer[0], answer[1] and Claimed(now_us=answer[1].now_us)

    if verb == "turn":
        flaky.fail("claim_on_hint")
    async with running_node(job, clock=clock, store=flaky.store) as node:
        await clock.advance(4.5)
        if verb == "claim_on_hint":  # the next call waits with a claim
            flaky.change_answers(emptied, verb, times=1)
            await clock.advance(1)
        if verb == "turn":
            flaky.change_answers(emptied, verb, times=1)
        instance = await node.schedule(job, 1)
        at = clock.elapsed()
        assert await clock.run(instance.result(), limit=60) == node.name
        assert clock.elapsed() - at < node.lease_ttl + 1
        assert "the answer to its claim was lost" in caplog.text
        assert (instance.attempts, instance.crashes, instance.losses) == (1, 0, 0)
        assert "Scheduled: the answer to the claim was lost" in await notes_of(instance)


async def test_a_claim_that_the_store_has_forgotten_ends_its_body(clock: VirtualClock) -> None:
    url, long = shared_url(), Long()
    job = Job("long", long)
    async with (
        running_node(job, clock=clock, store=url) as node,
        running_node(clock=clock, store=url, workers=0, name="other") as other,
    ):
        await node.schedule(job, 60)
        await clock.advance(1)
        await other.clear()  # as a store that was rolled back
        await clock.advance(5)
        assert long.ended == ["lost"]
        assert [worker.instance for worker in node.workers() if worker.instance] == []
        assert await clock.run((await node.schedule(job, 1)).result()) == node.name


async def test_outcomes_of_a_lapsed_incarnation_do_not_spoil_those_of_the_next(clock: VirtualClock) -> None:
    url, runs = shared_url(), Counter[str]()
    flaky = flaky_store(clock, url)
    let_go = asyncio.Event()

    async def stubborn(name: str) -> str:
        runs[name] += 1
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return name

    job = Job("stubborn", stubborn)
    async with (
        running_node(job, clock=clock, store=flaky.store, name="lapsing") as node,
        running_node(clock=clock, store=url, workers=0, name="peer"),
    ):
        await node.schedule(job, "old")
        await clock.advance(1)
        flaky.fail()
        await clock.advance(10)
        flaky.heal()
        await clock.advance(3)
        new = [await node.schedule(job, f"new {number}") for number in range(3)]
        await clock.advance(1)
        stall = flaky.stall("turn", times=1)
        await clock.advance(2)
        let_go.set()
        await clock.settle()
        stall.release()
        await drain(node)
        assert [await clock.run(one.result()) for one in new] == ["new 0", "new 1", "new 2"]
        assert [runs[f"new {number}"] for number in range(3)] == [1, 1, 1]


async def test_arguments_that_fit_no_signature_here_wait_for_a_node_whose_they_fit(clock: VirtualClock) -> None:
    old = Job("greet", lambda name: f"hello {name}")
    new = Job("greet", lambda name, greeting: f"{greeting} {name}")
    url = shared_url()
    async with running_node(old, clock=clock, store=url, name="old"):
        async with running_node(new, clock=clock, store=url, name="new", workers=1) as node:
            instances = [await node.schedule(new, "you", "good morning") for _ in range(20)]
            assert {await clock.run(one.result()) for one in instances} == {"good morning you"}
            assert {one.attempts for one in instances} == {1}
        async with running_node(clock=clock, store=url, workers=0) as web:
            orphan = await web.schedule(new, "you", "good evening")
            await clock.run(orphan.wait())
            assert orphan.state is State.TERMINATED
            assert orphan.error is not None
            assert "ArgumentError" in orphan.error.type


async def test_arguments_that_fit_no_live_signature_end_after_some_offers(clock: VirtualClock) -> None:
    """Each of two releases takes the other for one that may run it."""
    one, two = Job("greet", lambda name: name), Job("greet", lambda name, greeting: name + greeting)
    newest = Job("greet", lambda *, names: names)
    url = shared_url()
    async with (
        running_node(one, clock=clock, store=url, name="one"),
        running_node(two, clock=clock, store=url, name="two"),
        running_node(clock=clock, store=url, workers=0) as web,
    ):
        lost = await web.schedule(newest, names=["you"])
        await clock.run(lost.wait(), "2h")
        assert lost.state is State.TERMINATED
        offers = [entry for entry in await lost.history() if "may run it" in entry.note]
        assert len(offers) <= 24


async def test_a_node_remembers_a_bounded_number_of_instances_that_do_not_fit(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MISFITS_KNOWN", 2)
    one, two = Job("greet", lambda name: name), Job("greet", lambda name, greeting: name + greeting)
    url = shared_url()
    async with (
        running_node(one, clock=clock, store=url, name="one") as node,
        running_node(two, clock=clock, store=url, name="two") as peer,
        running_node(clock=clock, store=url, workers=0) as web,
    ):
        await web.schedule_many(Job("greet", lambda *, names: names).call(names=["you"]) for _ in range(9))
        for _ in range(50):
            await clock.advance(1)
            assert max(kept(each)["InstanceRunner.misfits"] for each in (node, peer)) <= 2


async def test_the_view_shows_what_each_node_is(clock: VirtualClock) -> None:
    long = Long()
    jobs = [Job("long", long), Job("other", long, aliases=["another"])]
    async with running_nodes(clock, "a", "b", jobs=jobs, workers=3) as (a, _):
        await a.schedule_many(a.job("long").call(60) for _ in range(4))
        await clock.advance(2)
        views = await a.nodes()
        assert [view.info.name for view in views] == ["a", "b"]
        assert {view.info.kinds for view in views} == {("long", "other", "another")}
        assert sum(view.running for view in views) == 4
        assert {view.info.workers for view in views} == {3}
        await a.cancel_instances(Query.all())


async def test_hints_that_come_twice_or_never_change_nothing(clock: VirtualClock) -> None:
    url, long = shared_url(), Long()
    flaky, deaf = flaky_store(clock, url), flaky_store(clock, url)
    flaky.change_answers(lambda hints: [*hints, *hints], "next_hints", times=None)
    flaky.change_answers(lambda answer: ([*answer[0], *answer[0]], answer[1]), "claim_on_hint", times=None)
    deaf.fail("next_hints", "claim_on_hint")
    job = Job("long", long)
    async with (
        running_node(job, clock=clock, store=flaky.store, name="twice", workers=2) as node,
        running_node(job, clock=clock, store=deaf.store, name="deaf", workers=2),
    ):
        instances = await node.schedule_many(job.call(0.5) for _ in range(40))
        await drain(node)
        assert sum(long.began.values()) == 40
        assert set(long.began) == {"twice", "deaf"}
        assert {(await one.refresh()).state for one in instances} == {State.COMPLETED}


async def test_logging_of_a_healthy_node_is_quiet(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with running_node(Job("long", Long()), clock=clock) as node:
            caplog.clear()
            await node.schedule("long", 5)
            await drain(node)
            await clock.advance(300)
            assert logged(caplog, logging.INFO) == []


async def test_every_answer_twice_changes_nothing(clock: VirtualClock) -> None:
    long, flaky = Long(), flaky_store(clock)
    flaky.repeat("turn", "enqueue", "cancel", "renew", "join", "reap", "watch_final", "leave")
    numbers = itertools.count()
    job = Job("long", long, max_retries=1, key=lambda _: f"{next(numbers)}")
    async with running_node(job, clock=clock, store=flaky.store, workers=3) as node:
        instances = [await node.schedule(job, 1) for _ in range(10)]
        doomed = await node.schedule(job.with_options(after=30), 1)
        assert await doomed.cancel()
        await drain(node)
        assert sum(long.began.values()) == 10
        for instance in instances:
            assert await states_of(instance) == ["Created", "Scheduled", "Processing", "Completed"]
            assert instance.attempts == 1


async def test_nodes_come_and_go_and_nothing_is_lost(clock: VirtualClock) -> None:
    url, long = shared_url(), Long()
    job = Job("long", long)
    async with running_node(clock=clock, store=url, workers=0, name="web") as web:
        instances = await web.schedule_many(job.call(clock.random.random() * 5) for _ in range(150))
        for turn in range(7):  # three machines get lost: the fourth could make an instance poison
            flaky = flaky_store(clock, url)
            node = Node(flaky.store, jobs=job, clock=clock, name=f"node {turn}", workers=8)
            await node.start()
            await clock.advance(clock.random.random() * 10)
            if turn % 2:
                flaky.fail()  # the machine is gone
            await clock.run(node.stop(grace=1))
        async with running_node(job, clock=clock, store=url, name="last", workers=20) as last:
            await drain(last)
            for instance in instances:
                found = await last.lookup_instance(instance.id)
                assert (found.state, found.attempts) == (State.COMPLETED, 1)
                assert (await states_of(found))[-2:] == ["Processing", "Completed"]


async def test_trust_ends_also_while_a_renewal_hangs(clock: VirtualClock) -> None:
    url, long = shared_url(), Long()
    flaky = flaky_store(clock, url)
    job = Job("long", long)
    async with (
        running_node(job, clock=clock, store=flaky.store, name="hanging") as node,
        running_node(job, clock=clock, store=url, name="peer", workers=0) as peer,
    ):
        await node.schedule(job, 30)
        await clock.advance(1.5)
        stall = flaky.stall("renew")
        await clock.advance(4.6)
        assert long.ended == ["lost"]
        await peer.resize_workers(1)
        await clock.advance(3)
        assert long.running == 1
        stall.release()
        await drain(peer)


async def test_what_an_incarnation_claimed_before_it_ended_does_not_run(clock: VirtualClock) -> None:
    """The answer comes when the node has joined anew, and the store has given the claim back."""
    long, store = Long(), flaky_store(clock)
    answer = store.stall_answers("claim_on_hint", times=1)
    async with running_node(Job("long", long), clock=clock, store=store.store, workers=1) as node:
        await clock.advance(5.5)  # the first wait has no claim
        instance = await node.schedule("long", 1)
        await clock.advance(0.1)
        assert answer.met.is_set()
        await store.inner.leave(node.incarnation)
        await clock.advance(5)
        answer.release()
        await clock.advance(10)
        assert (await instance.refresh()).state is State.COMPLETED
        assert long.began.total() == 1


@pytest.mark.parametrize("change", [{"owner": "another"}, {"fence": 1}, {"state": State.SCHEDULED}])
async def test_an_owner_is_known_by_fence_and_incarnation(clock: VirtualClock, change: dict[str, Any]) -> None:
    store = flaky_store(clock)

    async def ask(ctx: Context = INJECTED) -> str:
        await ctx.assert_owner()
        store.change_answers(lambda records: [structs.replace(one, **change) for one in records], "get")
        with pytest.raises(OwnershipLost):
            await ctx.assert_owner()
        return "asked"

    async with running_node(Job("ask", ask), clock=clock, store=store.store) as node:
        instance = await node.schedule("ask")
        assert await clock.run(instance.result()) == "asked"
