"""When a node looks for dead peers: each event gives a time, and no other event has to help."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from peerjob.cluster.lease import INTERVAL, Lease
from peerjob.cluster.recovery import SPREAD, Reaper
from peerjob.store.base import Store
from peerjob.testing.clock import VirtualClock

LATEST = SPREAD * INTERVAL + 0.01


class Looks:
    """As much of a store and of a lease as a reaper asks for."""

    may_reap = True
    interval = INTERVAL
    incarnation = "one"

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.at: list[float] = []

    async def reap(self, limit: int, *, reaper: str) -> list[Any]:
        self.at.append(self.clock.elapsed())
        return []


class Bench:
    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.looks = Looks(clock)
        self.reaper = Reaper(
            clock=clock, store=cast(Store, self.looks), lease=cast(Lease, self.looks), on_reaped=lambda _: None
        )

    async def quiet(self) -> float:
        """A moment at which no look is planned for an hour."""
        self.reaper.renewed(3_600_000_000)
        await self.clock.advance(1)
        self.looks.at.clear()
        return self.clock.elapsed()


@pytest.fixture
async def bench(clock: VirtualClock) -> AsyncIterator[Bench]:
    bench = Bench(clock)
    bench.reaper.start()
    yield bench
    await clock.run(bench.reaper.stop())


@pytest.mark.parametrize("reap_in_us", [1, 1_000, 300_000, 2_500_000, 40_000_000])
async def test_a_node_looks_when_the_renewal_said_that_a_lease_ends(bench: Bench, reap_in_us: int) -> None:
    for _ in range(10):
        began = await bench.quiet()
        bench.reaper.renewed(reap_in_us)
        await bench.clock.advance(reap_in_us / 1_000_000 + LATEST)
        assert reap_in_us / 1_000_000 <= bench.looks.at[0] - began <= reap_in_us / 1_000_000 + LATEST


async def test_a_lease_that_has_ended_is_looked_at_now(bench: Bench) -> None:
    began = await bench.quiet()
    bench.reaper.renewed(0)
    await bench.clock.advance(0.01)
    assert 0 < bench.looks.at[0] - began <= 0.01


async def test_a_hint_brings_a_look_that_no_renewal_delays(bench: Bench) -> None:
    for _ in range(10):
        began = await bench.quiet()
        bench.reaper.soon()
        bench.reaper.renewed(3_600_000_000)  # its answer may be older than the hint
        await bench.clock.advance(LATEST)
        assert bench.looks.at[0] - began <= LATEST


async def test_a_store_that_does_not_tell_is_asked_twice_in_each_interval(bench: Bench) -> None:
    await bench.quiet()
    bench.reaper.soon()
    for _ in range(20):
        bench.reaper.renewed(None)
        await bench.clock.advance(INTERVAL)
    assert 38 <= len(bench.looks.at) <= 46


async def test_a_later_answer_moves_the_look(bench: Bench) -> None:
    await bench.quiet()
    bench.reaper.renewed(2_000_000)
    await bench.clock.advance(1)
    began = bench.clock.elapsed()
    bench.reaper.renewed(5_000_000)  # the lease was extended meanwhile
    await bench.clock.advance(5 + LATEST)
    assert 5 <= bench.looks.at[0] - began <= 5 + LATEST
