"""A coordinator that was wiped or restored counts its terms from an earlier point: schedules go on all the same."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from peerjob import Store, StoreLimits
from peerjob.model.clock import SystemClock
from peerjob.model.firing import Fire, FireOutcome, FireStatus, ScheduleRow, Term
from peerjob.store.drivers import open_elections, open_store
from support.etcd import SHORT_LEASES, EtcdServer, StartEtcd
from support.leaders import SECOND, ElectionNode, definition, put
from support.servers import MissingServerError
from support.waiting import until

AHEAD = 10_000_000
MANY = 40


@pytest.fixture(params=["redis", "etcd"])
def jobs_url(request: pytest.FixtureRequest) -> str:
    """A store with a coordinator apart from it."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def etcd(start_etcd: StartEtcd) -> EtcdServer:
    """The coordinator."""
    return start_etcd(config=SHORT_LEASES)


class Here:
    """A leader with a schedule that fires ten times a second."""

    def __init__(self, store: Store, leader: ElectionNode) -> None:
        self.store = store
        self.leader = leader

    async def row(self) -> ScheduleRow:
        (row,) = await self.store.get_schedules(["tick"])
        assert row is not None
        return row

    async def fires(self) -> None:
        """Wait until it fires from now on."""
        now_us = self.leader.clock.time_us()

        async def fired() -> bool:
            return (await self.row()).last_us > now_us

        await until(fired)

    async def term(self) -> Term:
        """The term of the latest fire."""
        page = await self.store.fires("tick", limit=1)
        return Term(page.records[0].coordinator, page.records[0].term)

    async def another(self, term: Term) -> Term:
        """The term that it fires in next; at first the leader may still act in the one before."""

        async def changed() -> bool:
            return await self.term() != term

        await until(changed)
        await self.fires()
        return await self.term()


@asynccontextmanager
async def leading(url: str, namespace: str, etcd: EtcdServer) -> AsyncGenerator[Here]:
    clock = SystemClock()
    async with AsyncExitStack() as cleanup:
        store = open_store(url, namespace=namespace, clock=clock, limits=StoreLimits())
        cleanup.push_async_callback(store.close)
        elections = open_elections(etcd.url, namespace=namespace, clock=clock)
        leader = await ElectionNode(clock, store, "leader", ttl=2.0, elections=elections).start()
        cleanup.push_async_callback(leader.stop)
        every = definition(every_us=SECOND // 10)
        await put(store, "tick", every, now_us=clock.time_us())
        here = Here(store, leader)
        await here.fires()
        yield here


def use(etcd: EtcdServer, count: int) -> None:
    """Let another application write to this etcd."""
    for _ in range(count):
        etcd.call("kv/put", key="YQ==", value="YQ==")


def cluster_id(etcd: EtcdServer) -> str:
    found: str = etcd.call("maintenance/status")["header"]["cluster_id"]
    return found


async def test_schedules_go_on_after_the_coordinator_was_wiped(
    jobs_url: str, namespace: str, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(use, etcd, MANY)
    async with leading(jobs_url, namespace, etcd) as here:
        before, known = await here.term(), cluster_id(etcd)
        await asyncio.to_thread(etcd.kill)
        etcd.wipe()
        await asyncio.to_thread(etcd.start)
        assert cluster_id(etcd) == known
        after = await here.another(before)
    assert after.number < before.number
    assert after.coordinator != before.coordinator
    assert not [one for one in caplog.records if "later term" in one.getMessage()]


@pytest.mark.parametrize("bump", [(), ("--bump-revision", "1000000000", "--mark-compacted")], ids=["as is", "bumped"])
async def test_schedules_go_on_after_the_coordinator_was_restored(
    jobs_url: str,
    namespace: str,
    etcd: EtcdServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bump: tuple[str, ...],
) -> None:
    async with leading(jobs_url, namespace, etcd) as here:
        backup, first = tmp_path / "backup.db", await here.term()
        await asyncio.to_thread(etcd.snapshot, backup)
        await asyncio.to_thread(use, etcd, MANY)
        # a later term, which the backup knows nothing of
        await here.leader.election.stop()
        here.leader.election.start()
        before = await here.another(first)
        assert before.number >= first.number + MANY
        await asyncio.to_thread(etcd.kill)
        try:
            await asyncio.to_thread(etcd.restore, backup, *bump)
        except MissingServerError as error:
            pytest.skip(str(error))
        await asyncio.to_thread(etcd.start)
        after = await here.another(before)
    warnings = [one for one in caplog.records if "later term" in one.getMessage()]
    # the backup has the leader of its moment, in a term of the past
    assert [one.levelno for one in warnings] == [logging.WARNING]
    assert after.coordinator != before.coordinator
    assert (after.number > before.number) == bool(bump)


@pytest.mark.parametrize("way", ["term", "restarted"])
async def test_schedules_go_on_when_the_store_has_seen_a_term_far_ahead(
    jobs_url: str,
    namespace: str,
    etcd: EtcdServer,
    caplog: pytest.LogCaptureFixture,
    way: Literal["term", "restarted"],
) -> None:
    async with leading(jobs_url, namespace, etcd) as here:
        before = await here.term()
        ahead = msgspec.structs.replace(before, number=before.number + AHEAD)
        if way == "restarted":
            await here.leader.election.stop()
        other = await put(here.store, "other", definition(), now_us=here.leader.clock.time_us() + 3600 * SECOND)
        assert other.next_us is not None
        skipped = Fire(
            schedule="other",
            revision=other.revision,
            nominal_us=other.next_us,
            outcome=FireOutcome.SKIPPED,
            request=here.leader.info.incarnation,
        )
        (answer,) = await here.store.fire([skipped], term=ahead)
        assert answer.status is FireStatus.DONE
        if way == "restarted":
            here.leader.election.start()
        after = await here.another(before)
    assert after.coordinator != before.coordinator
    warnings = [one for one in caplog.records if "later term" in one.getMessage()]
    assert [one.levelno for one in warnings] == [logging.WARNING]
