"""The wait for hints of an idle node, which ends with a claim: when it claims, and what becomes of its claims."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from peerjob import Job, Node, State
from peerjob.model.errors import StoreRefusedError
from peerjob.model.record import Want
from peerjob.model.spec import Spec, encode, encode_arguments
from peerjob.node.work.hint_wait import HINTS_WAIT, REFUSED_WAIT
from peerjob.node.work.in_flight import InFlight
from peerjob.testing import VirtualClock, drain, running_node
from peerjob.testing.factories import Factory
from support.factories import flaky_store, notes_of, shared_url
from support.flaky import FlakyStore
from support.records import logged


class Work:
    """Counts its runs, and takes as long as it is told."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, seconds: float = 0) -> None:
        self.runs += 1
        await asyncio.sleep(seconds)


@asynccontextmanager
async def idle(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str, workers: int = 2
) -> AsyncGenerator[tuple[Node, Node]]:
    """A node whose wait for hints has a claim, and a client of its cluster."""
    async with (
        running_node(Job("work", work), clock=clock, store=flaky.store, name="worker", workers=workers) as worker,
        running_node(clock=clock, store=url, name="client", workers=0, allow_unknown=True) as client,
    ):
        await clock.advance(HINTS_WAIT + 1)  # the first wait begins before the node knows that it is idle
        flaky.calls.clear()
        yield worker, client


async def starts_with_the_hint(clock: VirtualClock, work: Work, flaky: FlakyStore, client: Node) -> None:
    """The next instance starts, although the claim loop gets no answer."""
    before = work.runs
    flaky.stall("turn")
    await client.schedule("work")
    await clock.advance(0.001)
    assert work.runs == before + 1
    flaky.heal()


def in_flight(node: Node) -> InFlight:
    assert node._runtime is not None  # pyright: ignore[reportPrivateUsage]
    return node._runtime.in_flight  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def url() -> str:
    return shared_url()


@pytest.fixture
def flaky(clock: VirtualClock, url: str) -> FlakyStore:
    return flaky_store(clock, url)


async def test_the_claim_comes_with_the_hint(clock: VirtualClock, work: Work, flaky: FlakyStore, url: str) -> None:
    """The claim loop gets no answer any more."""
    async with idle(clock, work, flaky, url) as (_, client):
        await starts_with_the_hint(clock, work, flaky, client)
        assert work.runs == 1


