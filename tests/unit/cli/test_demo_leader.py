"""The demo tells of each leader, and measures the election after it killed one."""

import pytest

from peerjob import Leader, Term
from peerjob.cli.demo import processes
from peerjob.cli.demo.leader_watch import LeaderWatch
from peerjob.testing.clock import VirtualClock


def leader(name: str, term: int) -> Leader:
    return Leader(name=name, incarnation=name, term=Term(coordinator="etcd", number=term), since_us=0)


async def test_the_time_from_the_kill_to_the_next_leader_is_measured(clock: VirtualClock) -> None:
    told: list[str] = []
    watch = LeaderWatch(clock, told.append)
    watch.see(None)
    watch.see(leader("node-1", 3))
    watch.see(leader("node-1", 3))
    assert not watch.waiting
    watch.kill()
    await clock.advance(5)
    watch.see(leader("node-1", 3))
    assert watch.seconds is None
    watch.see(None)
    assert watch.waiting
    watch.see(leader("node-2", 4))
    assert not watch.waiting
    await clock.advance(5)
    watch.see(leader("node-3", 5))

    assert [watch.killed, watch.successor, watch.seconds, watch.name] == ["node-1", "node-2", 5.0, "node-3"]
    assert [one.split()[2] for one in told] == ["node-1", "node-2", "node-3"]


def test_without_an_etcd_or_its_client_the_store_elects(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.find_etcd() is not None
    with monkeypatch.context() as patch:
        patch.setattr(processes, "find_spec", lambda name: None if name == "etcd3aio" else object())
        assert processes.find_etcd() is None
    monkeypatch.setattr(processes, "find_spec", lambda name: object() if name == "etcd3aio" else None)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert processes.find_etcd() is None
