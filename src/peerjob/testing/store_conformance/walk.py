"""Random walks over all commands, compared with a small model after each step."""

from __future__ import annotations

import random  # noqa: TID251  # seeded, so that a failed walk can be repeated
from collections import Counter
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from peerjob.model.query import Filter, Query
from peerjob.model.record import FINAL_STATE, Ack, Action, Claim, Enqueued, NewInstance, Outcome
from peerjob.model.run_now import RunNow
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .suite import PLAIN_ACTIONS, StoreSuite, ids_of, states

KINDS = ("a", "b")
STEPS = 80


@dataclass
class Expected:
    """The expected record of one instance."""

    new: NewInstance
    due_us: int
    history: list[State] = field(default_factory=lambda: [State.CREATED, State.SCHEDULED])
    attempts: int = 0
    fence: int = 0
    holder: str = ""
    """Incarnation that runs the instance, or that has not released the cancelled instance yet."""
    ended_by: str = ""
    """Incarnation that committed the latest outcome."""

    @property
    def state(self) -> State:
        return self.history[-1]

    @property
    def position(self) -> tuple[int, int, str]:
        return self.new.priority, self.due_us, self.new.id

    @property
    def has_key(self) -> bool:
        return self.new.key is not None and (not self.state.is_final or bool(self.holder))


