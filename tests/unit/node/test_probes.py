"""Alive, ready, started, drained: what a node answers, and above all when it does not say that it must be restarted."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest

from peerjob import INJECTED, Context, Job, Node, Probe, StoreError, SystemClock
from peerjob.node.work.claim_loop import ClaimLoop
from peerjob.store.base import Liveness
from peerjob.testing import VirtualClock, running_node
from support.factories import flaky_store, shared_url
from support.waiting import until


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


SLEEP = Job("sleep", sleep)
HANGS = 65
"""Seconds after which a claim loop that was about to turn is past its patience."""


def answers(node: Node) -> dict[str, bool]:
    return {probe.value: node.probe(probe).ok for probe in Probe}


def said(node: Node, probe: Probe) -> str:
    return node.probe(probe).text


async def test_it_is_alive_all_the_time_and_ready_from_its_start_to_its_stop(clock: VirtualClock) -> None:
    node = Node("memory://", jobs=SLEEP, clock=clock)
    idle = {"live": True, "ready": False, "started": False, "drained": False}
    assert answers(node) == idle

    await clock.run(node.start())
    assert answers(node) == {"live": True, "ready": True, "started": True, "drained": False}
    assert said(node, Probe.READY).startswith(
        "ok\nok    start: is started\nok    lease: is trusted; the store answered "
    )

    await node.schedule("sleep", 3)
    await clock.advance(1)
    stopping = asyncio.ensure_future(node.stop(grace=10))
    await clock.advance(1)
    assert answers(node) == {"live": True, "ready": False, "started": True, "drained": False}

    await clock.run(stopping)
    assert answers(node) == idle


async def test_it_is_not_ready_before_its_lifespan_has_begun(clock: VirtualClock) -> None:
    begin = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(node: Node) -> AsyncGenerator[None]:
        await begin.wait()
        yield

    node = Node("memory://", clock=clock, lifespan=lifespan)
    starting = asyncio.ensure_future(node.start())
    await clock.advance(3)
    assert answers(node) == {"live": True, "ready": False, "started": True, "drained": False}
    assert "fail  start: has not finished" in said(node, Probe.READY)

    begin.set()
    await clock.run(starting)
    assert node.probe(Probe.READY).ok
    await clock.run(node.stop())


async def test_a_drain_makes_it_unready_at_once_and_drained_when_nothing_runs(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock, workers=2) as node:
        await node.schedule_many(SLEEP.call(5) for _ in range(4))
        await clock.advance(1)
        draining = asyncio.ensure_future(node.drain())
        await clock.advance(0.5)
        assert answers(node) == {"live": True, "ready": False, "started": True, "drained": False}
        assert "fail  workers: 2 instances still in a worker" in said(node, Probe.DRAINED)

        await clock.run(draining)
        assert answers(node) == {"live": True, "ready": False, "started": True, "drained": True}


async def test_it_is_not_drained_while_an_outcome_is_on_its_way(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        instance = await node.schedule("sleep", 1)
        await clock.advance(0.5)
        stalled = flaky.stall("turn")
        draining = asyncio.ensure_future(node.drain())
        await clock.advance(2)
        assert stalled.met.is_set()
        assert "fail  outcomes: are on their way" in said(node, Probe.DRAINED)

        flaky.heal()
        await clock.run(draining)
        assert node.probe(Probe.DRAINED).ok
        assert (await instance.refresh()).state.is_final


@pytest.mark.parametrize("fault", ["stall", "stall_answers"])
@pytest.mark.parametrize("verb", ["turn", "claim_on_hint", "commit"])
@pytest.mark.parametrize("seconds", [None, 0.01, 0.6])
async def test_it_is_drained_when_the_drain_has_ended_and_not_before(
    clock: VirtualClock, verb: str, fault: str, seconds: float | None
) -> None:
    """With each request of the drain on its way; a body runs, has ended, or was never there."""
    url = shared_url()
    flaky = flaky_store(clock, url)
    async with (
        running_node(SLEEP, clock=clock, store=flaky.store, workers=2) as node,
        running_node(clock=clock, store=url, workers=0, allow_unknown=True) as client,
    ):
        await clock.advance(8)
        stalled = getattr(flaky, fault)(verb)
        if seconds is not None:
            await client.schedule("sleep", seconds)
            await clock.advance(0.3)
        draining = asyncio.ensure_future(node.drain())
        await clock.settle()
        for _ in range(20):
            await clock.advance(0.1)
            assert node.probe(Probe.DRAINED).ok == draining.done(), said(node, Probe.DRAINED)
        stalled.release()
        flaky.heal()
        await clock.run(draining)
        assert node.probe(Probe.DRAINED).ok


async def test_a_claim_loop_that_hangs_while_the_store_answers_needs_a_restart(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        flaky.stall("turn")
        await clock.advance(50)
        assert node.probe(Probe.LIVE).ok

        await clock.advance(HANGS - 50)
        assert not node.probe(Probe.LIVE).ok
        assert "fail  claim loop: made no progress for 6" in said(node, Probe.LIVE)

        flaky.heal()
        await clock.advance(1)
        assert node.probe(Probe.LIVE).ok


async def test_a_claim_loop_that_fails_at_every_turn_needs_a_restart(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as over a batch that it cannot encode, and would try again for ever."""
    monkeypatch.setattr(ClaimLoop, "restart_delay", 5.0)  # each time it logs a traceback
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        flaky.refuse(ZeroDivisionError("a bug"), "turn")
        await clock.advance(50)
        assert node.probe(Probe.LIVE).ok
        await clock.advance(HANGS - 50)
        assert not node.probe(Probe.LIVE).ok
        flaky.heal()
        await clock.advance(6)
        assert node.probe(Probe.LIVE).ok


