"""A coordinator that goes away and comes back: work goes on meanwhile, and fires are caught up by policy."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from peerjob import FireOutcome, Query, State
from support.etcd import SHORT_LEASES, StartEtcd
from support.fault_jobs import work
from support.fires import fired_until, outcomes, settled
from support.leaders import SECOND
from support.peers import READY, TTL, everything, peers
from support.waiting import until

pytestmark = pytest.mark.matrix("a long fault; shorter ones have the same promises")

NODES, WORKERS = 3, 10
BODY = 0.2
RATE = NODES * WORKERS / BODY
"""Instances per second, while every worker is busy."""
QUIET = 1.0
"""Seconds in which something surely ends, while every worker is busy."""


@pytest.mark.parametrize(("way", "seconds"), [("stop", 12), pytest.param("pause", 12, marks=pytest.mark.soak)])
async def test_work_goes_on_without_the_coordinator_and_fires_are_caught_up(
    redis_url: str,
    start_etcd: StartEtcd,
    namespace: str,
    tmp_path: Path,
    way: Literal["stop", "pause"],
    seconds: int,
) -> None:
    etcd = start_etcd(config=SHORT_LEASES)
    async with peers(redis_url, namespace, tmp_path, etcd.url) as group:
        client = group.client
        nodes = [group.launch(workers=WORKERS) for _ in range(NODES)]
        for node in nodes:
            await node.line(READY)
        for misfire in ("skip", "run_once", "run_all"):
            recurring = work.with_options(name=misfire, every=1, overlap="allow", misfire=misfire, priority=0)
            await client.add_schedule(recurring, 0, 0.0)
        enough = asyncio.Event()

        async def keep_all_busy() -> None:
            """Have two seconds of work in the queue, however long it all takes."""
            while not enough.is_set():
                missing = round(2 * RATE) - await client.count(Query(state=State.SCHEDULED))
                await client.schedule_many(work.call(number, BODY) for number in range(missing))
                await asyncio.sleep(BODY)

        async def many_have_ended() -> bool:
            return await client.count(Query(state=State.FINAL)) >= RATE

        await group.leading()
        keeping = asyncio.create_task(keep_all_busy())
        await until(many_have_ended)
        await asyncio.to_thread(etcd.stop if way == "stop" else etcd.pause)
        gone_us = client.clock.time_us()
        await asyncio.sleep(seconds)  # the outage itself
        away_us = client.clock.time_us()
        enough.set()
        await keeping
        back_us = client.clock.time_us()
        await asyncio.to_thread(etcd.start if way == "stop" else etcd.resume)
        answering_us = client.clock.time_us()

        for schedule in await client.schedules():
            await fired_until(client, schedule.name, client.clock.time_us())
        ledgers = await settled(client)
        ended = await everything(client)
        assert all(node.running for node in nodes)

    assert {(one.attempts, one.crashes, one.losses) for one in ended} == {(1, 0, 0)}
    ends = sorted(us for one in ended if gone_us < (us := one.record.history[-1].at_us) < away_us)
    quiet = max(group.stalls.took(before, after) for before, after in pairwise([gone_us, *ends, away_us]))
    recorded = sorted(entry.record.at_us for entries in ledgers.values() for entry in entries)
    trusted_us = gone_us + round((TTL + group.stalls.between(gone_us, back_us)) * SECOND)
    assert not [at_us for at_us in recorded if trusted_us < at_us < back_us]
    first_us = min(at_us for at_us in recorded if at_us >= back_us)
    pause, stalled = (first_us - answering_us) / SECOND, group.stalls.between(answering_us, first_us)
    counts = {name: outcomes(entries) for name, entries in ledgers.items()}
    print(f"{len(ends)} instances ended in {seconds} s without etcd, none for {quiet:.2f} s at most; {counts}")
    print(f"the first fire came {pause:.2f} s after etcd was back")
    assert pause - stalled < TTL + 1
    assert quiet < QUIET
    # a leader may act on until the end of its lease
    missed = seconds - TTL - 1
    assert counts["skip"].keys() == {FireOutcome.FIRED, FireOutcome.MISSED}
    assert counts["skip"][FireOutcome.MISSED] >= missed
    assert counts["run_once"].keys() == {FireOutcome.FIRED, FireOutcome.COALESCED}
    assert counts["run_once"][FireOutcome.COALESCED] >= missed - 1
    assert counts["run_all"].keys() == {FireOutcome.FIRED}
    assert len([entry for entry in ledgers["run_all"] if entry.late.total_seconds() > 1]) >= missed
