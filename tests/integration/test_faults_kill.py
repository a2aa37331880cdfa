"""A node that is killed: nothing is lost, nothing has two owners, and peers take over in time."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from peerjob import Instance, Query, State
from support.division import in_matrix
from support.fault_jobs import fatal, gated, held, noted, poison, work
from support.journal import check_one_owner, read_journal
from support.peers import TTL, check_histories, everything, peers
from support.waiting import PATIENCE, until

LONG = 100.0


def taken_back(instance: Instance[Any]) -> bool:
    return any(entry.state == State.SCHEDULED and "lost" in entry.note for entry in instance.record.history)


@pytest.mark.parametrize("store_url", ["redis", "etcd", in_matrix("sqlite")], indirect=True)
async def test_sigkill_in_the_middle_of_200_running_jobs(store_url: str, namespace: str, tmp_path: Path) -> None:
    async with peers(store_url, namespace, tmp_path) as group:
        victim = group.start(name="victim", workers=200)
        opened = tmp_path / "opened"
        scheduled = await group.client.schedule_many(gated.call(str(opened)) for _ in range(200))
        running = {one.id for one in await group.running(200, on="victim", begun=True)}
        group.start(name="survivor", workers=200)
        killed_us = group.client.clock.time_us()
        victim.kill()
        opened.touch()

        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)

        assert {one.id for one in ended} == {one.id for one in scheduled}
        assert all(one.state == State.COMPLETED for one in ended)
        check_histories(ended)
        moved = [one for one in ended if taken_back(one)]
        assert {one.id for one in moved} == running
        assert all((one.attempts, one.crashes, one.node) == (1, 1, "survivor") for one in moved)
        # the accepted result is that of the latest claim: the dead node's fence wrote nothing
        assert all(one.outcome()[0] == one.fence for one in ended)
        claimed_us = [entry.at_us for one in moved for entry in one.record.history if entry.state == State.PROCESSING]
        assert group.recovery(killed_us, max(claimed_us)) <= TTL + 1.0


@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_a_poison_job_is_parked_and_its_neighbours_complete(
    store_url: str, namespace: str, tmp_path: Path
) -> None:
    async with peers(store_url, namespace, tmp_path) as group:
        bad = await group.client.schedule(poison)
        neighbours = await group.client.schedule_many(work.call(number, 0.3) for number in range(20))
        for _ in range(7):  # two kills can count as losses, four count as crashes, and one node lives
            child = group.start(ttl=1.0)

            async def died_or_done(node: Any = child) -> bool:
                return not node.running or not await group.client.count(Query(state=State.ACTIVE))

            await until(died_or_done)
            if child.running:
                break

        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)
        check_histories(ended)
        assert (await bad.refresh()).state == State.TERMINATED
        assert bad.crashes == 4
        assert [(await one.refresh()).state for one in neighbours] == [State.COMPLETED] * 20
        # a node that stands still for a second loses its lease, and what it ran is charged
        lapses = sum("joins under a new incarnation" in line for child in group.children for line in child.lines)
        assert max(one.crashes for one in neighbours) <= 2 + lapses


@pytest.mark.parametrize("store_url", [in_matrix("valkey"), "etcd"], indirect=True)
async def test_sigterm_hands_back_at_once_and_counts_nothing(store_url: str, namespace: str, tmp_path: Path) -> None:
    async with peers(store_url, namespace, tmp_path) as group:
        leaver = group.start(name="leaver", workers=20)
        opened = tmp_path / "opened"
        await group.client.schedule_many(gated.call(str(opened)) for _ in range(20))
        await group.running(20, on="leaver")
        group.start(name="stayer", workers=20)
        assert await asyncio.to_thread(leaver.terminate) == 0

        moved = await group.running(20, on="stayer")
        opened.touch()
        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)

        assert len(moved) == 20
        check_histories(ended)
        assert all((one.state, one.attempts, one.crashes, one.losses) == (State.COMPLETED, 1, 0, 0) for one in ended)


@pytest.mark.matrix("a poison job that kills its process by a signal stays in make test")
@pytest.mark.parametrize("store_url", ["valkey"], indirect=True)
async def test_a_job_that_ends_its_process_from_a_thread_is_parked(
    store_url: str, namespace: str, tmp_path: Path
) -> None:
    async with peers(store_url, namespace, tmp_path) as group:
        bad = await group.client.schedule(fatal.with_options(max_crashes=1), 3)
        for _ in range(6):  # two kills can count as losses instead of crashes
            child = group.start(ttl=1.0)

            async def died_or_parked(node: Any = child) -> bool:
                return not node.running or (await bad.refresh()).state.is_final

            await until(died_or_parked)
            if child.running:
                break
            assert child.returncode == 3

        good = await group.client.schedule(work, 1, 0.0)
        assert (await good.result(timeout=PATIENCE))[0] == 1
        assert (await bad.refresh()).state is State.TERMINATED
        assert bad.crashes == 2
        assert bad.error is not None or any("poison" in entry.note for entry in bad.record.history)


@pytest.mark.parametrize("store_url", ["redis", in_matrix("etcd")], indirect=True)
async def test_two_nodes_of_one_name_do_not_confuse_each_other(store_url: str, namespace: str, tmp_path: Path) -> None:
    async with peers(store_url, namespace, tmp_path) as group:
        journal, gate = tmp_path / "journal", tmp_path / "opened"
        one, other = (group.start(name="same", workers=5) for _ in range(2))
        scheduled = await group.client.schedule_many(noted.call(str(journal), 0.0, str(gate)) for _ in range(20))
        await group.running(10, begun=True)
        views = [view.info for view in await group.client.nodes() if view.info.name == "same"]
        assert len({view.incarnation for view in views}) == 2
        assert {view.pid for view in views} == {one.pid, other.pid}
        killed_us = group.client.clock.time_us()
        one.kill()
        gate.touch()

        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)
        runs = read_journal(journal)
        assert {each.id for each in ended} == {each.id for each in scheduled}
        check_histories(ended)
        check_one_owner(runs, lambda run: killed_us if run.pid == one.pid else None, group.stood_still)
        moved = [each for each in ended if taken_back(each)]
        # the other's leases and claims were left alone
        assert {run.pid for each in moved for run in runs[each.id][:1]} <= {one.pid}
        assert len(moved) == 5
        assert other.running


@pytest.mark.matrix("the second signal and the grace of the runtime stay in make test")
@pytest.mark.parametrize("store_url", ["valkey", "etcd"], indirect=True)
async def test_sigterm_ends_a_node_whose_thread_ignores_it(store_url: str, namespace: str, tmp_path: Path) -> None:
    async with peers(store_url, namespace, tmp_path) as group:
        stuck = group.start(name="stuck", workers=2)
        instance = await group.client.schedule(held, str(tmp_path / "never"))
        await group.running(1, on="stuck")
        assert await asyncio.to_thread(stuck.terminate) == 0
        await instance.refresh()
        assert (instance.state, instance.attempts, instance.crashes) == (State.SCHEDULED, 0, 0)
        (tmp_path / "never").touch()
        taker = group.start(name="taker", workers=2)
        assert await instance.result(timeout=PATIENCE) == taker.pid


@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_a_second_signal_ends_the_grace(store_url: str, namespace: str, tmp_path: Path) -> None:
    async with peers(store_url, namespace, tmp_path) as group:
        node = group.start(name="patient", workers=2, grace=LONG)
        long = await group.client.schedule(work, 1, LONG)
        await group.running(1)
        node.signal(signal.SIGTERM)

        async def taken() -> bool:
            """Whether the node claims nothing more, which shows that it has taken the signal."""
            try:
                await (await group.client.schedule(work, 2, 0.0)).wait(timeout=2)
            except TimeoutError:
                return True
            return False

        await until(taken)
        node.signal(signal.SIGINT)
        # before the grace and the body end by themselves
        assert await node.exit(timeout=LONG / 2) == 0
        assert (await long.refresh()).state is State.SCHEDULED
