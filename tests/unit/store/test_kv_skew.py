"""The clocks of nodes decide what is due. A node whose clock is off leaves that to others; idle nodes write nothing."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from peerjob.model.clock import Clock
from peerjob.model.record import NodeInfo, StoreLimits
from peerjob.model.state import State
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import ClockReport, encode
from peerjob.store.kv.store import KVStore
from peerjob.store.kv.write.clock_skew import ALL_PEERS, PeerClocks
from peerjob.store.memory.data import MemoryData, MemoryWatch
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer
from support.records import logged


class Shifted(VirtualClock):
    """A clock that is off by some seconds, on the time of another."""

    def __init__(self, true: VirtualClock, off: float) -> None:
        super().__init__()
        self._true = true
        self.off = off

    def time_us(self) -> int:
        return self._true.time_us() + round(self.off * 1_000_000)

    def elapsed(self) -> float:
        return self._true.elapsed()


class LateWatch(MemoryWatch):
    """A watch that reports its first messages too late."""

    def __init__(self, data: MemoryData, prefixes: tuple[str, ...], times: int) -> None:
        super().__init__(data, prefixes)
        self._times = times

    async def changed(self, timeout: float) -> dict[str, bytes] | None:
        logged = await super().changed(timeout)
        if self._times:
            self._times -= 1
            await asyncio.sleep(2.5)
        return logged


class LateKeyValue(MemoryKeyValue):
    """The driver of a node that the OS pauses just as the node begins to listen."""

    times = 1
    """Number of late messages."""

    def watch(self, *prefixes: str, ends: Sequence[str] = ()) -> LateWatch:
        return LateWatch(self._data, prefixes, self.times)

    def separate(self) -> "LateKeyValue":
        return self


class Bench:
    """Nodes with different clocks on one server."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.data = MemoryData()
        self.make = Factory(clock)
        self.peers: list[Peer] = []
        self.clocks: list[Shifted] = []

    async def join(self, *offs: float) -> list[Peer]:
        for off in offs:
            clock = Shifted(self.clock, off)
            peer = Peer(store=self.store(clock), info=self.node(len(self.peers)), make=self.make)
            self.clocks.append(clock)
            self.peers.append(await peer.join())
            await self.renew()
        return self.peers

    async def make_silent(self, number: int) -> None:
        """Add a node that never renews its lease."""
        silent = Peer(store=self.store(self.clock), info=self.node(100 + number), make=self.make)
        await silent.join()

    def store(self, clock: Clock) -> KVStore:
        kv = MemoryKeyValue(self.data, self.clock)
        return KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())

    def node(self, number: int) -> NodeInfo:
        return self.make.node(str(number))

    async def renew(self, rounds: int = 1) -> list[float]:
        """Let every node renew; the answer is by how many seconds each one judges itself to be ahead."""
        ahead: list[float] = []
        for _ in range(rounds):
            ahead = [(await peer.renew()).ahead_us / 1_000_000 for peer in self.peers]
            await self.clock.advance(1)
        return ahead


@pytest.fixture
async def bench(clock: VirtualClock) -> AsyncIterator[Bench]:
    bench = Bench(clock)
    yield bench
    for peer in bench.peers:
        await peer.close()
        await peer.store.close()


async def test_a_single_node_is_right(bench: Bench) -> None:
    await bench.join(30)
    assert await bench.renew(3) == [0]


@pytest.mark.parametrize("offs", [(0, 300), (300, 0), (0, -300)])
async def test_of_two_clocks_the_slower_one_counts_and_both_nodes_warn(
    bench: Bench, caplog: pytest.LogCaptureFixture, offs: tuple[float, float]
) -> None:
    nodes = await bench.join(*offs)
    ahead = [300.0 * (off == max(offs)) for off in offs]
    assert await bench.renew(5) == ahead
    assert ["300.0 s" in record.message for record in logged(caplog)] == [True, True]
    fast = ahead.index(300)
    await nodes[1 - fast].store.enqueue(bench.make.instances(1, delay_us=10_000_000))
    await bench.clock.advance(9)
    await bench.renew(1)
    assert (await nodes[fast].claim()).claims == ()
    await bench.clock.advance(1)
    assert len(await nodes[1 - fast].take()) == 1

    bench.clocks[fast].off = min(offs)
    assert await bench.renew(3) == [0, 0]
    assert len(logged(caplog)) == 2


