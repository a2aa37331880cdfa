"""Nodes that are killed and paused at any moment, one after another, while work goes on."""

import random
import time
from pathlib import Path

import pytest

from peerjob import Instance, Query, State
from support.fault_jobs import noted
from support.journal import check_one_owner, read_journal
from support.peers import check_histories, everything, peers
from support.waiting import PATIENCE, until

pytestmark = pytest.mark.matrix("a long fault; shorter ones have the same promises")


@pytest.mark.parametrize("store_url", ["valkey", "etcd"], indirect=True)
async def test_nodes_killed_and_paused_at_any_moment_lose_and_double_nothing(
    store_url: str, namespace: str, tmp_path: Path
) -> None:
    journal, chance = tmp_path / "journal", random.Random(7)
    async with peers(store_url, namespace, tmp_path) as group:
        nodes = [group.start(workers=8) for _ in range(3)]
        scheduled: list[Instance[int]] = []
        ended_us: dict[int, int] = {}
        for turn in range(4):
            # all that takes its time comes before the work, which is then sure to be under way at the fault
            successor = group.start(workers=8)
            before = await group.client.count(Query(state=State.FINAL))
            scheduled += await group.client.schedule_many(
                noted.call(str(journal), chance.choice([0.0, 0.005, 0.03, 0.2])) for _ in range(1000)
            )

            async def some_progress(wanted: int = before + 300) -> bool:
                return await group.client.count(Query(state=State.FINAL)) >= wanted

            await until(some_progress)
            victim = nodes.pop(chance.randrange(len(nodes)))
            nodes.append(successor)
            if turn % 2 == 0:
                victim.kill()
                ended_us[victim.pid] = time.time_ns() // 1000
                continue
            victim.pause()
            ended_us[victim.pid] = time.time_ns() // 1000

            async def taken_for_dead(pid: int = victim.pid) -> bool:
                return pid not in [view.info.pid for view in await group.client.nodes()]

            await until(taken_for_dead)
            victim.resume()
            nodes.append(victim)

        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)
        runs = read_journal(journal)

        assert {one.id for one in ended} == {one.id for one in scheduled}
        assert {one.state for one in ended} == {State.COMPLETED}
        check_histories(ended)
        check_one_owner(runs, lambda run: ended_us.get(run.pid), group.stood_still)
        for one in ended:
            # the accepted outcome is that of the latest claim, whose body did run to its end
            assert await one.result() == one.fence == runs[one.id][-1].fence
            assert one.attempts == 1
        again = sum(len(each) - 1 for each in runs.values())
        print(f"{len(ended)} instances, {again} run again after {len(ended_us)} faults")
        assert 0 < again < 200
