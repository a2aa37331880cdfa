"""How far a lease may be trusted, when it says so, and whether its node may take others for dead."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from peerjob.cluster.lease import Lease
from peerjob.model.errors import LayoutError
from peerjob.model.record import Renewed
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory
from support.factories import flaky_store
from support.flaky import FlakyStore

TTL = 10.0
MARGIN = 1.0
"""Seconds before its end from which on a lease is not trusted."""
LATE = 0.01
"""Seconds by which the end of trust may be reported late."""


class Suspended:
    """A virtual clock that also counts the time for which the machine slept, though no timer does."""

    virtual = True

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.time_us, self.random = clock.time_us, clock.random
        self.outside, self.inside, self.passing = clock.outside, clock.inside, clock.passing
        self.slept = 0.0

    def elapsed(self) -> float:
        return self._clock.elapsed() + self.slept


@dataclass
class Heard:
    """The events that a lease reported to its node."""

    clock: Suspended
    asked_at: float = 0.0
    answered: list[float] = field(default_factory=list[float])
    """When each renewal that was answered had been asked for."""
    ended: list[float] = field(default_factory=list[float])
    dead: list[str] = field(default_factory=list[str])

    def lease_summary(self) -> tuple[int, int, int]:
        self.asked_at = self.clock.elapsed()
        return 0, 0, 0

    def lease_renewed(self, incarnation: str, reply: Renewed) -> None:
        self.answered.append(self.asked_at)

    def lease_dead(self, incarnation: str) -> None:
        self.dead.append(incarnation)

    def renewal_failed(self) -> None: ...

    def trust_ended(self) -> None:
        self.ended.append(self.clock.elapsed())

    def trust_returned(self) -> None: ...

    def layout_changed(self, error: LayoutError) -> None: ...


@dataclass
class RenewedLease:
    """A lease that is renewed, at a store with faults."""

    clock: VirtualClock
    machine: Suspended
    store: FlakyStore
    heard: Heard
    lease: Lease


@pytest.fixture
async def renewing(clock: VirtualClock) -> AsyncIterator[RenewedLease]:
    machine = Suspended(clock)
    store, heard = flaky_store(clock), Heard(machine)
    await store.inner.open()
    node = Factory(clock).node()
    await store.inner.join(node, ttl_us=round(TTL * 1_000_000))
    lease = Lease(clock=machine, ttl=TTL, liveness=store.store.liveness, listener=heard)
    lease.begin(node.incarnation, clock.elapsed())
    lease.start()
    yield RenewedLease(clock, machine, store, heard, lease)
    await clock.run(lease.stop())
    await store.inner.close()


@pytest.mark.parametrize("how", ["fail", "stall"])
@pytest.mark.parametrize("slow", [0.0, 1.5])
async def test_trust_counts_from_before_the_last_request_that_was_answered(
    renewing: RenewedLease, how: str, slow: float
) -> None:
    """For an answer after any delay, and for a store that then refuses renewals or does not answer."""
    clock, heard = renewing.clock, renewing.heard
    renewing.store.slow(slow, "renew")
    await clock.advance(20.3)
    renewing.store.heal()
    (renewing.store.fail if how == "fail" else renewing.store.stall)("renew")
    await clock.advance(2 * TTL)
    end = heard.answered[-1] + TTL - MARGIN
    assert len(heard.ended) == 1
    assert end <= heard.ended[0] <= end + LATE
    assert not renewing.lease.trusted


async def test_a_store_that_needs_longer_for_each_renewal_gets_the_time(renewing: RenewedLease) -> None:
    """With a fixed limit, no renewal is answered: the node has no trust for good, and claims nothing."""
    clock, lease = renewing.clock, renewing.lease
    renewing.store.slow(0.29 * TTL, "renew")
    await clock.advance(2 * TTL)
    for _ in range(50):
        await clock.advance(1)
        assert lease.trusted
    renewing.store.heal()
    await clock.advance(TTL)
    failures = lease.failures
    renewing.store.stall("renew")
    await clock.advance(TTL - MARGIN - 1.1)
    assert lease.trusted
    assert lease.failures - failures >= 3, "after quick answers, tries must be short again"


async def test_a_connection_that_does_not_open_is_given_up_and_tried_again(clock: VirtualClock) -> None:
    machine, store = Suspended(clock), flaky_store(clock)
    heard, node = Heard(machine), Factory(clock).node()
    await store.inner.open()
    await store.inner.join(node, ttl_us=round(TTL * 1_000_000))
    store.stall("open", times=1)
    lease = Lease(clock=machine, ttl=TTL, liveness=store.store.liveness, listener=heard)
    lease.begin(node.incarnation, clock.elapsed())
    lease.start()
    await clock.advance(3 * TTL)
    assert lease.trusted
    assert heard.ended == []
    await clock.run(lease.stop())
    store.heal()
    await store.inner.close()


async def test_a_gap_between_renewals_is_no_steady_time(renewing: RenewedLease) -> None:
    """The node may have missed an outage in which its peers could not renew either."""
    clock, lease = renewing.clock, renewing.lease
    await clock.advance(2 * TTL)
    assert lease.may_reap
    renewing.machine.slept += 0.6 * TTL
    assert lease.trusted
    await clock.advance(1.1)
    assert lease.trusted
    assert not lease.may_reap
    await clock.advance(TTL - 1.2)
    assert not lease.may_reap
    await clock.advance(1.2)
    assert lease.may_reap


async def test_a_renewal_that_failed_is_no_steady_time(renewing: RenewedLease) -> None:
    clock, lease = renewing.clock, renewing.lease
    await clock.advance(2 * TTL)
    renewing.store.fail("renew", times=1)
    await clock.advance(2)
    assert lease.trusted
    assert not lease.may_reap
    await clock.advance(TTL)
    assert lease.may_reap


async def stopped(renewing: RenewedLease) -> None:
    await renewing.clock.run(renewing.lease.stop())


async def declared_dead(renewing: RenewedLease) -> None:
    await renewing.store.inner.leave(renewing.lease.incarnation)
    renewing.lease.renew_soon()
    await renewing.clock.settle()
    assert renewing.heard.dead == [renewing.lease.incarnation]


async def with_another_layout(renewing: RenewedLease) -> None:
    renewing.store.refuse(LayoutError("another layout", found=99, known=1), "renew")
    renewing.lease.renew_soon()
    await renewing.clock.settle()


async def without_its_loop(renewing: RenewedLease) -> None:
    await renewing.clock.run(renewing.lease.end_without_loop())


@pytest.mark.parametrize("end", [stopped, declared_dead, with_another_layout, without_its_loop])
async def test_a_lease_that_has_ended_is_not_trusted(
    renewing: RenewedLease, end: Callable[[RenewedLease], Awaitable[None]]
) -> None:
    await renewing.clock.advance(1)
    assert renewing.lease.trusted
    await end(renewing)
    assert not renewing.lease.trusted
    assert not renewing.lease.may_reap


async def test_a_stop_waits_until_no_renewal_is_in_flight(renewing: RenewedLease) -> None:
    clock, lease = renewing.clock, renewing.lease
    assert lease.started
    await clock.advance(5)
    renewing.store.slow(1.5, "renew")
    lease.renew_soon()
    await clock.settle()
    began = clock.elapsed()
    await clock.run(lease.stop())
    assert clock.elapsed() - began >= 1.5
    assert (lease.started, lease.died) == (False, False)
    answered = len(renewing.heard.answered)
    await clock.run(lease.stop())
    await clock.advance(2 * TTL)
    assert len(renewing.heard.answered) == answered


async def test_a_renewal_extends_the_lease_by_the_whole_ttl(renewing: RenewedLease) -> None:
    await renewing.clock.advance(5)
    (view,) = await renewing.store.inner.nodes()
    assert view.expires_us - view.renewed_us == round(TTL * 1_000_000)
    assert view.expires_us > renewing.clock.time_us() + (TTL - renewing.lease.interval - LATE) * 1_000_000


# -- an answer that is on its way while the node joins under a new incarnation


async def test_an_answer_for_the_incarnation_before_gives_no_trust(renewing: RenewedLease) -> None:
    clock, lease, heard = renewing.clock, renewing.lease, renewing.heard
    await clock.advance(5)
    answer = renewing.store.stall_answers("renew", times=1)
    await clock.advance(1.2)
    assert answer.met.is_set()
    renewing.store.stall("renew")
    joined_at = clock.elapsed() - 5
    lease.begin(Factory(clock).id(), joined_at)
    before = len(heard.answered)
    answer.release()
    await clock.advance(0)
    assert len(heard.answered) == before
    assert lease.answered_since == joined_at
    await clock.advance(TTL)
    assert joined_at + TTL - MARGIN <= heard.ended[0] <= joined_at + TTL - MARGIN + LATE


async def test_an_answer_that_the_incarnation_before_is_dead_ends_no_trust(renewing: RenewedLease) -> None:
    clock, lease, heard = renewing.clock, renewing.lease, renewing.heard
    await clock.advance(5)
    await renewing.store.inner.leave(lease.incarnation)
    answer = renewing.store.stall_answers("renew", times=1)
    await clock.advance(1.2)
    assert answer.met.is_set()
    node = Factory(clock).node()
    await renewing.store.inner.join(node, ttl_us=round(TTL * 1_000_000))
    lease.begin(node.incarnation, clock.elapsed())
    answer.release()
    await clock.advance(3)
    assert lease.trusted
    assert not heard.dead
    assert not heard.ended


async def test_a_lease_that_is_not_trusted_lets_its_node_take_no_other_for_dead(renewing: RenewedLease) -> None:
    """The machine slept, and no renewal has failed yet."""
    lease = renewing.lease
    await renewing.clock.advance(TTL + 1)
    before = lease.may_reap
    assert before
    renewing.machine.slept = TTL
    assert not lease.trusted
    assert not lease.may_reap