@dataclass
class Walk:
    """One random walk: peers, their claims, and the expected data of the store."""

    suite: StoreSuite
    store: Store
    chance: random.Random
    now_us: int
    peers: list[Peer] = field(default_factory=list[Peer])
    model: dict[str, Expected] = field(default_factory=dict[str, Expected])
    stale: list[tuple[Peer, Outcome]] = field(default_factory=list[tuple[Peer, Outcome]])

    async def step(self) -> None:
        verbs = {
            self.enqueue: 5,
            self.claim: 6,
            self.commit: 7,
            self.cancel: 2,
            self.run_now: 2,
            self.release: 2,
            self.say_stale_things: 1,
            self.restart: 1,
            self.look: 1,
            self.clear: 0.3,
        }
        (verb,) = self.chance.choices(list(verbs), list(verbs.values()))
        await verb()

    def holding(self, peer: Peer, state: State) -> list[Expected]:
        return [
            expected
            for expected in self.model.values()
            if expected.holder == peer.incarnation and expected.state == state
        ]

    def said(self, expected: Expected, action: Action) -> Outcome:
        return Outcome(id=expected.new.id, fence=expected.fence, action=action)

    async def join(self) -> None:
        self.peers.append(await self.suite.join(self.store, f"peer {len(self.peers)}", KINDS))

    # -- commands of the walk

    async def enqueue(self) -> None:
        batch = [
            self.suite.make.instance(
                kind=self.chance.choice(KINDS),
                priority=self.chance.choice((-1, 5, 5, 5, 9)),
                due_us=self.now_us + self.chance.choice((0, -1, -1, -(10**9), 10**12)),
                key=self.chance.choice((None, None, None, "k", "l")),
            )
            for _ in range(self.chance.randint(1, 4))
        ]
        wanted: list[Enqueued] = []
        for new in batch:
            holders = [
                expected.new.id
                for expected in self.model.values()
                if expected.has_key and (expected.new.kind, expected.new.key) == (new.kind, new.key)
            ]
            if not holders:
                self.model[new.id] = Expected(new, new.due_us or 0)
            wanted.append(Enqueued((holders or [new.id])[0], not holders))
        assert await self.store.enqueue(batch) == wanted
        assert await self.store.enqueue(batch) == [replace(answer, repeated=answer.is_new) for answer in wanted]

    async def claim(self) -> None:
        peer = self.chance.choice(self.peers)
        limit = self.chance.randint(1, 4)
        caps = {kind: self.chance.randint(0, 3) for kind in KINDS if self.chance.random() < 0.9}
        left, wanted = Counter(caps), list[str]()
        for expected in self.due():
            if left[expected.new.kind] > 0 and len(wanted) < limit:
                left[expected.new.kind] -= 1
                wanted.append(expected.new.id)

        want, request = peer.want(limit, caps), self.suite.make.request()
        claims = (await peer.claim(want, request=request)).claims
        if self.store.capabilities.order == "strict":
            assert ids_of(claims) == wanted
        else:
            assert len(claims) == len(wanted)
            assert ids_of(claims) == [
                expected.new.id for expected in self.due() if expected.new.id in set(ids_of(claims))
            ]
            assert Counter(claim.kind for claim in claims) <= Counter(caps)
        if claims and self.chance.random() < 0.3:
            assert (await peer.claim(want, request=request)).claims == claims
        for claim in claims:
            self.claimed(peer, claim)

    def due(self) -> list[Expected]:
        """The claimable instances, in order."""
        due = (
            expected for expected in self.model.values() if expected.state == State.SCHEDULED and self.is_due(expected)
        )
        return sorted(due, key=lambda expected: expected.position)

    def is_due(self, expected: Expected) -> bool:
        """Whether an instance is not one of those that the walk makes for a far future."""
        return expected.due_us < self.now_us + 10**11

    def claimed(self, peer: Peer, claim: Claim) -> None:
        expected = self.model[claim.id]
        expected.attempts += 1
        assert claim.attempts == expected.attempts
        assert claim.fence > expected.fence
        assert claim.due_us == expected.due_us
        expected.fence, expected.holder = claim.fence, peer.incarnation
        expected.history.append(State.PROCESSING)

    async def commit(self) -> None:
        peer = self.chance.choice(self.peers)
        running = self.holding(peer, State.PROCESSING)
        chosen = self.chance.sample(running, min(len(running), self.chance.randint(1, 3)))
        actions = [action for action in PLAIN_ACTIONS if action is not Action.RELEASE]
        batch = [(expected, self.chance.choice(actions)) for expected in chosen]
        request = self.suite.make.request()
        for _ in range(self.chance.choice((1, 1, 2))):
            acks = await peer.commit(*(self.said(expected, action) for expected, action in batch), request=request)
            assert acks == [Ack.DONE] * len(batch)
        for expected, action in batch:
            if action is Action.REPORT:
                continue
            self.stale.append((peer, self.said(expected, action)))
            expected.holder = ""
            expected.ended_by = peer.incarnation
            expected.history.append(FINAL_STATE.get(action, State.SCHEDULED))
            if action in (Action.SNOOZE, Action.HAND_BACK):
                expected.attempts -= 1
            if action in (Action.RETRY, Action.SNOOZE):
                due_us = (await self.suite.read(self.store, expected.new.id)).due_us
                assert due_us >= self.now_us
                expected.due_us = due_us

    async def cancel(self) -> None:
        chosen = self.chance.sample(list(self.model.values()), min(len(self.model), 2))
        request = self.suite.make.request()
        wanted = [expected.state for expected in chosen]
        for _ in range(self.chance.choice((1, 1, 2))):
            was = await self.store.cancel([expected.new.id for expected in chosen], request=request)
            assert was == wanted
        for expected in chosen:
            if not expected.state.is_final:
                expected.history.append(State.CANCELLED)

    async def run_now(self) -> None:
        chosen = self.chance.sample(list(self.model.values()), min(len(self.model), 3))
        late = [expected for expected in chosen if expected.state == State.SCHEDULED and not self.is_due(expected)]
        request = self.suite.make.request()
        wanted = [
            expected.state
            if expected.state != State.SCHEDULED
            else RunNow.DUE_NOW
            if expected in late
            else RunNow.WAS_DUE
            for expected in chosen
        ]
        for _ in range(self.chance.choice((1, 1, 2))):
            assert await self.store.run_now([expected.new.id for expected in chosen], request=request) == wanted
        for expected in late:
            expected.due_us = (await self.suite.read(self.store, expected.new.id)).due_us
            assert self.is_due(expected)

    async def release(self) -> None:
        for peer in self.peers:
            for expected in self.holding(peer, State.CANCELLED):
                action = self.chance.choice(PLAIN_ACTIONS)
                assert await peer.commit(self.said(expected, action)) == [Ack.CANCELLED]
                if action is not Action.REPORT:
                    expected.holder = ""

    async def say_stale_things(self) -> None:
        for peer, said in self.chance.sample(self.stale, min(len(self.stale), 3)):
            assert await peer.commit(said) == [Ack.LOST]

    async def restart(self) -> None:
        leaver = self.peers.pop(self.chance.randrange(len(self.peers)))
        await self.store.leave(leaver.incarnation)
        for expected in self.holding(leaver, State.PROCESSING):
            expected.attempts -= 1
            expected.history.append(State.SCHEDULED)
        for expected in self.model.values():
            if expected.holder == leaver.incarnation:
                expected.holder = ""
        await self.join()

    async def clear(self) -> None:
        await self.store.clear_instances(Filter())
        final = [id for id, expected in self.model.items() if expected.state.is_final and not expected.holder]
        for id in final:
            del self.model[id]
        self.stale = [(peer, said) for peer, said in self.stale if said.id in self.model]

    # -- reads that are compared with the model

    async def look(self) -> None:
        wanted = State(self.chance.randint(1, int(State.ALL))) & State.ALL
        kind = self.chance.choice((None, *KINDS))
        ids = sorted(
            id for id, expected in self.model.items() if expected.state & wanted and kind in (None, expected.new.kind)
        )
        query = Query(state=wanted, kind=kind, limit=self.chance.randint(1, 20))
        assert await self.suite.found(self.store, query) == ids

    async def compare(self) -> None:
        for id, expected in self.model.items():
            record = await self.suite.read(self.store, id)
            assert states(record) == expected.history
            assert (record.attempts, record.fence) == (expected.attempts, expected.fence)
            assert (record.crashes, record.losses) == (0, 0)
            assert (record.due_us, record.priority) == (expected.due_us, expected.new.priority)
            if expected.state != State.CANCELLED:
                assert record.owner == (expected.ended_by if expected.state.is_final else expected.holder)
        for kind in KINDS:
            of_kind = Counter(expected.state for expected in self.model.values() if expected.new.kind == kind)
            assert await self.suite.counts(self.store, kind) == dict(of_kind)
        assert await self.store.due() == dict(Counter(expected.new.kind for expected in self.due()))
        for peer in self.peers:
            running = self.holding(peer, State.PROCESSING)
            cancelled = self.holding(peer, State.CANCELLED)
            renewed = await peer.renew()
            if running:
                assert renewed.held is not None
                held = {claim.id: claim.fence for claim in renewed.held}
                assert held.items() >= {expected.new.id: expected.fence for expected in running}.items()
            assert sorted(renewed.cancelled) == sorted(expected.new.id for expected in cancelled)

    async def end_all(self) -> None:
        """End and remove every instance, and let every peer leave."""
        ids = list(self.model)
        await self.store.cancel(ids, request=self.suite.make.request())
        for peer in self.peers:
            await self.store.leave(peer.incarnation)
        while await self.store.clear_instances(Filter()):
            pass
        assert await self.store.get(ids) == [None] * len(ids)
        await self.store.expire(100)


class RandomWalks(StoreSuite):
    """Every command in any order, on one namespace."""

    @pytest.mark.parametrize("seed", range(8))
    async def test_a_random_walk_goes_as_the_model_says(self, store: Store, seed: int) -> None:
        first = await self.join(store)
        walk = Walk(self, store, random.Random(seed), first.joined_us)
        for _ in range(3):
            await walk.join()
        for number in range(STEPS):
            await walk.step()
            if number % 20 == 19:
                await walk.compare()
        await walk.end_all()
        await store.leave(first.incarnation)
        await self.assert_nothing_left(store)