async def test_a_burst_needs_no_more_hints_than_one(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (_, client):
        began = clock.elapsed()
        await client.schedule_many(Job("work", work).call() for _ in range(50))
        await drain(client)
        assert work.runs == 50
        assert clock.elapsed() - began < 1


async def test_a_node_whose_body_runs_sends_no_claim_ahead(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """The body can block the event loop, and peers could not take the instance of the claim."""
    async with idle(clock, work, flaky, url) as (_, client):
        await client.schedule("work", 30)
        await clock.advance(1)
        flaky.calls.clear()
        await clock.advance(25)
        assert flaky.calls["claim_on_hint"] == 0
        assert flaky.calls["next_hints"] <= 8
        await clock.advance(5 + HINTS_WAIT)
        assert flaky.calls["claim_on_hint"] == 1


async def test_a_claim_goes_ahead_soon_after_a_short_body(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (_, client):
        await client.schedule("work", 0.05)
        await clock.advance(0.3)
        await starts_with_the_hint(clock, work, flaky, client)
        assert work.runs == 2


async def test_a_drained_node_claims_nothing_with_a_hint(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (worker, client):
        await clock.run(worker.drain())
        instance = await client.schedule("work")
        await clock.advance(10)
        assert await notes_of(await client.lookup_instance(instance.id)) == ["Created", "Scheduled"]
        await worker.undrain()
        await clock.run(instance.wait())


@pytest.mark.parametrize("change", ["resize", "unregister"])
async def test_a_node_that_can_run_nothing_claims_nothing_with_a_hint(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str, change: str
) -> None:
    async with idle(clock, work, flaky, url, workers=1) as (worker, client):
        if change == "resize":
            await worker.resize_workers(1)
            await client.schedule("work", 60)  # the only worker is busy
            await clock.advance(1)
        else:
            worker.unregister("work")
            await clock.advance(0.1)
        instance = await client.schedule("work", allow_unknown=True)
        await clock.advance(10)
        assert await notes_of(await client.lookup_instance(instance.id)) == ["Created", "Scheduled"]


@pytest.mark.parametrize("times", [1, 3])
async def test_a_claim_whose_answer_is_lost_runs_once(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str, times: int
) -> None:
    flaky.lose_answers("claim_on_hint", times=times)
    async with idle(clock, work, flaky, url) as (_, client):
        instance = await client.schedule("work")
        await clock.run(instance.wait(), limit=20)
        assert (work.runs, (await instance.refresh()).attempts) == (1, 1)


async def test_an_answer_that_comes_too_late_starts_no_second_body(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    late = flaky.stall_answers("claim_on_hint")
    async with idle(clock, work, flaky, url) as (_, client):
        instance = await client.schedule("work", 30)
        await clock.advance(20)
        assert "Scheduled: the answer to the claim was lost" in await notes_of(instance)
        assert work.runs == 1
        late.release()
        await clock.advance(5)
        assert work.runs == 1
        await clock.run(instance.wait())
        assert (await instance.refresh()).state is State.COMPLETED


async def test_a_claim_whose_answer_does_not_come_is_withdrawn_and_runs(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (_, client):
        flaky.stall_answers("claim_on_hint", times=1)
        await clock.advance(HINTS_WAIT)
        instance = await client.schedule("work")
        await clock.run(instance.wait(), limit=20)
        assert work.runs == 1
        assert "Scheduled: the answer to the claim was lost" not in await notes_of(instance)


async def test_a_refused_claim_keeps_no_hint_from_the_node(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    flaky.refuse(StoreRefusedError("no"), "claim_on_hint")
    async with idle(clock, work, flaky, url) as (_, client):
        began = clock.elapsed()
        for _ in range(5):
            await clock.run((await client.schedule("work")).wait())
        assert clock.elapsed() - began < 1
        assert [record.getMessage() for record in logged(caplog)] == [
            "the store refuses a claim with a hint; the node claims after hints for a while: no"
        ]
        flaky.heal()
        await clock.advance(REFUSED_WAIT + 2 * HINTS_WAIT)
        await starts_with_the_hint(clock, work, flaky, client)
        assert work.runs == 6


async def test_a_withdrawn_claim_has_taken_a_hint_about_a_suspect(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """Claims ahead take no suspects, so nothing comes with the hint."""
    async with idle(clock, work, flaky, url) as (worker, _):
        flaky.change_answers(lambda renewed: replace(renewed, work_due=False), "renew", times=None)
        flaky.stall_answers("claim_on_hint", times=1)
        await clock.advance(HINTS_WAIT)
        spec = encode(Spec(args=encode_arguments((), {})))
        await flaky.inner.enqueue([Factory(clock).instance(kind="work", spec=spec, crashes=2, max_crashes=9)])
        await clock.advance(0.01)
        assert in_flight(worker).give_up_hinted_claim() is not None
        await clock.advance(0.05)
        assert work.runs == 1


async def test_quick_jobs_that_come_alone_start_with_their_hints(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """The next wait has a claim again as soon as the claim loop has nothing to send."""
    async with idle(clock, work, flaky, url) as (_, client):
        for _ in range(3):
            await starts_with_the_hint(clock, work, flaky, client)
            await clock.advance(0.01)


async def test_a_hint_that_comes_with_a_claim_which_was_given_up_reaches_its_reader(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (worker, client):
        instance = await client.schedule("other", allow_unknown=True)
        late = flaky.stall_answers("claim_on_hint")
        await clock.advance(HINTS_WAIT)
        waiting = asyncio.ensure_future((await worker.lookup_instance(instance.id)).wait())
        await clock.advance(1)
        await instance.cancel()
        await clock.advance(0.01)
        assert not waiting.done()
        assert in_flight(worker).give_up_hinted_claim() is not None
        late.release()
        await clock.advance(0.05)
        assert waiting.done()


async def test_a_node_that_stops_leaves_no_claim(clock: VirtualClock, work: Work, flaky: FlakyStore, url: str) -> None:
    async with idle(clock, work, flaky, url) as (worker, client):
        late = flaky.stall_answers("claim_on_hint")
        await clock.advance(HINTS_WAIT + 1)
        instance = await client.schedule("work")
        await clock.advance(0.01)
        stopping = asyncio.ensure_future(worker.stop())
        await clock.run(stopping)
        late.release()
        await clock.advance(1)
        found = await client.lookup_instance(instance.id)
        assert (found.state, found.attempts) == (State.SCHEDULED, 0)
        assert work.runs == 0


async def test_a_full_node_hands_back_a_claim_whose_answer_was_lost(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """A node whose workers are all busy claims nothing, so there is no answer to wait for."""
    async with idle(clock, work, flaky, url, workers=1) as (worker, client):
        await client.schedule("work", 60)
        await clock.advance(1)
        instance = await client.schedule("work")
        await flaky.inner.claim(worker.incarnation, Want(kinds={"work": 1}, limit=1), request="lost")
        await clock.advance(worker.lease_ttl)
        assert "Scheduled: the answer to the claim was lost" in await notes_of(instance)


async def test_a_full_node_ends_a_body_whose_claim_the_store_has_forgotten(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """As after a failover that lost the claim: a peer runs the instance again."""
    async with idle(clock, work, flaky, url, workers=1) as (worker, client):
        await client.schedule("work", 60)
        await clock.advance(1)
        await client.clear()
        await clock.advance(worker.lease_ttl)
        assert [one.instance for one in worker.workers()] == [None]


async def test_a_withdrawn_wait_does_not_swallow_other_hints(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """The node asks the store for everything that a lost hint could have told."""
    async with idle(clock, work, flaky, url) as (worker, _):
        before = flaky.calls["renew"]
        worker.unregister("work")  # withdraws the claim
        await clock.advance(0.1)
        assert flaky.calls["renew"] > before


async def test_a_blocked_event_loop_runs_no_instance_of_the_claim_that_was_given_up(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """The node hands the instance back, because the thread of the lease may have done so already."""
    late = flaky.stall_answers("claim_on_hint")
    async with idle(clock, work, flaky, url) as (worker, client):
        instance = await client.schedule("work")
        await clock.advance(0.01)
        assert in_flight(worker).give_up_hinted_claim() is not None
        late.release()
        flaky.heal()
        await clock.run(instance.wait())
        assert "Scheduled: the event loop of the node was blocked" in await notes_of(instance)
        assert (work.runs, (await instance.refresh()).attempts) == (1, 1)


async def test_a_claim_that_was_given_up_is_withdrawn_and_followed_by_another(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (worker, client):
        given_up = in_flight(worker).give_up_hinted_claim()
        assert given_up is not None
        assert in_flight(worker).give_up_hinted_claim() == given_up  # a later renewal withdraws it again
        await clock.advance(0.1)
        assert in_flight(worker).hinted_claim is not None
        await starts_with_the_hint(clock, work, flaky, client)


async def test_a_claim_that_the_node_took_is_not_given_up(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (worker, client):
        claim = in_flight(worker).hinted_claim
        await client.schedule("work", 30)
        await clock.advance(0.1)
        assert claim is not None
        assert not claim.decide()
        assert in_flight(worker).give_up_hinted_claim() is None


def wants_of(flaky: FlakyStore) -> list[tuple[int, bool]]:
    """Limit, and whether suspects are wanted, of each claim with a hint from now on."""
    wants: list[tuple[int, bool]] = []

    def note(_: str, want: Want) -> bool:
        wants.append((want.limit, want.suspects))
        return False

    flaky.refuse(StoreRefusedError("never"), "claim_on_hint", when=note)
    return wants


async def test_a_claim_ahead_is_for_one_instance_and_its_repeat_for_none(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """Another suspect can start during the wait, and workers can become busy."""
    async with idle(clock, work, flaky, url) as (worker, _):
        wants = wants_of(flaky)
        await clock.advance(HINTS_WAIT)
        await clock.run(worker.drain())
        assert wants == [(1, False), (0, False)]


async def test_a_drain_waits_for_the_answer_of_the_claim(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (worker, client):
        answers = flaky.stall_answers("claim_on_hint")
        await clock.advance(HINTS_WAIT)
        instance = await client.schedule("work")
        draining = asyncio.ensure_future(worker.drain())
        await clock.advance(1)
        assert not draining.done()
        answers.release()
        flaky.heal()
        await clock.run(draining)
        assert (await client.lookup_instance(instance.id)).state is State.SCHEDULED
        assert work.runs == 0


async def test_a_node_whose_caller_waits_sends_no_claim_ahead(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """The hint about the end of an instance would run a claim for nothing."""
    async with idle(clock, work, flaky, url) as (worker, client):
        instance = await client.schedule("other", allow_unknown=True)
        waiting = asyncio.ensure_future((await worker.lookup_instance(instance.id)).wait())
        await clock.advance(HINTS_WAIT + 1)
        flaky.calls.clear()
        await clock.advance(3 * HINTS_WAIT)
        assert flaky.calls["claim_on_hint"] == 0
        await instance.cancel()
        await clock.run(waiting)
        await clock.advance(2 * HINTS_WAIT)
        assert flaky.calls["claim_on_hint"] > 0


async def test_a_claim_that_another_part_has_decided_on_is_not_given_up(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    async with idle(clock, work, flaky, url) as (worker, _):
        claim = in_flight(worker).hinted_claim
        assert claim is not None
        assert claim.decide()
        assert in_flight(worker).give_up_hinted_claim() is None


async def test_each_part_reads_the_store_after_a_call_for_hints_has_failed(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str
) -> None:
    """The call can have taken hints for each of them."""
    async with idle(clock, work, flaky, url) as (_, client):
        await clock.advance(0.43)
        flaky.calls.clear()
        failing = flaky.fail("claim_on_hint", "next_hints", times=1)
        await client.schedule("work")  # ends the wait
        await clock.advance(0.15)  # the next call for hints comes later
        assert failing.met.is_set()
        assert {"turn", "campaign", "changed_schedules"} <= set(flaky.calls)


async def test_a_refused_repeat_of_a_claim_keeps_no_hint_from_the_node(
    clock: VirtualClock, work: Work, flaky: FlakyStore, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with idle(clock, work, flaky, url) as (_, client):
        flaky.stall_answers("claim_on_hint", times=1)
        await clock.advance(HINTS_WAIT)
        instance = await client.schedule("work")
        flaky.refuse(StoreRefusedError("no"), "claim_on_hint")
        await clock.run(instance.wait(), limit=20)
        assert work.runs == 1
        assert [record.getMessage() for record in logged(caplog)] == [
            "the store refuses a claim with a hint; the node claims after hints for a while: no",
            f"instance {instance.id}: the answer to its claim was lost; the node hands it back",
        ]
