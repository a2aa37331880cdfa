"""Limits over processes on real servers, with kills: what runs at a time is counted in the bodies."""

import asyncio
import time
from datetime import datetime
from pathlib import Path

import pytest

from peerjob import JobFailed, State
from support.division import in_matrix
from support.limited_jobs import (
    FEW,
    JOURNAL,
    RATED,
    closes,
    few,
    few_too,
    hundred,
    keyed,
    rated,
    read_journal,
)
from support.peers import READY, Peers, peers
from support.processes import ChildProcess
from support.stalls import Stalls, now_us
from support.waiting import until

JOBS = "support.limited_jobs"
KEYS = ("a", "b", "c")
NEEDED = 0.2
"""Seconds from a claim to its body."""
BEFORE_US = 3_000_000
"""Time before a body in which a stall can have delayed it after its claim."""


@pytest.mark.parametrize("store_url", ["redis", in_matrix("etcd"), in_matrix("sqlite")], indirect=True)
async def test_no_limit_is_exceeded_while_nodes_are_killed(store_url: str, namespace: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    killed: dict[int, float] = {}
    async with peers(store_url, namespace, tmp_path) as group:
        nodes = [_launch(group, journal) for _ in range(3)]
        for node in nodes:
            node.wait_for(READY)
        made = await group.client.schedule_many(
            [
                *(kind.call(0.3) for _ in range(30) for kind in (few, few_too)),
                *(keyed.call(key, 0.1) for _ in range(20) for key in KEYS),
                *(rated.call() for _ in range(150)),
            ]
        )
        for victim in nodes[:2]:
            await group.running(2)
            victim.kill()
            killed[victim.pid] = time.monotonic()
            _launch(group, journal)
        await group.client.wait(timeout=90)
        ended = [await one.refresh() for one in made]
        await until(lambda: _unused(group))
        noted = read_journal(journal, killed)
        _check_rate(sorted(noted.starts["rated"]), group.stalls)

    assert {one.state for one in ended} == {State.COMPLETED}
    assert noted.most["few"] == FEW.concurrency
    assert [noted.most[key] for key in KEYS] == [1] * len(KEYS)


async def _unused(group: Peers) -> bool:
    """Whether nothing counts for a limit.

    On etcd and SQLite, a killed node can leave counters wrong. After its end, a read of the statistics corrects them.
    """
    await group.client.stats()
    return all([view.running == view.waiting == 0 async for view in group.client.limits()])


@pytest.mark.matrix("it takes a minute")
@pytest.mark.parametrize("store_url", ["redis", "valkey"], indirect=True)
async def test_a_rate_is_used_up_while_a_node_is_killed(store_url: str, namespace: str, tmp_path: Path) -> None:
    """100/s for a minute: neither more starts than the rate allows, nor many less.

    A claim on etcd needs several requests, so a busy machine costs starts there.
    """
    journal = tmp_path / "journal"
    async with peers(store_url, namespace, tmp_path) as group:
        await group.client.schedule_many(hundred.call() for _ in range(7_000))
        nodes = [_launch(group, journal) for _ in range(3)]
        for node in nodes:
            node.wait_for(READY)
        began_us = now_us()
        await asyncio.sleep(20)
        nodes[0].kill()
        await asyncio.sleep(50)
        for node in nodes[1:]:
            node.kill()
        ended_us = now_us()
        noted = read_journal(journal, {node.pid: time.monotonic() for node in nodes})
        lost = 100 * group.stalls.between(began_us, ended_us)  # beyond its burst, a limit saves no starts
    starts = sorted(noted.starts["hundred"])
    assert starts[-1] - starts[0] > 60
    assert 5_850 - lost <= sum(at < starts[0] + 60 for at in starts) <= 6_020


def _launch(group: Peers, journal: Path) -> ChildProcess:
    return group.launch(jobs=JOBS, ttl=2.0, workers=5, env={JOURNAL: str(journal)})


def _check_rate(starts: list[float], stalls: Stalls) -> None:
    """A claim comes before its body, so bodies can be closer together than claims: by the time that a node needs."""
    assert RATED.burst is not None
    offset = now_us() / 1_000_000 - time.monotonic()
    for first, begin in enumerate(starts):
        begin_us = round((begin + offset) * 1_000_000)
        slack = NEEDED + stalls.between(begin_us - BEFORE_US, begin_us)
        for last in range(first, len(starts)):
            assert last - first + 1 <= RATED.burst + (starts[last] - begin + slack) * 50 + 1


@pytest.mark.parametrize("store_url", ["redis", in_matrix("etcd"), in_matrix("sqlite")], indirect=True)
async def test_a_pause_of_a_kind_holds_on_all_nodes(store_url: str, namespace: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with peers(store_url, namespace, tmp_path) as group:
        for node in [_launch(group, journal) for _ in range(2)]:
            node.wait_for(READY)
        await (await group.client.schedule(few, 0)).result(30)
        await group.client.pause_kind("few", "a test")
        paused = await group.client.schedule(few, 0)
        await (await group.client.schedule(few_too, 0)).result(30)
        await asyncio.sleep(1)
        assert (await paused.refresh()).state is State.SCHEDULED
        began_us = now_us()
        await group.client.resume_kind("few")
        await paused.result(30)
        assert group.stalls.took(began_us) < 5


@pytest.mark.parametrize("store_url", ["redis", in_matrix("etcd"), in_matrix("sqlite")], indirect=True)
async def test_a_throttle_outlives_nodes(store_url: str, namespace: str, tmp_path: Path) -> None:
    """The node that closed the limits is killed, and all others are replaced. One limit opens by itself meanwhile."""
    journal = tmp_path / "journal"
    async with peers(store_url, namespace, tmp_path) as group:
        first = _launch(group, journal)
        first.wait_for(READY)
        await (await group.client.schedule(closes, "few", "1h")).result(60)
        held = await group.client.schedule(few, 0)
        second = _launch(group, journal)
        second.wait_for(READY)
        await (await group.client.schedule(closes, "hundred", "1s")).result(60)
        first.kill()
        await (await group.client.schedule(hundred)).result(60)
        third = _launch(group, journal)
        third.wait_for(READY)
        second.terminate()
        opens_at = await _opens_at(group)
        for duration in ("0s", "1m"):
            await (await group.client.schedule(closes, "few", duration)).result(60)
        # a claim takes the best of all kinds, so each of these claims has passed over the held one
        await (await group.client.schedule(rated.with_options(priority=9))).result(60)
        assert (await held.refresh()).state is State.SCHEDULED
        assert await _opens_at(group) == opens_at is not None
        with pytest.raises(JobFailed, match="the name of a limit that a kind has, got 'none'"):
            await (await group.client.schedule(closes, "none", "1s")).result(60)


async def _opens_at(group: Peers) -> datetime | None:
    (opens_at,) = [view.opens_at async for view in group.client.limits() if view.name == "few"]
    return opens_at
