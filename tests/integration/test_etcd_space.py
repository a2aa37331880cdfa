"""An etcd that runs out of space: new work is refused in time, accepted work ends, and nothing is lost."""

import asyncio
import base64
import contextlib
import logging
import urllib.error

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreFullError, StoreUnavailableError
from peerjob.model.query import Filter, Query
from peerjob.model.record import StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.kv.format.base import Delete, Put, Transaction
from support.division import in_matrix
from support.etcd import EtcdServer, StartEtcd
from support.etcd_site import EtcdSite
from support.waiting import PATIENCE, until

QUOTA = 32 << 20


async def fill(store: Store, site: EtcdSite) -> list[str]:
    """Add instances of 50 kB until the store refuses; returns the accepted ones."""
    accepted: list[str] = []
    while True:
        batch = site.make.instances(4, spec=b"x" * 50_000)
        try:
            await store.enqueue(batch)
        except StoreFullError:
            assert await store.get([new.id for new in batch]) == [None] * 4
            return accepted
        accepted += [new.id for new in batch]
        await asyncio.sleep(0.02)  # 10 MB/s; the store looks every quarter of a second


def use_up(server: EtcdServer) -> None:
    """Write as another client until etcd raises the alarm."""
    value = base64.b64encode(b"y" * 400_000).decode()
    with contextlib.suppress(urllib.error.HTTPError):
        for number in range(200):
            server.call("kv/put", key=_text(f"other/{number}"), value=value)
    assert [alarm["alarm"] for alarm in server.alarms] == ["NOSPACE"]


def make_room(server: EtcdServer) -> None:
    """Remove the keys of `use_up`, then compact, defragment and clear the alarm."""
    server.call("kv/deleterange", key=_text("other/"), range_end=_text("other0"))
    server.make_room()


