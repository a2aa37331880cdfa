"""A listener that fails, and a request that the store refuses for good, stop neither the claim loop nor other jobs."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from peerjob import INJECTED, Context, Instance, Job, JobFailed, Node, Query, State, StoreRefusedError
from peerjob.model.record import Action, Outcome, Want
from peerjob.node.observe.observer import Observer
from peerjob.testing import VirtualClock, drain, running_node
from peerjob.testing.factories import Factory, Peer
from support.factories import flaky_store, lines_of, notes_of


class Point(NamedTuple):
    x: int


async def count(n: int) -> int:
    await asyncio.sleep(0.002)
    return n


async def talk(n: int, ctx: Context = INJECTED) -> int:
    assert ctx.instance is not None
    ctx.log_line(20, f"line {n}")
    return n


OK = Job("ok", count)
TALK = Job("talk", talk)


def ledger(node: Node) -> int:
    assert node._runtime is not None  # pyright: ignore[reportPrivateUsage]
    return len(node._runtime.held_claims)  # pyright: ignore[reportPrivateUsage]


async def all_ran_once(node: Node, instances: Sequence[Instance[Any]]) -> None:
    for one in instances:
        await one.refresh()
        assert one.state is State.COMPLETED
        assert one.attempts == 1
        assert not any("lost" in note for note in await notes_of(one))
    assert ledger(node) == 0
    assert node.vitals().failures["claim loop"] == 0


# -- listeners ---------------------------------------------------------------------------------------------------------


async def test_a_result_that_cannot_be_read_back_costs_no_other_job_its_claim(clock: VirtualClock) -> None:
    bad = Job("bad", lambda: {Point(1)}, on_complete=lambda instance, result: None)
    async with running_node(bad, OK, clock=clock, workers=2) as node:
        made = await node.schedule_many(bad.call() if k % 10 == 5 else OK.call(k) for k in range(100))
        await drain(node)
        assert all([(await one.refresh()).state.is_final for one in made])
        await all_ran_once(node, [one for one in made if one.kind == "ok"])


class Broken(Observer):
    """Raises from every callback."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()

    def round_ended(self, seconds: float | None, entries: object, acks: object, claims: object) -> None:
        self._hear("round_ended")

    def cancelled(self, kind: str) -> None:
        self._hear("cancelled")

    def _hear(self, what: str) -> None:
        self.heard[what] += 1
        raise ZeroDivisionError(what)


async def test_an_observer_that_fails_costs_no_job_its_claim(clock: VirtualClock) -> None:
    broken = Broken()
    async with running_node(OK, clock=clock, workers=2) as node:
        node.observe(broken)
        made = [await node.schedule(OK, k) for k in range(20)]
        later = await node.schedule(OK.with_options(after="1h").call(1))
        assert await later.cancel()
        await drain(node)
        await all_ran_once(node, made)
    assert broken.heard["round_ended"] > 0
    assert broken.heard["cancelled"] == 1


# -- refusals ----------------------------------------------------------------------------------------------------------


REFUSED = StoreRefusedError("etcdserver: too many operations in txn request")


@pytest.mark.parametrize(("error", "longest"), [(REFUSED, 30), (ZeroDivisionError("a defect of the driver"), 5)])
async def test_a_claim_that_the_store_refuses_keeps_no_outcome_back(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, error: Exception, longest: int
) -> None:
    """The commit and the claim go in one request, and that is refused as a whole."""
    flaky = flaky_store(clock)
    gate = asyncio.Event()

    async def waits() -> int:
        await gate.wait()
        return 1

    async with running_node(Job("waits", waits), clock=clock, store=flaky.store, workers=3) as node:
        instance = await node.schedule("waits")
        await clock.advance(0.1)
        fault = flaky.refuse(error, "turn", when=lambda _incarnation, _outcomes, want: want is not None)
        gate.set()
        assert await clock.run(instance.result(), 5) == 1
        await clock.advance(100)
        told = [r.message for r in caplog.records if "the node repeats it in" in r.message]
        assert f" {longest} s:" in told[-1]
        assert len(told) < 25
        fault.release()
        again = await node.schedule("waits")
        assert await clock.run(again.result(), 31) == 1


