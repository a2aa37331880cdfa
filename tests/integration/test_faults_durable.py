"""Durable bodies whose nodes are killed: they go on where they were."""

from collections import Counter
from pathlib import Path

import pytest

from peerjob import State
from peerjob.model.clock import to_us
from support.division import in_matrix
from support.durable_jobs import APPROVAL, HELD, STEPS, order, stepped
from support.peers import TTL, check_histories, peers
from support.waiting import PATIENCE, until

JOBS = "support.durable_jobs"


@pytest.mark.parametrize("store_url", ["redis", "sqlite", in_matrix("valkey"), "etcd"], indirect=True)
async def test_a_killed_body_goes_on_at_the_step_where_it_was(store_url: str, namespace: str, tmp_path: Path) -> None:
    journal, opened = tmp_path / "journal", tmp_path / "opened"

    def calls() -> list[tuple[int, int]]:
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [(int(step), int(pid)) for step, pid in map(str.split, lines)]

    async def held() -> bool:
        return bool(calls()) and calls()[-1][0] == HELD

    async with peers(store_url, namespace, tmp_path) as group:
        victim = group.start(name="victim", jobs=JOBS)
        instance = await group.client.schedule(stepped, str(journal), str(opened))
        await until(held)
        survivor = group.start(name="survivor", jobs=JOBS)
        killed_us = group.client.clock.time_us()
        victim.kill()
        opened.touch()

        assert await instance.result(PATIENCE) == [number * number for number in range(1, STEPS + 1)]
        check_histories([instance])
        assert instance.crashes == 0, "a step that is kept is progress"
        assert instance.attempts == 1
        times = Counter(step for step, _ in calls())
        assert times == {number: 2 if number == HELD else 1 for number in range(1, STEPS + 1)}
        assert {pid for step, pid in calls() if step < HELD} == {victim.pid}
        assert [step for step, pid in calls() if pid == survivor.pid] == list(range(HELD, STEPS + 1))
        claimed = instance.processed_at
        assert claimed is not None
        assert group.recovery(killed_us, to_us(claimed)) <= TTL + 1.0


@pytest.mark.parametrize("store_url", ["redis", "sqlite", in_matrix("valkey"), "etcd"], indirect=True)
async def test_an_approval_holds_no_worker_and_survives_each_node(
    store_url: str, namespace: str, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with peers(store_url, namespace, tmp_path) as group:
        first = group.start(name="first", jobs=JOBS, workers=1)
        instance = await group.client.schedule(order, str(journal), 5)

        async def suspended() -> bool:
            return (await instance.refresh()).waits_for is not None

        await until(suspended)
        assert instance.state is State.SCHEDULED
        other = await group.client.schedule(order, str(journal), 0)
        assert await group.client.signal(other, APPROVAL, False)
        assert await other.result(PATIENCE) == [], "the only worker is free"
        first.kill()
        assert await group.client.signal(instance, APPROVAL, True)
        second = group.start(name="second", jobs=JOBS, workers=2)

        assert await instance.result(PATIENCE) == [0, 1, 2, 3, 4]
        check_histories([instance])
        assert (instance.attempts, instance.crashes, instance.losses) == (1, 0, 0)
        runs = journal.read_text().split()
        assert runs.count(str(second.pid)) == 2, "after the approval, and after the packs"
        assert not await group.client.signal(instance, APPROVAL, False)