def _text(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


async def added(store: Store, site: EtcdSite) -> None:
    """Add one more instance as soon as the store takes it."""

    async def taken() -> bool:
        with contextlib.suppress(StoreFullError):
            await store.enqueue(site.make.instances(1))
            return True
        return False

    await until(taken)


def db_size(server: EtcdServer) -> int:
    return int(server.call("maintenance/status")["dbSize"])


async def test_from_four_fifths_on_new_work_is_refused_and_the_old_finished(
    start_etcd: StartEtcd, etcd_site: EtcdSite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="peerjob.store")
    server = start_etcd(quota=QUOTA)
    store = await etcd_site.open(f"{server.url}?quota={QUOTA}", retry_for=0)
    peer = await etcd_site.join(store)
    accepted = await fill(store, etcd_site)
    assert 0.75 * QUOTA < db_size(server) < 0.95 * QUOTA
    assert caplog.text.count("takes no new instances") == 1

    done = 0
    while claims := await peer.take(50):
        for claim in claims:
            await peer.report(claim, started=True, progress=b"p", logs=(etcd_site.make.line("half way"),))
            await peer.end(claim, result=b"r" * 100)
        assert not (await peer.renew()).dead
        done += len(claims)
    assert done == len(accepted)
    assert (await store.health()).counts["work"] == {State.COMPLETED: done}
    assert server.alarms == []

    with pytest.raises(StoreFullError):
        await store.enqueue(etcd_site.make.instances(1))
    while await store.clear_instances(Filter()):
        pass
    server.make_room()
    await added(store, etcd_site)
    await peer.take_one()
    assert "takes new instances again" in caplog.text


async def test_no_space_ends_nothing_and_passes(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd(quota=QUOTA)
    store = await etcd_site.open(f"{server.url}?quota={QUOTA}")
    peer = await etcd_site.join(store)
    batch = etcd_site.make.instances(60)
    await store.enqueue(batch)
    held = await peer.take(20)
    use_up(server)

    more = await fill(store, etcd_site)
    for claim in held:
        await peer.end(claim)
    assert not (await peer.renew()).dead
    assert not (await peer.renew(*await peer.take(10))).dead
    assert (await store.cancel([batch[-1].id], request=etcd_site.make.request())) == [State.SCHEDULED]

    # calls that need a new lease wait, as in an outage
    other = asyncio.create_task(etcd_site.join(store))
    await asyncio.sleep(0.5)
    assert not other.done()
    make_room(server)
    async with asyncio.timeout(PATIENCE):
        await other
    await added(store, etcd_site)
    counts = (await store.health()).counts["work"]
    assert counts[State.COMPLETED] == 20
    assert counts[State.PROCESSING] == 10
    assert counts[State.CANCELLED] == 1
    assert sum(counts.values()) == 60 + len(more) + 1


@pytest.mark.parametrize(
    "kept", [True, in_matrix(False, "the old lease stays in make test")], ids=["with the old lease", "without a lease"]
)
async def test_work_is_finished_however_long_there_is_no_space(
    start_etcd: StartEtcd, etcd_site: EtcdSite, kept: bool
) -> None:
    """Answers of requests use a lease that is replaced every five minutes, which a full etcd does not grant."""
    server = start_etcd(quota=QUOTA)
    clock = LaterClock()
    store = open_store(
        f"{server.url}?quota={QUOTA}", namespace=etcd_site.namespace, clock=clock, limits=StoreLimits(), retry_for=0
    )
    etcd_site.cleanup.push_async_callback(store.close)
    await store.open()
    peer = await etcd_site.join(store)
    await store.enqueue(etcd_site.make.instances(60))
    held = await peer.take(20)
    use_up(server)
    for claim in held:
        clock.later += 300
        if not kept:
            await asyncio.to_thread(revoke_all, server, ttl=600)
        await peer.end(claim, result=b"r")
    assert len(await peer.take(10)) == 10
    (new, *_) = (await store.lookup(Query(state=State.SCHEDULED))).records
    assert await store.cancel([new.id], request=etcd_site.make.request()) == [State.SCHEDULED]
    assert await store.leave(peer.incarnation) == 10
    assert (await store.health()).counts["work"] == {State.COMPLETED: 20, State.CANCELLED: 1, State.SCHEDULED: 39}


class LaterClock(SystemClock):
    """The system's clock with an offset."""

    later = 0.0

    def time_us(self) -> int:
        return super().time_us() + round(self.later * 1_000_000)


def revoke_all(server: EtcdServer, *, ttl: int) -> None:
    """End the leases that were granted for this many seconds."""
    for lease in server.call("lease/leases").get("leases", ()):
        if server.call("lease/timetolive", ID=lease["ID"])["grantedTTL"] == str(ttl):
            server.call("lease/revoke", ID=lease["ID"])


async def test_a_driver_says_why_it_was_refused(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd(quota=QUOTA)
    kv = await etcd_site.driver(f"{server.url}?quota={QUOTA}")
    lease = await kv.grant(60_000_000)
    await kv.txn([Transaction([], [Put("key", b"")])])
    assert not kv.full
    use_up(server)
    with pytest.raises(StoreUnavailableError, match="out of space"):
        await kv.grant(1_000_000)
    assert kv.full
    assert (await kv.txn([Transaction([], [Delete("key")])])).answers == [()]
    assert await kv.get(["key"]) == [None]
    assert await kv.keepalive(lease)


async def test_a_full_store_is_seen_when_it_is_opened(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd(quota=QUOTA)
    use_up(server)
    kv = await etcd_site.driver(server.url)
    assert kv.full


async def test_a_server_with_space_and_an_alarm_is_full(
    start_etcd: StartEtcd, etcd_site: EtcdSite, caplog: pytest.LogCaptureFixture
) -> None:
    """Space was made, and the alarm was not cleared: etcd still refuses writes."""
    server = start_etcd(quota=QUOTA)
    member = server.call("maintenance/status")["header"]["member_id"]
    server.call("maintenance/alarm", action="ACTIVATE", memberID=member, alarm="NOSPACE")
    kv = await etcd_site.driver(f"{server.url}?quota={QUOTA}")
    assert kv.full
    assert "and has raised NOSPACE" in caplog.text
    server.make_room()
    await until(lambda: not kv.full)
    assert "takes new instances again" in caplog.text