async def test_the_slower_half_of_the_nodes_counts(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.join(0, 30, 0, 30)
    assert await bench.renew(6) == [0, 30, 0, 30]
    assert [record.levelno for record in logged(caplog)] == [logging.WARNING] * 4


async def test_a_node_that_joins_goes_by_no_clock_before_it_heard_its_peers(bench: Bench) -> None:
    await bench.join(0)
    clock = Shifted(bench.clock, 300)
    late = await Peer(store=bench.store(clock), info=bench.node(1), make=bench.make).join()
    bench.peers.append(late)
    bench.clocks.append(clock)
    await bench.peers[0].store.enqueue(bench.make.instances(1, delay_us=60_000_000))
    assert not (await late.renew()).clock_known
    assert (await late.claim()).claims == ()
    known: list[float] = []
    for _ in range(4):
        await bench.renew()
        reply = await late.renew()
        if reply.clock_known:
            known.append(reply.ahead_us / 1_000_000)
        assert (await late.claim()).claims == ()
    assert known
    assert set(known) == {300}


async def test_a_node_that_does_not_know_its_clock_yet_gets_no_due_time(bench: Bench) -> None:
    """Such a node moves nothing. With a due time in the past, it would claim a thousand times a second."""
    await bench.make_silent(1)
    (node,) = await bench.join(0)
    await node.store.enqueue(bench.make.instances(1, delay_us=1))
    await bench.clock.advance(1)
    assert not (await node.renew()).clock_known
    waiting = await node.claim()
    assert (waiting.claims, waiting.next_due_us) == ((), None)
    await bench.clock.advance(5.1)
    await node.renew()
    assert len(await node.take()) == 1


async def test_a_node_waits_no_longer_for_peers_that_tell_nothing(bench: Bench) -> None:
    await bench.make_silent(1)
    (node,) = await bench.join(0)
    assert not (await node.renew()).clock_known
    await bench.clock.advance(5.1)
    assert (await node.renew()).clock_known


async def test_many_nodes_compare_their_clocks_with_few_writes(bench: Bench) -> None:
    """Not every node answers a new node, and none writes in an idle cluster."""
    await bench.join(*[0] * 60)
    await bench.renew(4)
    revision = bench.data.revision
    await bench.join(0)
    await bench.renew(4)
    assert bench.data.revision - revision < 60
    revision = bench.data.revision
    assert set(await bench.renew(3)) == {0}
    assert bench.data.revision == revision


@pytest.mark.parametrize("order", [(0, 0, 30), (0, 30, 0), (30, 0, 0)])
async def test_the_node_whose_clock_is_off_knows(bench: Bench, order: tuple[float, ...]) -> None:
    await bench.join(*order)
    assert await bench.renew(4) == list(order)


async def test_the_median_decides(bench: Bench) -> None:
    await bench.join(0, 0.2, -0.3, -50, 40)
    assert await bench.renew(3) == [0, 0.2, -0.3, -50, 40]


async def test_a_clock_at_the_limit_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="peerjob")
    await bench.join(0, 0, 1.5)
    await bench.renew(4)
    for off in (0.95, 1.05) * 5:
        bench.clocks[2].off = off
        await bench.renew(2)
    assert [record.levelno for record in logged(caplog, logging.INFO)] == [logging.WARNING]
    bench.clocks[2].off = 0.1
    await bench.renew(4)
    assert [record.levelno for record in logged(caplog, logging.INFO)] == [logging.WARNING, logging.INFO]


async def test_a_node_that_left_does_not_count(bench: Bench) -> None:
    await bench.join(0, 0, 30)
    await bench.renew(2)
    for peer in bench.peers[:2]:
        await peer.store.leave(peer.incarnation)
        await peer.close()
    del bench.peers[:2]
    await bench.join(30)
    assert await bench.renew(3) == [0, 0]


async def test_idle_nodes_write_nothing(bench: Bench) -> None:
    await bench.join(0, 0.2, 0.1)
    await bench.renew(6)
    revision = bench.data.revision
    assert await bench.renew(20) == [-0.1, 0.1, 0]
    assert bench.data.revision == revision


async def test_a_node_that_is_off_asks_again_from_time_to_time(bench: Bench) -> None:
    await bench.join(0, 0, 30)
    await bench.renew(6)
    revision = bench.data.revision
    assert await bench.renew(20) == [0, 0, 30]
    assert 4 <= bench.data.revision - revision <= 20


async def test_a_node_that_heard_late_each_time_learns_better(bench: Bench) -> None:
    await bench.join(0, 0)
    await bench.renew(3)
    kv = LateKeyValue(bench.data, bench.clock)
    kv.times = 4
    late = KVStore(kv, url="memory://", namespace="n", clock=bench.clock, limits=StoreLimits())
    bench.peers.append(await Peer(store=late, info=bench.node(2), make=bench.make).join())
    believed = [(await bench.renew())[-1] for _ in range(30)]
    assert max(believed) > 1, "so the test can fail"
    assert believed[-3:] == [0, 0, 0]


