"""A turn commits and claims at the same time. If the commit adds to a queue, the claim must find the instance."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Ack, Action, Claim, Outcome, StoreLimits
from peerjob.store.kv.format.base import Applied, Compare, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome

COMMIT, CLAIM = "turn-commit", "turn-claim"


class Watched(MemoryKeyValue):
    """The memory driver, which reports when a turn's commit or claim is written, delays one or loses its answer."""

    held = lost = ""

    def __init__(self, data: MemoryData, clock: VirtualClock) -> None:
        super().__init__(data, clock)
        self.free = asyncio.Event()
        self.written: asyncio.Queue[str] = asyncio.Queue()

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        written = [op.key.split("/")[3] for op in (also.ops if also else ()) if "/turn-" in op.key]
        if self.held in written:
            await self.free.wait()
        applied = await super().txn(transactions, also, guards)
        for verb in written:
            self.written.put_nowait(verb)
        if self.lost in written:
            self.lost = ""
            raise StoreUnavailableError("memory://", "the answer was lost")
        return applied


class TurningNode:
    """A node that holds two of four instances, and calls `turn`."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.kv = Watched(MemoryData(), clock)
        self.store = self.another()
        self.make = Factory(clock)
        self.peer = Peer(store=self.store, info=self.make.node("node"), make=self.make)
        self.claims: tuple[Claim, ...] = ()
        self.left: list[str] = []

    def another(self) -> KVStore:
        """A store with empty caches."""
        return KVStore(self.kv, url="memory://", namespace="n", clock=self.clock, limits=StoreLimits(), retry_for=0)

    async def begin(self) -> None:
        await self.store.open()
        await self.peer.join()
        batch = self.make.instances(4)
        await self.store.enqueue(batch)
        self.claims = await self.peer.take(2)
        self.left = [new.id for new in batch[2:]]

    async def turn(self, *said: Outcome, store: KVStore | None = None) -> tuple[list[Ack], list[str]]:
        acks, claimed = await (store or self.store).turn(self.peer.incarnation, said, self.peer.want(), request="r")
        return acks, [claim.id for claim in claimed.claims]


@pytest.fixture
async def node(clock: VirtualClock) -> AsyncIterator[TurningNode]:
    node = TurningNode(clock)
    await node.begin()
    yield node
    await node.store.close()


@pytest.mark.parametrize(("held", "other"), [(COMMIT, CLAIM), (CLAIM, COMMIT)])
async def test_neither_the_commit_nor_the_claim_waits_for_the_other(node: TurningNode, held: str, other: str) -> None:
    node.kv.held = held
    turn = asyncio.create_task(node.turn(*map(outcome, node.claims)))
    assert await node.kv.written.get() == other
    node.kv.free.set()
    assert await turn == ([Ack.DONE] * 2, node.left)


async def test_an_instance_that_a_commit_adds_to_a_queue_can_be_claimed_in_the_same_turn(node: TurningNode) -> None:
    ended, again = node.claims
    acks, ids = await node.turn(outcome(ended), outcome(again, Action.RETRY))
    assert acks == [Ack.DONE] * 2
    assert set(ids) == {again.id, *node.left}


async def test_a_store_that_does_not_know_the_records_commits_first(node: TurningNode) -> None:
    await node.turn(*map(outcome, node.claims), store=node.another())
    assert [node.kv.written.get_nowait() for _ in range(2)] == [COMMIT, CLAIM]


@pytest.mark.parametrize("lost", [COMMIT, CLAIM])
async def test_a_repeated_turn_gets_the_same_answers_if_one_was_lost(node: TurningNode, lost: str) -> None:
    node.kv.lost = lost
    said = [*map(outcome, node.claims)]
    with pytest.raises(StoreUnavailableError):
        await node.turn(*said)
    assert sorted(node.kv.written.get_nowait() for _ in range(2)) == sorted([COMMIT, CLAIM])
    assert await node.turn(*said) == ([Ack.DONE] * 2, node.left)
