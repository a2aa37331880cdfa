"""A node that is paused past its lease, and comes back: its stale writes change nothing, and it works again."""

from pathlib import Path

import pytest

from peerjob import State
from support.division import in_matrix
from support.fault_jobs import stubborn, work
from support.peers import check_histories, everything, peers
from support.waiting import PATIENCE


@pytest.mark.parametrize("store_url", ["redis", in_matrix("etcd")], indirect=True)
async def test_stale_writes_of_a_paused_node_are_refused(store_url: str, namespace: str, tmp_path: Path) -> None:
    async with peers(store_url, namespace, tmp_path) as group:
        paused = group.start(name="paused", workers=2)
        instance = await group.client.schedule(stubborn, str(tmp_path / "go"))
        (running,) = await group.running(1, on="paused", begun=True)
        paused.pause()
        (tmp_path / "go").touch()
        taker = group.start(name="taker", workers=2)
        await instance.wait(timeout=PATIENCE)  # reaped, run again, and completed while the first run stands still
        before = instance.record
        lines = [line.message for line in await instance.logs()]

        paused.resume()
        await paused.line(r"joins under a new incarnation")

        # it works again under a new incarnation
        taker.terminate()
        assert await taker.exit() == 0
        again = await group.client.schedule(work, 1, 0.0)
        await again.wait(timeout=PATIENCE)
        assert again.node == "paused"
        await instance.refresh()
        assert instance.record == before
        running_pid = await instance.result()
        assert instance.fence > running.fence
        assert (instance.state, instance.node, instance.attempts) == (State.COMPLETED, "taker", 1)
        assert lines == [f"done in {running_pid}"]
        assert lines == [line.message for line in await instance.logs()]
        check_histories(await everything(group.client))
