"""A claim that was partly refused, and whose answer was lost: its repeat and the renewals find each instance."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Action, Claim, Claimed, Outcome, StoreLimits
from peerjob.model.stored_limit import KindLimits, LimitNumbers, SharedLimit
from peerjob.store.kv.format.base import Applied, Compare, Found, Put, Range, Transaction
from peerjob.store.kv.format.keys import Keys, below
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome

ROOM = 5
"""How many claims the limit allows."""


class Overtaken(MemoryKeyValue):
    """The memory driver. Another node claims before it writes a claim, and then answers are lost."""

    before: Callable[[], Awaitable[object]] | None = None
    lost = ""
    """The write whose answer is lost: of the claims, or of the answers that follow a refusal."""
    applies = True
    """Whether the server applies this write."""

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        ops = () if also is None else also.ops
        if not any(isinstance(op, Put) and "/claim" in op.key for op in ops):
            return await super().txn(transactions, also, guards)
        if self.before is not None:
            before, self.before = self.before, None
            await before()
        is_lost = self.lost == ("claims" if transactions else "answers")
        if not is_lost:
            return await super().txn(transactions, also, guards)
        self.lost = ""
        if self.applies:
            applied = await super().txn(transactions, also, guards)
            assert not transactions or applied.also is None, "a transaction was refused"
        raise StoreUnavailableError("memory://", "the answer was lost")


class Scene:
    """A node whose first claim is partly refused, and another node, on a kind with a shared limit."""

    def __init__(self, clock: VirtualClock) -> None:
        self.make, self.keys, data = Factory(clock), Keys("n"), MemoryData()
        self.kv, plain = Overtaken(data, clock), MemoryKeyValue(data, clock)
        self.read = plain.read
        self.stores = [
            KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits(), retry_for=0)
            for kv in (self.kv, plain)
        ]
        self.peer, self.other = (Peer(store=store, info=self.make.node(), make=self.make) for store in self.stores)

    async def begin(self) -> None:
        for peer in (self.peer, self.other):
            await peer.join()
        shared = SharedLimit(name="shared", numbers=LimitNumbers(concurrency=ROOM))
        await self.peer.store.publish_limits([KindLimits(kind="work", shared=(shared,))])
        await self.other.store.enqueue(self.make.instances(8))

    async def count(self, wanted: Range) -> int:
        found: Sequence[Found] = await self.read([wanted])
        return found[0].count

    async def owned(self, peer: Peer) -> int:
        return await self.count(below(self.keys.owned(peer.incarnation)))

    async def permits(self) -> int:
        return await self.count(below(self.keys.permits("shared")))

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


@pytest.mark.parametrize("applies", [False, True], ids=["lost request", "lost answer"])
@pytest.mark.parametrize("lost", ["claims", "answers"])
async def test_what_a_partly_refused_claim_has_taken_is_found(clock: VirtualClock, lost: str, applies: bool) -> None:
    scene = Scene(clock)
    await scene.begin()
    peer, other, taken = scene.peer, scene.other, list[Claim]()

    async def overtake() -> None:
        taken.extend(await other.take(2))

    scene.kv.before, scene.kv.lost, scene.kv.applies = overtake, lost, applies
    request = scene.make.request()
    with pytest.raises(StoreUnavailableError):
        await peer.claim(peer.want(4), request=request)
    first = await scene.owned(peer)
    assert (0 < first < 4) == (lost == "answers" or applies)

    repeated = (await peer.claim(peer.want(4), request=request)).claims
    assert (await peer.claim(peer.want(4), request=request)).claims == repeated
    assert await scene.permits() == await scene.owned(peer) + len(taken) <= ROOM

    # the second renewal that finds a difference tells what the store has, and the node hands back what it does not know
    await peer.renew(*repeated)
    held = (await peer.renew(*repeated)).held
    known = {(claim.id, claim.fence) for claim in repeated}
    lost_claims = [] if held is None else [claim for claim in held if (claim.id, claim.fence) not in known]
    assert len(lost_claims) + len(repeated) == await scene.owned(peer)
    back = [Outcome(id=claim.id, fence=claim.fence, action=Action.HAND_BACK) for claim in lost_claims]
    await peer.commit(*back)

    ended = [*repeated, *taken]
    await peer.commit(*(outcome(claim) for claim in repeated))
    await other.commit(*(outcome(claim) for claim in taken))
    assert await scene.permits() == 0
    while claims := await other.take(3):
        ended += claims
        await other.commit(*(outcome(claim) for claim in claims))
    assert len({claim.id for claim in ended}) == len(ended) == 8
    assert await scene.permits() == await scene.owned(peer) == await scene.owned(other) == 0
    await peer.close()
    await scene.close()


async def test_of_two_runs_of_a_refused_claim_one_takes_instances(clock: VirtualClock) -> None:
    """The second run has written its answers when the first one is refused."""
    scene = Scene(clock)
    await scene.begin()
    peer, second, request = scene.peer, scene.stores[1], scene.make.request()
    answers: list[Claimed] = []

    async def overtake() -> None:
        answers.append(await second.claim(peer.incarnation, peer.want(2), request=request))

    scene.kv.before = overtake
    claimed = await peer.claim(peer.want(2), request=request)
    assert len(claimed.claims) == 2
    assert claimed.claims == answers[0].claims
    assert await scene.owned(peer) == await scene.permits() == 2
    await scene.close()