async def test_a_clock_that_is_put_right_counts_at_once(bench: Bench) -> None:
    await bench.join(0, 0, 30)
    assert await bench.renew(4) == [0, 0, 30]
    bench.clocks[2].off = 0
    assert await bench.renew() == [0, 0, 0]
    bench.clocks[0].off = -7
    assert await bench.renew(3) == [-7, 0, 0]  # the node asks its peers, and receives their answers


@pytest.mark.parametrize("step", [-0.8, 0.8, 30])
@pytest.mark.parametrize("renewals", range(1, 10))
async def test_clocks_that_are_set_and_set_back_count_as_they_are(
    bench: Bench, clock: VirtualClock, step: float, renewals: int
) -> None:
    """Clocks are set back after any number of renewals. Each node gets each renewal before the next one."""
    await bench.join(0, 0, 0)
    await bench.renew(6)
    for off, count in ((step, renewals), (0, 24)):
        for shifted in bench.clocks[1:]:
            shifted.off = off
        for number in range(count):
            await bench.peers[number % 3].renew()
            await clock.advance(0.3)
    assert await bench.renew() == pytest.approx([0, 0, 0], abs=0.01)


async def test_a_clock_that_was_heard_too_late_is_heard_again_before_it_counts(bench: Bench) -> None:
    await bench.join(0, 0)
    await bench.renew(3)
    kv = LateKeyValue(bench.data, bench.clock)
    late = KVStore(kv, url="memory://", namespace="n", clock=bench.clock, limits=StoreLimits())
    bench.peers.append(await Peer(store=late, info=bench.node(2), make=bench.make).join())
    believed = [(await bench.renew())[-1] for _ in range(12)]
    assert believed == [0] * 12


async def test_nothing_shows_as_claimed_before_it_was_due(bench: Bench) -> None:
    right, behind = await bench.join(0, -0.4)
    await right.store.enqueue(bench.make.instances(1, delay_us=1_000_000))
    await bench.clock.advance(1.1)
    assert (await right.claim(right.want(kinds={"other": 1}))).claims == ()  # which lets it in
    claim = await behind.take_one()
    (record,) = await behind.store.get([claim.id])
    assert record is not None
    assert claim.at_us == record.history[-1].at_us == record.due_us


@pytest.mark.parametrize("ahead", [30, -30])
async def test_a_node_whose_clock_is_off_moves_what_no_other_node_moves_in_time(bench: Bench, ahead: float) -> None:
    right, _, off = await bench.join(0, 0, ahead)
    await bench.renew(4)
    await right.store.enqueue(bench.make.instances(1, delay_us=10_000_000))
    bench.clocks[2].off = -ahead  # a step of the clock moves nothing, also before it is reported
    assert (await off.claim()).claims == ()
    await bench.clock.advance(11.9)
    assert (await off.claim()).claims == ()
    await bench.clock.advance(0.2)
    assert len(await off.take()) == 1


async def test_a_node_whose_clock_is_off_leaves_due_instances_to_others_and_logs_that_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    right, _, off = await bench.join(0, 0, 30)
    with caplog.at_level(logging.WARNING, logger="peerjob.store"):
        await bench.renew(5)
    (record,) = logged(caplog)
    assert "30.0 s ahead" in record.message

    await right.store.enqueue(bench.make.instances(1, delay_us=10_000_000))
    claimed = await off.claim()
    assert (claimed.claims, claimed.next_due_us) == ((), None)
    assert (await right.claim()).claims == ()
    await bench.clock.advance(11)
    assert (await off.claim()).claims == ()
    assert len(await right.take()) == 1

    await right.store.enqueue(bench.make.instances(1, delay_us=10_000_000))
    bench.clocks[2].off = 0
    await bench.renew()
    await bench.clock.advance(11)
    assert len(await off.take()) == 1
    assert (await off.store.health()).counts == {"work": {State.PROCESSING: 2}}


async def test_nodes_that_renew_for_the_first_time_at_once_hear_each_other(bench: Bench) -> None:
    """No task of the loop runs between their first renewals, as if the threads of all leases began together."""
    peers = [Peer(store=bench.store(bench.clock), info=bench.node(number), make=bench.make) for number in range(3)]
    bench.peers += peers
    for peer in peers:
        await peer.join()
    for peer in peers:
        await peer.renew()
    await bench.renew(2)
    await peers[0].store.enqueue(bench.make.instances(1, delay_us=10_000))
    await bench.clock.advance(0.02)
    assert len(await peers[0].take()) == 1


async def test_a_clock_that_was_set_and_set_back_at_once_is_asked_for_again(clock: VirtualClock) -> None:
    """The second last message is then the larger one, and counts until a third message came."""
    kv, keys = MemoryKeyValue(MemoryData(), clock), Keys("n")
    clocks = PeerClocks(kv, keys, clock)
    clocks.report_as("own")
    clocks.start()
    await clock.settle()
    asked: list[tuple[str, ...]] = []
    for off_us in (0, 30_000_000, 0, 0):
        _, on_written = clocks.report()
        on_written()
        value = encode(ClockReport(clock.time_us() + off_us, ()))
        await kv.txn([Transaction([], [Put(f"{keys.clocks}peer", value)])])
        await clock.settle()
        asked.append(clocks.report()[0].asks)
    await clocks.stop()
    assert asked == [(), ("peer",), ("peer",), ()]