async def test_a_claim_loop_that_has_ended_needs_a_restart(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        task = node._runtime.claim_loop._task  # type: ignore[union-attr]  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        assert task is not None
        task.cancel()
        await clock.advance(0.1)
        assert "fail  claim loop: has ended" in said(node, Probe.LIVE)


@pytest.mark.parametrize("way", ["fail", "stall"])
async def test_a_store_that_is_away_makes_it_unready_and_no_more(clock: VirtualClock, way: str) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        getattr(flaky, way)()
        for _ in range(60):
            await clock.advance(5)
            assert node.probe(Probe.LIVE).ok, said(node, Probe.LIVE)
        assert answers(node) == {"live": True, "ready": False, "started": True, "drained": False}
        assert "fail  lease: is not trusted; the store answered 30" in said(node, Probe.READY)

        flaky.heal()
        await clock.advance(5)
        assert answers(node) == {"live": True, "ready": True, "started": True, "drained": False}


async def test_a_claim_loop_has_its_patience_again_once_the_store_is_back(clock: VirtualClock) -> None:
    """Else the first node to be probed after a long outage would be restarted for it."""
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        hung, away = flaky.stall("turn"), flaky.fail()
        await clock.advance(300)
        away.release()
        await clock.advance(50)
        assert hung.met.is_set()
        assert answers(node)["ready"]
        assert node.probe(Probe.LIVE).ok

        await clock.advance(15)
        assert not node.probe(Probe.LIVE).ok


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_claim_loop_that_has_nothing_to_do_is_alive(clock: VirtualClock, workers: int) -> None:
    async with running_node(SLEEP, clock=clock, workers=workers) as node:
        await node.schedule_many(SLEEP.call(3600) for _ in range(5))
        for _ in range(60):
            await clock.advance(10)
            assert node.probe(Probe.LIVE).ok
        assert node.vitals().busy == workers


async def test_all_workers_stuck_need_a_restart_and_one_of_them_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.node.work.run.STUCK_AFTER", 0.1)
    leave = threading.Event()
    begun = 0

    def stay(ctx: Context = INJECTED) -> None:
        nonlocal begun
        begun += 1
        leave.wait(60)

    async with running_node(Job("stay", stay), clock=SystemClock(), workers=2) as node:

        async def are_stuck(count: int) -> bool:
            return node.vitals().stuck == count

        async def have_begun(count: int) -> bool:
            return begun == count

        async def cancelled_body(count: int) -> None:
            # a body that is cancelled before its thread begins never runs, and so is never stuck
            instance = await node.schedule("stay")
            await until(lambda: have_begun(count))
            await instance.cancel()
            await until(lambda: are_stuck(count))

        try:
            await cancelled_body(1)
            assert node.probe(Probe.LIVE).ok

            await cancelled_body(2)
            assert "fail  workers: 2 of 2 busy, 2 stuck" in said(node, Probe.LIVE)
        finally:
            leave.set()


async def stubborn() -> None:
    """Continue for a minute, in spite of cancellations."""
    end = asyncio.get_running_loop().time() + 60
    while (left := end - asyncio.get_running_loop().time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


async def test_the_time_until_stuck_begins_when_the_body_must_end(clock: VirtualClock) -> None:
    """The time counts from the timeout of the attempt, not from the first probe that finds the body busy."""
    async with running_node(Job("stubborn", stubborn, timeout=1), clock=clock, workers=1) as node:
        await node.schedule("stubborn")
        await clock.advance(5.5)
        assert node.probe(Probe.LIVE).ok
        await clock.advance(1)
        assert not node.probe(Probe.LIVE).ok
        await clock.advance(60)


async def test_workers_that_are_stuck_as_the_store_is_away_need_no_restart(clock: VirtualClock) -> None:
    """The bodies were told to end with the trust. While the store is away, a restarted node could do no more."""
    flaky = flaky_store(clock)
    async with running_node(Job("stubborn", stubborn), clock=clock, store=flaky.store, workers=1) as node:
        await node.schedule("stubborn")
        await clock.advance(1)
        flaky.fail()
        await clock.advance(30)
        assert node.vitals().stuck == 1
        assert node.probe(Probe.LIVE).ok

        flaky.heal()
        await clock.advance(5)
        assert not node.probe(Probe.LIVE).ok
        await clock.advance(30)
        assert node.probe(Probe.LIVE).ok


@dataclass
class LeaseFaults:
    """How the connections of a lease break, from when the test says so; a slow machine may come to make several."""

    hold: threading.Event | None = None
    dies: bool = False


class Broken:
    """A lease's connection that works until the test sets its failure."""

    def __init__(self, inner: Liveness, breaking: LeaseFaults) -> None:
        self._inner = inner
        self.open, self.close = inner.open, inner.close
        self._breaking = breaking

    async def renew(self, *args: Any, **options: Any) -> Any:
        if self._breaking.dies:
            raise SystemExit
        if self._breaking.hold is not None:
            await asyncio.sleep(0)
            self._breaking.hold.wait(60)  # a library that blocks is what is tried
        return await self._inner.renew(*args, **options)


async def in_real_time(monkeypatch: pytest.MonkeyPatch) -> tuple[Node, LeaseFaults]:
    clock = SystemClock()
    flaky = flaky_store(clock)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    breaking = LeaseFaults()
    monkeypatch.setattr(flaky, "liveness", lambda: Broken(flaky.inner.liveness(), breaking))
    node = Node(flaky.store, jobs=SLEEP, clock=clock, lease_ttl=1)
    await node.start()
    return node, breaking


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_renewal_whose_thread_died_needs_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    node, breaking = await in_real_time(monkeypatch)
    try:
        assert node.probe(Probe.LIVE).ok
        breaking.dies = True

        await until(lambda: asyncio.sleep(0, not node.probe(Probe.LIVE).ok))

        assert "fail  lease: no task renews it any more" in said(node, Probe.LIVE)
    finally:
        await node.stop(grace=0)


async def test_a_renewal_that_hangs_needs_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.cluster.lease.OPEN_TIMEOUT", 0.5)
    monkeypatch.setattr("peerjob.cluster.lease.SLACK", 0.5)
    node, breaking = await in_real_time(monkeypatch)
    hold = threading.Event()
    hung = "fail  lease: its renewal has hung for "
    try:
        breaking.hold = hold
        await until(lambda: asyncio.sleep(0, hung in said(node, Probe.LIVE)))
    finally:
        hold.set()
        await node.stop(grace=0)


async def test_a_role_that_fails_is_alive(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        flaky.refuse(StoreError(), "turn")
        for _ in range(30):
            await clock.advance(10)
            assert node.probe(Probe.LIVE).ok
