"""A node whose clock is wrong, on a store that has none of its own: it runs what is due, and decides nothing."""

from pathlib import Path

import pytest

from support.fault_jobs import noted
from support.fires import fired_until, settled
from support.journal import read_journal
from support.leaders import SECOND
from support.peers import everything, peers

OFF = 30.0
DELAY = 4.0


@pytest.mark.parametrize("ahead", [OFF, -OFF], ids=["ahead", "behind"])
async def test_a_node_with_a_wrong_clock_starts_nothing_early_and_never_leads(
    etcd_url: str, namespace: str, tmp_path: Path, ahead: float
) -> None:
    journal = tmp_path / "journal"
    async with peers(etcd_url, namespace, tmp_path) as group:
        client = group.client
        right = [group.start(workers=0) for _ in range(2)]
        # all work is for the one that is wrong, so nothing but its own restraint holds it back
        wrong = group.start(name="wrong", workers=20, ahead=ahead)
        await wrong.line(rf"clock is \d\d\.\d s {'ahead of' if ahead > 0 else 'behind'} the others'")
        delayed = await client.schedule_many(
            noted.with_options(after=DELAY + number / 20).call(str(journal), 0.0) for number in range(40)
        )
        await client.add_schedule(noted.with_options(name="s", every=1, overlap="allow"), str(journal), 0.0)
        leader, known = await group.leading()
        assert leader in right
        await fired_until(client, "s", client.clock.time_us() + SECOND, timeout=10)
        leader.kill()
        successor, _ = await group.leading(after=known.term.number)
        assert successor in right
        await fired_until(client, "s", client.clock.time_us() + 3 * SECOND, timeout=10)

        (entries,) = (await settled(client)).values()
        runs = read_journal(journal)
        ended = await everything(client)
        assert wrong.running

    assert {entry.node for entry in entries} <= {"node-1", "node-2"}
    assert {one.id for one in ended} == runs.keys()
    assert {one.id for one in delayed} <= runs.keys()
    assert {one.node for one in ended} == {"wrong"}
    for one in ended:
        (run,) = runs[one.id]
        early_us = one.record.due_us - run.begin_us
        assert early_us <= 0, f"{one!r} began {early_us} µs early"
    late = max(runs[one.id][0].begin_us - one.record.due_us for one in delayed) / SECOND
    print(f"delayed work began at most {late:.2f} s late")
    assert late < 5