class Wakes:
    """The comparison of one node's clock, what peers tell it, and how often it asked for an early renewal."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._kv, self._keys = MemoryKeyValue(MemoryData(), clock), Keys("n")
        self.clocks = PeerClocks(self._kv, self._keys, clock)
        self.number = 0

    def _wake(self) -> None:
        self.number += 1

    async def start(self) -> None:
        self.clocks.report_as("own")
        self.clocks.start(self._wake)
        await self.tell("peer")

    async def tell(self, peer: str, asks: tuple[str, ...] = (), off_us: int = 0) -> None:
        """Receive a message of a peer, which is alive."""
        report = encode(ClockReport(self._clock.time_us() + off_us, asks))
        ops = [Put(f"{self._keys.live}{peer}", b""), Put(f"{self._keys.clocks}{peer}", report)]
        await self._kv.txn([Transaction([], ops)])
        await self._clock.advance(0.1)

    async def renew(self) -> bool:
        """Report, and compare; the answer is whether the node knows the clocks of its peers."""
        self.clocks.report()[1]()
        judgement = await self.clocks.judge()
        self.number = 0
        return judgement.known


async def test_nodes_that_start_one_after_the_other_cause_few_early_renewals(clock: VirtualClock) -> None:
    """Each of them asks all peers, and each answer goes to all nodes."""
    wakes = Wakes(clock)
    await wakes.start()
    for number in range(100):
        await wakes.tell(f"old-{number}")
    await clock.advance(10)
    assert await wakes.renew()
    for number in range(30):
        await wakes.tell(f"new-{number}", ALL_PEERS)
    assert 1 <= wakes.number <= 3
    assert wakes.clocks.must_report
    for _ in range(30):
        await wakes.tell("new", ("own",))
    assert wakes.number <= 9
    await clock.advance(10)
    await wakes.renew()
    await wakes.tell("new", ("own",))
    assert wakes.number == 1
    await wakes.clocks.stop()


@pytest.mark.parametrize("asks", [ALL_PEERS, ("own",)], ids=["all", "one"])
async def test_in_a_small_cluster_a_node_answers_each_question_at_once(
    clock: VirtualClock, asks: tuple[str, ...]
) -> None:
    """In a rolling restart, each node that starts asks several times until it may lead."""
    wakes = Wakes(clock)
    await wakes.start()
    for number in range(3):
        await wakes.tell(f"old-{number}")
    await clock.advance(10)
    assert await wakes.renew()
    for number in range(10):
        await wakes.tell("new", asks)
        await clock.advance(0.1)
        assert wakes.number == number + 1
    await wakes.clocks.stop()


async def test_nodes_with_different_clocks_that_start_together_cause_few_early_renewals(bench: Bench) -> None:
    """Half of the peers disagree with a node by more than one message may, so it asks them again."""
    nodes, seconds, interval = 50, 4.0, 1.0
    renewals, known = 0, set[int]()

    async def run(number: int) -> None:
        nonlocal renewals
        clock = Shifted(bench.clock, number / nodes)
        clock.random.seed(number)
        await asyncio.sleep(clock.random.uniform(0, 0.5))
        store, info = bench.store(clock), bench.node(number)
        await store.open()
        await store.join(info, ttl_us=5_000_000)
        liveness, woken = store.liveness(), asyncio.Event()
        await liveness.open(woken.set)
        while bench.clock.elapsed() < seconds:
            woken.clear()
            renewed = await liveness.renew(info.incarnation, ttl_us=5_000_000, running=0, count=0, fences_digest=0)
            renewals += 1
            if renewed.clock_known:
                known.add(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), interval)
        await liveness.close()
        await store.close()

    await bench.clock.run(asyncio.gather(*map(run, range(nodes))))
    assert known == set(range(nodes))
    assert renewals <= nodes * (seconds / interval + 4)


async def test_a_node_that_waits_for_a_silent_peer_does_not_renew_after_each_message_of_others(
    clock: VirtualClock,
) -> None:
    wakes = Wakes(clock)
    await wakes.start()
    await wakes.tell("silent", off_us=30_000_000)
    assert wakes.number == 2
    assert not await wakes.renew()
    for _ in range(10):
        await wakes.tell("peer")
    assert wakes.number == 0
    await wakes.tell("silent", off_us=30_000_000)
    assert wakes.number == 1
    assert await wakes.renew()
    await wakes.clocks.stop()