async def test_a_claim_loop_makes_progress_while_the_store_refuses_part_after_part(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    inner: Any = flaky.inner
    gate, refused, hung = asyncio.Event(), list[int](), list[float]()

    async def waits() -> None:
        await gate.wait()

    async with running_node(Job("waits", waits), clock=clock, store=flaky.store, workers=8) as node:
        made = [await node.schedule("waits") for _ in range(8)]
        await clock.advance(1)
        assert node._runtime is not None  # pyright: ignore[reportPrivateUsage]
        watchdog = node._runtime.claim_loop.watchdog  # pyright: ignore[reportPrivateUsage]
        assert watchdog.patience is not None
        slow = 0.6 * watchdog.patience
        turn = inner.turn

        async def refuses(incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str) -> Any:
            hung.append(watchdog.missing())
            if len(outcomes) > 1:
                await asyncio.sleep(slow)
                refused.append(len(outcomes))
                raise REFUSED
            return await turn(incarnation, outcomes, want, request=request)

        inner.turn = refuses
        gate.set()
        await clock.run(asyncio.gather(*(one.result() for one in made)), 20 * slow)
        await all_ran_once(node, made)
    assert len(refused) >= 3
    assert max(hung) <= watchdog.patience


async def test_an_outcome_that_the_store_did_before_it_refused_the_claim_counts_as_done(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """On etcd a turn is several transactions, of which the first may be done."""
    flaky = flaky_store(clock)
    results: list[int] = []
    job = Job("told", count, on_complete=lambda instance, result: results.append(result))
    async with running_node(job, clock=clock, store=flaky.store, workers=3) as node:
        inner: Any = flaky.inner

        async def done_first(incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str) -> Any:
            if outcomes and want is not None:
                await inner.turn(incarnation, outcomes, None, request=request)
                raise REFUSED
            return await inner.turn(incarnation, outcomes, want, request=request)

        flaky.turn = done_first  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        await node.schedule_many(job.call(k) for k in range(20))
        await drain(node)
        await clock.settle()
        assert sorted(results) == list(range(20))
        assert "is not stored" not in caplog.text


@pytest.mark.parametrize(
    ("ends_with", "peer_ends_with"),
    [(Action.COMPLETE, Action.COMPLETE), (Action.RETRY, Action.RETRY), (Action.COMPLETE, None)],
)
async def test_the_outcome_of_an_ended_claim_is_not_taken_for_one_that_was_done(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, ends_with: Action, peer_ends_with: Action | None
) -> None:
    """After a refusal, the node reads the instances whose outcomes are answered with LOST.

    A peer has taken them back. The fence of the record then tells a newer claim; without one, the state tells it.
    """
    flaky = flaky_store(clock)
    told: list[State] = []
    ends = asyncio.Event()

    async def work() -> None:
        await ends.wait()
        if ends_with is Action.RETRY:
            raise ConnectionError

    job = Job(
        "work", work, on_store_loss="continue", backoff="1h", on_state_change=lambda instance, state: told.append(state)
    )
    async with running_node(job, clock=clock, store=flaky.store) as node:
        made = await node.schedule_many(job.call() for _ in range(2))
        await clock.advance(0.1)
        assert told.count(State.PROCESSING) == 2
        told.clear()
        flaky.fail("renew")
        await clock.advance(60)
        make = Factory(clock)
        peer = await Peer(store=flaky.inner, info=make.node("peer", kinds=["work"]), make=make).join()
        assert len(await flaky.inner.reap(10, reaper=peer.incarnation)) == 2
        if peer_ends_with is not None:
            for claim in await peer.take(2):
                await peer.end(claim, peer_ends_with, delay_us=3_600_000_000)
        refused = flaky.refuse(REFUSED, "turn", times=1, when=lambda _incarnation, outcomes, _want: len(outcomes) == 2)
        ends.set()
        await clock.advance(1)

        assert refused.met.is_set()
        assert told == []
        assert caplog.text.count("is not stored: its claim had ended") == 2
        for one in made:
            expected = State.COMPLETED if peer_ends_with is Action.COMPLETE else State.SCHEDULED
            assert (await one.refresh()).state is expected


async def test_only_the_outcome_that_is_refused_alone_is_given_up(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    flaky = flaky_store(clock)
    async with running_node(OK, clock=clock, store=flaky.store, workers=20) as node:
        made = await node.schedule_many(OK.call(k) for k in range(20))
        bad = made[7]
        flaky.refuse(
            REFUSED,
            "turn",
            when=lambda _incarnation, outcomes, _want: any(
                one.id == bad.id and one.action is Action.COMPLETE for one in outcomes
            ),
        )
        await drain(node)
        with pytest.raises(JobFailed, match="StoreRefusedError: etcdserver: too many operations"):
            await bad.result()
        for one in made:
            assert (await one.refresh()).attempts == 1
            assert one.state is (State.TERMINATED if one is bad else State.COMPLETED)
        assert ledger(node) == 0
    assert f"instance {bad.id} of 'ok': the store refuses its outcome (complete)" in caplog.text


async def test_an_outcome_with_log_lines_that_are_refused_keeps_its_result(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(TALK, clock=clock, store=flaky.store) as node:
        flaky.refuse(
            REFUSED, "turn", when=lambda _incarnation, outcomes, _want: any(outcome.logs for outcome in outcomes)
        )
        instance = await node.schedule(TALK, 5)
        assert await clock.run(instance.result(), 10) == 5
        assert await lines_of(instance) == []
        assert ledger(node) == 0


async def test_an_outcome_that_is_refused_in_every_form_is_dropped_and_others_go_on(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    flaky = flaky_store(clock)
    async with running_node(OK, clock=clock, store=flaky.store, workers=5) as node:
        bad = await node.schedule(OK, 1)
        fault = flaky.refuse(
            REFUSED, "turn", when=lambda _incarnation, outcomes, _want: any(one.id == bad.id for one in outcomes)
        )
        await clock.advance(3)
        good = await node.schedule(OK, 2)
        assert await clock.run(good.result(), 5) == 2
        assert "in every form; the node drops it" in caplog.text
        fault.release()
        await drain(node)  # the store still has the claim, so it is handed back
        assert await bad.result() == 1
        assert ledger(node) == 0


async def test_a_request_that_fails_for_an_unexpected_reason_is_taken_apart_too(clock: VirtualClock) -> None:
    """Such as one that a driver cannot encode."""
    flaky = flaky_store(clock)
    async with running_node(OK, clock=clock, store=flaky.store, workers=20) as node:
        made = await node.schedule_many(OK.call(k) for k in range(8))
        bad = made[3]
        flaky.refuse(
            UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed"),
            "turn",
            when=lambda _incarnation, outcomes, _want: any(
                one.id == bad.id and one.action is Action.COMPLETE for one in outcomes
            ),
        )
        await clock.run(node.wait(Query.all()), 60)
        assert Counter([(await one.refresh()).state for one in made]) == {State.COMPLETED: 7, State.TERMINATED: 1}


async def test_a_stop_waits_for_no_outcome_that_is_refused(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(OK, clock=clock, store=flaky.store) as node:
        await node.schedule(OK, 1)
        flaky.refuse(REFUSED, "turn", when=lambda _incarnation, outcomes, _want: bool(outcomes))
        await clock.advance(0.01)
        before = clock.elapsed()
        await clock.run(node.stop(grace=0))
        assert clock.elapsed() - before < 3


# -- other roles that send the same again ------------------------------------------------------------------------------


async def test_a_schedule_that_is_refused_keeps_no_other_from_being_written(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    flaky = flaky_store(clock)
    flaky.refuse(REFUSED, "put_schedule", when=lambda put: put.name == "b")
    jobs = [Job(kind, lambda: 1, every="1h") for kind in "abc"]
    async with running_node(jobs, clock=clock, store=flaky.store) as node:
        await clock.advance(5)
        assert sorted(schedule.name for schedule in await node.schedules()) == ["a", "c"]
        assert flaky.calls["put_schedule"] == 3
    assert "schedule 'b' is not written" in caplog.text


async def test_claims_of_a_dead_node_are_taken_back_in_smaller_steps_when_one_is_refused(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    flaky.refuse(REFUSED, "reap", when=lambda limit: limit > 7)
    async with running_node(OK, clock=clock, store=flaky.store) as node:
        make = Factory(clock)
        peer = await Peer(store=flaky.inner, info=make.node("peer"), make=make).join(ttl_us=1_000_000)
        await flaky.inner.enqueue(make.instances(30))
        held = await peer.take(30)
        await clock.advance(20)
        records = await flaky.inner.get([claim.id for claim in held])
        assert [record.state for record in records if record is not None] == [State.SCHEDULED] * 30
        assert node.vitals().failures["reaper"] == 0


async def test_retention_goes_on_in_smaller_steps_when_one_is_refused(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    flaky.refuse(REFUSED, "expire", when=lambda limit: limit > 7)
    async with running_node(Job("short", count, retention="1s"), clock=clock, store=flaky.store) as node:
        made = await node.schedule_many(Job("short", count, retention="1s").call(k) for k in range(30))
        await drain(node)
        await clock.advance(100)
        assert await flaky.inner.get([one.id for one in made]) == [None] * 30
