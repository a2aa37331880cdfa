"""An etcd that loses members, pauses, restarts and is compacted, without effect on the nodes."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from peerjob import Job, JobFailed, Node, PayloadTooLargeError, Query, State
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Ack
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.testing.factories import outcome
from support.etcd import EtcdServer, StartEtcd, StartEtcdCluster
from support.etcd_site import EtcdSite
from support.fault_jobs import gated, work
from support.lab.proxy import FaultProxy
from support.peers import TTL, Peers, check_histories, everything, peers
from support.stalls import Stalls, now_us
from support.waiting import IN_TIME, PATIENCE, until

# -- nodes on three members


async def progress(group: Peers, final: int) -> None:
    """Wait until so many instances are final."""

    async def reached() -> bool:
        return await group.client.count(Query(state=State.FINAL)) >= final

    await until(reached)


async def check_all_completed(group: Peers, ids: set[str], *, once: bool = True) -> None:
    ended = await everything(group.client)
    assert {one.id for one in ended} == ids
    assert {one.state for one in ended} == {State.COMPLETED}
    if once:
        assert {(one.attempts, one.crashes, one.losses) for one in ended} == {(1, 0, 0)}
    check_histories(ended)
    assert all(node.running for node in group.children)


@pytest.mark.parametrize(
    "whom", ["the leader", pytest.param("a follower", marks=pytest.mark.matrix("disturbs less than the leader"))]
)
async def test_a_killed_member_disturbs_no_node(
    start_etcd_cluster: StartEtcdCluster, namespace: str, tmp_path: Path, whom: str
) -> None:
    cluster = start_etcd_cluster()
    leader = cluster.leader
    victim = leader if whom == "the leader" else next(one for one in cluster.members if one is not leader)
    async with peers(cluster.url, namespace, tmp_path) as group:
        for number in range(3):
            group.start(name=f"node-{number}", workers=5)
        scheduled = await group.client.schedule_many(work.call(number, 0.02) for number in range(500))
        await progress(group, 50)
        victim.kill()
        # a call to schedule meanwhile raises no error
        late = [await group.client.schedule(work, number, 0.02) for number in range(500, 550)]
        await group.client.wait(timeout=PATIENCE)
        await check_all_completed(group, {one.id for one in (*scheduled, *late)})

        # the first member returns before the second fails, so that a majority remains
        victim.start()
        others = [one for one in cluster.members if one is not victim]
        others[0].kill()
        again = await group.client.schedule_many(work.call(number, 0.0) for number in range(100))
        await group.client.wait(timeout=PATIENCE)
        await check_all_completed(group, {one.id for one in (*scheduled, *late, *again)})


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
async def test_a_leader_that_stands_still_is_left_for_another(
    start_etcd_cluster: StartEtcdCluster, namespace: str, tmp_path: Path
) -> None:
    cluster = start_etcd_cluster()
    async with peers(cluster.url, namespace, tmp_path) as group:
        for number in range(3):
            group.start(name=f"node-{number}", workers=5)
        scheduled = await group.client.schedule_many(work.call(number, 0.02) for number in range(800))
        await progress(group, 50)
        paused = cluster.leader
        paused.pause()
        started = time.monotonic()
        late = [await group.client.schedule(work, number, 0.0) for number in range(800, 820)]
        print(f"scheduled again {time.monotonic() - started:.1f} s after the leader stood still")
        await group.client.wait(timeout=PATIENCE)
        await check_all_completed(group, {one.id for one in (*scheduled, *late)})
        paused.resume()


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
async def test_without_a_majority_everybody_waits(
    start_etcd_cluster: StartEtcdCluster, namespace: str, tmp_path: Path
) -> None:
    cluster = start_etcd_cluster()
    async with peers(cluster.url, namespace, tmp_path) as group:
        for number in range(2):
            group.start(name=f"node-{number}", workers=5)
        scheduled = await group.client.schedule_many(work.call(number, 0.02) for number in range(300))
        await progress(group, 30)
        for member in cluster.members[:2]:
            member.kill()
        late = asyncio.create_task(group.client.schedule(work, 300, 0.0))
        await asyncio.sleep(TTL + 2)  # the outage itself, longer than the leases
        assert not late.done()
        for member in cluster.members[:2]:
            member.launch(member.port)
        await group.client.wait(timeout=PATIENCE)
        await check_all_completed(group, {(await late).id, *(one.id for one in scheduled)}, once=False)


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
async def test_a_node_that_is_killed_is_noticed_by_the_others(
    start_etcd_cluster: StartEtcdCluster, namespace: str, tmp_path: Path
) -> None:
    cluster = start_etcd_cluster()
    async with peers(cluster.url, namespace, tmp_path) as group:
        victim, opened = group.start(name="victim", workers=50), tmp_path / "opened"
        await group.client.schedule_many(gated.call(str(opened)) for _ in range(50))
        await group.running(50, on="victim", begun=True)
        group.start(name="survivor", workers=50)
        killed_us = group.client.clock.time_us()
        victim.kill()
        opened.touch()
        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)
        assert {(one.state, one.node, one.crashes) for one in ended} == {(State.COMPLETED, "survivor", 1)}
        claimed_us = [entry.at_us for one in ended for entry in one.record.history if entry.state == State.PROCESSING]
        assert group.recovery(killed_us, max(claimed_us)) <= TTL + 1
        check_histories(ended)


# -- compaction


async def test_compaction_at_any_time_breaks_nothing(start_etcd: StartEtcd, namespace: str, tmp_path: Path) -> None:
    server = start_etcd()
    async with peers(server.url, namespace, tmp_path) as group:
        for number in range(2):
            group.start(name=f"node-{number}", workers=5)
        scheduled = await group.client.schedule_many(work.call(number, 0.005) for number in range(600))

        async def compact() -> int:
            times = 0
            while True:
                await asyncio.to_thread(server.compact)
                times += 1
                await asyncio.sleep(0.01)

        compacting = asyncio.create_task(compact())
        await progress(group, 100)
        late = [await group.client.schedule(work, number, 0.0) for number in range(20)]
        await late[-1].wait(timeout=PATIENCE)
        await group.client.wait(timeout=PATIENCE)
        assert not compacting.done()
        compacting.cancel()
        await check_all_completed(group, {one.id for one in (*scheduled, *late)})


# -- quiet


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
async def test_idle_nodes_write_nothing(start_etcd: StartEtcd, namespace: str) -> None:
    server = start_etcd()
    async with AsyncExitStack() as nodes:
        for number in range(3):
            await nodes.enter_async_context(
                Node(server.url, namespace=namespace, name=f"node-{number}", jobs=[Job("nothing", print)])
            )
        await _settled(server)
        before = server.revision
        await asyncio.sleep(5)  # the test expects that nothing happens
        assert server.revision == before


async def test_an_idle_node_that_claims_again_writes_nothing_and_is_woken(
    start_etcd: StartEtcd, etcd_site: EtcdSite
) -> None:
    server = start_etcd()
    store = await etcd_site.open(server.url)
    peer = await etcd_site.join(store)
    assert not await peer.take()
    before = server.revision
    for _ in range(3):
        assert not await peer.take()
    assert server.revision == before
    for _ in range(2):
        await store.enqueue(etcd_site.make.instances(1))
        assert [hint.what for hint in await store.next_hints(peer.incarnation, PATIENCE)] == ["work"]
        await peer.end(await peer.take_one())
        assert not await peer.take()
        assert not await peer.take()


async def _settled(server: EtcdServer) -> None:
    """Wait until nothing was written for a period in which each node renewed its lease more than once."""

    async def still() -> bool:
        before = server.revision
        await asyncio.sleep(3)
        return server.revision == before

    await until(still)


# -- size


async def test_what_no_request_can_hold_is_refused_before_it_is_sent(etcd_url: str, namespace: str) -> None:
    async def back(size: int, given: str) -> str:
        return given * size

    job = Job("back", back, max_retries=0)
    async with Node(etcd_url, namespace=namespace, jobs=[job], max_payload=8 << 20) as node:
        with pytest.raises(PayloadTooLargeError, match="1,048,576"):
            await node.schedule(job, 1, "x" * 1_100_000)
        assert len(await (await node.schedule(job, 1, "x" * 1_000_000)).result(timeout=PATIENCE)) == 1_000_000
        too_large = await node.schedule(job, 1_100_000, "x")
        with pytest.raises(JobFailed, match="1,048,576"):
            await too_large.result(timeout=PATIENCE)
        assert await (await node.schedule(job, 1, "y")).result(timeout=PATIENCE) == "y"


async def test_log_lines_make_room_for_the_result_they_come_with(etcd_url: str, etcd_site: EtcdSite) -> None:
    store = await etcd_site.open(etcd_url)
    peer = await etcd_site.join(store)
    (new,) = etcd_site.make.instances(1)
    await store.enqueue([new])
    claim = await peer.take_one()
    await peer.report(claim, logs=(etcd_site.make.line("early"),))
    lines = tuple(etcd_site.make.line(f"{number} " + "l" * 9_000) for number in range(100))
    assert await peer.end(claim, result=b"r" * (1 << 20), logs=lines) is Ack.DONE
    page = await store.logs(new.id)
    assert page.lines == lines[-len(page.lines) :]
    assert 25 <= len(page.lines) < 30
    assert page.dropped == 101 - len(page.lines)


# -- calls, one by one


async def test_calls_wait_for_an_etcd_that_restarts(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd()
    store = await etcd_site.open(server.url)
    peer = await etcd_site.join(store)
    batch = etcd_site.make.instances(30)
    await store.enqueue(batch)
    held = await peer.take(10)
    hints = asyncio.create_task(store.next_hints(peer.incarnation, PATIENCE))
    await asyncio.sleep(0)

    server.stop()
    taken = asyncio.create_task(peer.take(5))
    added = asyncio.create_task(store.enqueue(etcd_site.make.instances(3)))
    acks = asyncio.create_task(peer.commit(*map(outcome, held)))
    cancelled = asyncio.create_task(store.cancel([batch[-1].id], request=etcd_site.make.request()))
    await asyncio.sleep(0.3)  # no call is answered meanwhile
    assert not any(call.done() for call in (taken, added, acks, cancelled))
    with pytest.raises(StoreUnavailableError):  # the reaper must check its own lease again
        await store.reap(10, reaper=peer.incarnation)
    server.start()
    assert [len(await taken), len(await added), len(await acks), len(await cancelled)] == [5, 3, 10, 1]

    await store.watch_changes(peer.incarnation, 60)
    await store.enqueue(etcd_site.make.instances(1))
    assert (await hints)[0].what == "change"
    while claims := await peer.take():
        await peer.commit(*map(outcome, claims))
    assert (await store.health()).counts["work"] == {State.PROCESSING: 5, State.COMPLETED: 28, State.CANCELLED: 1}


async def test_an_etcd_that_stays_away_is_reported(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd()
    store = await etcd_site.open(server.url, retry_for=0.3)
    peer = await etcd_site.join(store)
    await peer.renew()
    server.kill()
    with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{server.port}"):
        await peer.take()
    with pytest.raises(StoreUnavailableError):
        await store.next_hints(peer.incarnation, 0.1)
    with pytest.raises(StoreUnavailableError):
        await peer.renew()


async def test_opening_fails_in_time(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd()
    server.kill()
    async with asyncio.timeout(IN_TIME):
        with pytest.raises(StoreUnavailableError) as refused:
            await etcd_site.open(server.url.replace("//", "//user:secret@"))
    assert "secret" not in str(refused.value)

    server.start()
    server.pause()
    async with asyncio.timeout(IN_TIME):
        with pytest.raises(StoreUnavailableError):
            await etcd_site.open(server.url)
    server.resume()


async def test_a_lease_that_cannot_be_renewed_says_so_in_time(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd()
    store = await etcd_site.open(server.url)
    peer = await etcd_site.join(store, ttl_us=15_000_000)
    await peer.renew(ttl_us=15_000_000)
    server.pause()
    with Stalls() as stalls:
        began_us = now_us()
        with pytest.raises(StoreUnavailableError):
            await peer.renew(ttl_us=15_000_000)
        assert stalls.took(began_us) < 15, "the lease ended before"
    server.resume()
    assert not (await peer.renew(ttl_us=15_000_000)).dead


async def test_a_paused_member_does_not_keep_a_store_from_opening(
    start_etcd_cluster: StartEtcdCluster, etcd_site: EtcdSite
) -> None:
    cluster = start_etcd_cluster()
    leader = cluster.leader
    next(one for one in cluster.members if one is not leader).pause()
    async with asyncio.timeout(IN_TIME):
        drivers = await asyncio.gather(*(etcd_site.driver(cluster.url) for _ in range(8)))
    assert {kv.identity for kv in drivers} == {drivers[0].identity}


async def test_members_that_are_gone_are_passed_over(start_etcd_cluster: StartEtcdCluster, etcd_site: EtcdSite) -> None:
    """For any first member: a refused connection has done nothing, so the next member gets the call."""
    cluster = start_etcd_cluster()
    drivers = [await etcd_site.driver(cluster.url) for _ in range(6)]
    watches = [kv.watch("in/") for kv in drivers]
    leader = cluster.leader
    next(one for one in cluster.members if one is not leader).kill()
    for number, kv in enumerate(drivers):
        try:
            await kv.txn([Transaction([], [Put(f"in/{number}", b"")])])
        except StoreUnavailableError:
            # the connection broke during the request: the outcome is unknown, and the retry goes to another member
            await kv.txn([Transaction([], [Put(f"in/{number}", b"")])])
    late = [await etcd_site.driver(cluster.url) for _ in range(6)]
    assert all([await kv.get(["in/0"]) for kv in late])
    await late[0].txn([Transaction([], [Put("in/last", b"")])])
    for watch in watches:
        reported: set[str] = set()
        while "in/last" not in reported:
            keys = await watch.changed(PATIENCE)
            assert keys != {}
            # missed puts are read again
            reported.update(["in/last"] if keys is None else keys)
        watch.close()


async def test_a_lease_that_another_client_revokes_blocks_nothing(start_etcd: StartEtcd, namespace: str) -> None:
    server = start_etcd()
    async with Node(server.url, jobs=[work], namespace=namespace, lease_ttl=5.0) as node:
        await (await node.schedule(work, 1, 0.0)).result(timeout=PATIENCE)
        for lease in server.call("lease/leases").get("leases", []):
            server.call("lease/revoke", ID=lease["ID"])
        with Stalls() as stalls:
            started_us = now_us()
            await (await node.schedule(work, 2, 0.0)).result(timeout=PATIENCE)
            assert stalls.took(started_us) < 10
        assert node.running


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
async def test_an_etcd_that_is_slow_for_good_stops_no_node(
    start_etcd: StartEtcd, namespace: str, tmp_path: Path
) -> None:
    """A renewal has several requests. If each takes 0.2 s, a fifth of a lease of 3 s is too short for all of them."""
    etcd = start_etcd()
    async with FaultProxy(etcd.port) as proxy, peers(etcd.url, namespace, tmp_path) as near:
        group = Peers(f"etcd://127.0.0.1:{proxy.port}", namespace, tmp_path, near.client)
        with proxy.delayed(0.1):
            nodes = [group.launch(name=f"slow-{number}", ttl=3.0, workers=5) for number in range(2)]
            try:
                scheduled = await near.client.schedule_many(work.call(number, 0.0) for number in range(20))
                await near.client.wait(timeout=PATIENCE)
            finally:
                for node in nodes:
                    node.close()
        assert {one.id for one in await everything(near.client)} == {one.id for one in scheduled}
