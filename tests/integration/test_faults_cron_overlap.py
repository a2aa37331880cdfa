"""A schedule whose runs must not overlap, and a killed node that ran one: the slot passes on, and never two run."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from peerjob import FireOutcome, Node, Query, State
from support.fault_jobs import noted
from support.fires import outcomes, settled
from support.journal import Run, check_one_owner, end_of, read_journal
from support.peers import READY, TTL, everything, peers
from support.stalls import Span
from support.waiting import until

pytestmark = pytest.mark.matrix("a long fault; shorter ones have the same promises")

BODY = 0.5
HOLDERS = {"again": 3, "parked": 0}
"""Schedules, and how many crashes an instance of them survives."""


async def test_the_slot_of_a_killed_run_passes_on(
    request: pytest.FixtureRequest, namespace: str, tmp_path: Path
) -> None:
    """On each engine at the same time, since most of it is waiting for leases to end."""
    async with asyncio.TaskGroup() as running:
        for store in ("redis", "etcd"):
            (tmp_path / store).mkdir()
            url: str = request.getfixturevalue(f"{store}_url")
            running.create_task(pass_on(url, namespace, tmp_path / store), name=store)


async def pass_on(url: str, namespace: str, folder: Path) -> None:
    journal, gate = folder / "journal", folder / "opened"
    journal.write_text("")
    async with peers(url, namespace, folder) as group:
        client = group.client
        started = [group.launch() for _ in range(3)]
        for node in started:
            await node.line(READY)
        nodes = {node.pid: node for node in started}
        for name, crashes in HOLDERS.items():
            recurring = noted.with_options(name=name, every=1, overlap="queue", max_crashes=crashes)
            await client.add_schedule(recurring, str(journal), BODY, str(gate))
        await until(lambda: held_and_waited_for(client))
        held = {one.name: (str(one.running), *one.waiting) for one in await client.schedules()}
        runs = read_journal(journal)
        killed_us: dict[int, int] = {}
        for pid in {runs[ids[0]][-1].pid for ids in held.values()}:
            nodes.pop(pid).kill()
            killed_us[pid] = time.time_ns() // 1000
        gate.touch()

        async def went_on() -> bool:
            """Whether what was parked then has ended, and so has one more."""
            ended = {one.id async for one in client.iter_instances(Query(state=State.COMPLETED))}
            return all(held[name][1] in ended for name in held) and len(ended) >= 6

        await until(went_on)
        ledgers = await settled(client, ends={State.COMPLETED, State.TERMINATED})
        instances = {one.id: one for one in await everything(client)}
        assert all(node.running for node in nodes.values())

    runs = read_journal(journal)
    check_one_owner(runs, lambda run: killed_us.get(run.pid), group.stood_still)
    for name in HOLDERS:
        own = {id: each for id, each in runs.items() if instances[id].schedule == name}
        assert own.keys() == {id for id, one in instances.items() if one.schedule == name}
        check_one_at_a_time([run for each in own.values() for run in each], killed_us, group.stood_still)
        assert outcomes(ledgers[name]).keys() <= {FireOutcome.FIRED, FireOutcome.SKIPPED, FireOutcome.COALESCED}
    again, parked = (instances[held[name][0]] for name in HOLDERS)
    assert (again.state, again.crashes, len(runs[again.id])) == (State.COMPLETED, 1, 2)
    assert (parked.state, parked.crashes, len(runs[parked.id])) == (State.TERMINATED, 1, 1)
    # the one is taken back, and the slot of the other is freed, by the reaping
    for holder, id in ((again.id, again.id), (parked.id, held["parked"][1])):
        begun_us, ended_us = runs[id][-1].begin_us, killed_us[runs[holder][0].pid]
        assert group.recovery(ended_us, begun_us) <= TTL + 1


async def held_and_waited_for(client: Node) -> bool:
    """Whether a run of each schedule is known to have begun, and has one behind it."""
    running = [one.running for one in await client.schedules() if one.running and len(one.waiting) == 1]
    begun = [id for id in running if (await client.lookup_instance(id)).progress is not None]
    return len(begun) == len(HOLDERS)


def check_one_at_a_time(
    runs: list[Run], killed_us: Mapping[int, int], stood_still: Callable[[int], Iterable[Span]]
) -> None:
    """No two bodies of one schedule ran at the same time."""
    runs = sorted(runs, key=lambda run: run.begin_us)
    for before, after in itertools.pairwise(runs):
        end_us = end_of(before, stood_still(before.pid)) or killed_us[before.pid]
        assert end_us <= after.begin_us, (before, after)
