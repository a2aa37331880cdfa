"""Nodes whose clocks are wrong, on a store that has none of its own: they run what is due, and nothing early."""

from pathlib import Path

import pytest

from support.fault_jobs import noted
from support.fires import fired_until, settled
from support.journal import read_journal
from support.leaders import SECOND
from support.peers import everything, peers

pytestmark = pytest.mark.matrix("a long fault; shorter ones have the same promises")

OFF = {"ahead": 30.0, "behind": -30.0}
DELAY = 4.0


async def test_nodes_with_wrong_clocks_start_nothing_early_and_never_lead(
    etcd_url: str, namespace: str, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with peers(etcd_url, namespace, tmp_path) as group:
        client = group.client
        right = [group.start(workers=0) for _ in range(2)]
        # all work is for those that are wrong, so nothing but their own restraint holds it back
        wrong = {name: group.launch(name=name, workers=10, ahead=ahead) for name, ahead in OFF.items()}
        for name, node in wrong.items():
            await node.line(rf"clock is \d\d\.\d s {name}( of)? the others'")
        delayed = await client.schedule_many(
            noted.with_options(after=DELAY + number / 20).call(str(journal), 0.0) for number in range(40)
        )
        await client.add_schedule(noted.with_options(name="s", every=1, overlap="allow"), str(journal), 0.0)
        leader, known = await group.leading()
        assert leader in right
        await fired_until(client, "s", client.clock.time_us() + SECOND)
        leader.kill()
        successor, _ = await group.leading(after=known.term.number)
        assert successor in right
        await fired_until(client, "s", client.clock.time_us() + 3 * SECOND)

        (entries,) = (await settled(client)).values()
        runs = read_journal(journal)
        ended = await everything(client)
        assert all(node.running for node in wrong.values())

    assert {entry.node for entry in entries} <= {"node-1", "node-2"}
    assert {one.id for one in ended} == runs.keys()
    assert {one.id for one in delayed} <= runs.keys()
    assert {one.node for one in ended} <= wrong.keys()
    for one in ended:
        (run,) = runs[one.id]
        early_us = one.record.due_us - run.begin_us
        assert early_us <= 0, f"{one!r} began {early_us} µs early"
    for one in delayed:
        due_us, begun_us = one.record.due_us, runs[one.id][0].begin_us
        assert (begun_us - due_us) / SECOND - group.stalls.between(due_us, begun_us) < 5
