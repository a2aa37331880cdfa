"""A job of every second on nodes that are killed, paused and stopped: each second is accounted for, and runs once."""

import asyncio
import itertools
import random
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peerjob import FireEntry, FireOutcome
from support.fires import fired_until, neglected, outcomes, settled
from support.leaders import SECOND
from support.peers import READY, TTL, Peers, peers
from support.processes import ChildProcess
from support.stalls import Stalls

pytestmark = pytest.mark.matrix("a long fault; shorter ones have the same promises")

SETUPS = (("valkey", None), ("etcd", None), ("redis", "etcd"))
"""Stores, and coordinators where the store is not its own."""
NODES = 4
WAYS = ("kill", "kill", "pause", "kill")
SPACING = 12
"""Seconds from one strike to the next; a node that was paused or started is long back by then."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One thing that was done to a leader."""

    way: str
    term: int
    at_us: int

    def gap(self, entries: list[FireEntry], stalls: Stalls) -> float:
        """Seconds, without stalls, until the leader after it recorded its first fire."""
        first_us = min(entry.record.at_us for entry in entries if entry.record.term > self.term)
        return (first_us - self.at_us) / SECOND - stalls.between(self.at_us, first_us)


async def start_nodes(group: Peers, count: int) -> list[ChildProcess]:
    """Start nodes that register the job, and wait until all are at work."""
    nodes = [group.launch(jobs="support.recurring_jobs") for _ in range(count)]
    for node in nodes:
        await node.line(READY)
    return nodes


async def in_every_setup(
    request: pytest.FixtureRequest,
    namespace: str,
    folder: Path,
    act: Callable[[Peers, str], Coroutine[Any, Any, None]],
) -> None:
    """Do the same with every setup at the same time, since most of it is waiting for the next second."""

    async def within(store: str, coordinator: str | None) -> None:
        name = store if coordinator is None else f"{store}-{coordinator}"
        url: str = request.getfixturevalue(f"{store}_url")
        own: str | None = coordinator and request.getfixturevalue(f"{coordinator}_url")
        (folder / name).mkdir()
        async with peers(url, f"{namespace}-{name}", folder / name, own) as group:
            await act(group, name)

    async with asyncio.TaskGroup() as running:
        for store, coordinator in SETUPS:
            running.create_task(within(store, coordinator))


@pytest.mark.usefixtures("patient")
@pytest.mark.long("a minute of fires")
async def test_no_second_is_lost_or_doubled_when_leaders_are_killed_and_paused(
    request: pytest.FixtureRequest, namespace: str, tmp_path: Path
) -> None:
    await in_every_setup(request, namespace, tmp_path, lead_through_a_minute)


async def lead_through_a_minute(group: Peers, setup: str) -> None:
    await start_nodes(group, NODES)
    strikes: list[Strike] = []
    start_us = group.client.clock.time_us()

    async def passed(seconds: int) -> None:
        await fired_until(group.client, "tick", start_us + seconds * SECOND)

    for number, way in enumerate(WAYS):
        await passed((number + 1) * SPACING - 4)
        leader, known = await group.leading()
        await asyncio.sleep(random.uniform(0, 1))  # at any moment between two fires
        strikes.append(Strike(way=way, term=known.term.number, at_us=time.time_ns() // 1000))
        if way == "kill":
            leader.kill()
            await start_nodes(group, 1)
            continue
        leader.pause()
        _, successor = await group.leading(after=known.term.number)
        await passed((group.client.clock.time_us() - start_us) // SECOND + 1)
        leader.resume()
        # its lease as a node may have been renewed a moment after its lease as the leader, and so be valid still
        await leader.line(r"joins under a new incarnation|the lease is renewed again")
        assert (await group.leading())[1] == successor
    await passed(60)
    (entries,) = (await settled(group.client)).values()

    counts = outcomes(entries)
    gaps = [strike.gap(entries, group.stalls) for strike in strikes]
    print(f"{setup}: {counts}, failover {', '.join(f'{gap:.2f}' for gap in gaps)} s at a lease of {TTL} s")
    assert counts.keys() <= {FireOutcome.FIRED, FireOutcome.COALESCED}
    assert sum(counts.values()) >= 60
    assert max(gaps) <= TTL + 1


@pytest.mark.usefixtures("patient")
@pytest.mark.long("a restart of each node")
async def test_a_rolling_restart_misses_no_second(
    request: pytest.FixtureRequest, namespace: str, tmp_path: Path
) -> None:
    await in_every_setup(request, namespace, tmp_path, restart_each_node)


async def restart_each_node(group: Peers, setup: str) -> None:
    old = await start_nodes(group, NODES)
    began_us = group.client.clock.time_us()
    leader, known = await group.leading()
    handovers = 0
    while old:
        # a fire under the leader that is now, before it goes
        await fired_until(group.client, "tick", group.client.clock.time_us())
        leaver = leader if leader in old else old[0]
        old.remove(leaver)
        leaver.signal(signal.SIGTERM)
        assert await leaver.exit() == 0
        await start_nodes(group, 1)
        if leaver is leader:
            handovers += 1
            leader, known = await group.leading(after=known.term.number)
    await fired_until(group.client, "tick", group.client.clock.time_us() + SECOND)
    (entries,) = (await settled(group.client)).values()

    # the first second may be over before the first nodes have elected a leader
    lately = [entry for entry in entries if entry.record.nominal_us >= began_us]
    gap = max(
        (later - earlier) / SECOND - group.stalls.between(earlier, later)
        for earlier, later in itertools.pairwise(entry.record.at_us for entry in lately)
    )
    print(f"{setup}: {handovers} handovers, at most {gap:.2f} s between two fires at a lease of {TTL} s")
    assert not neglected(lately, group.stalls)
    # far less than a lease, which a leader that did not resign would have kept
    assert gap < 2
