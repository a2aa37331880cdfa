"""Random walks of durable bodies: after each command, nothing waits for what cannot come, and nothing starts early."""

from __future__ import annotations

import random  # noqa: TID251  # seeded, so that a failed walk can be repeated
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from peerjob.model.durable import SIGNAL_MARK, Need, Step, Wait
from peerjob.model.record import Ack, Action, Claim, Record
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .durable_suite import DurableSuite

STEPS = 60
SIGNALS = ("approval", "payment")
ENDS = (Action.COMPLETE, Action.COMPLETE, Action.TERMINATE, Action.RETRY, Action.HAND_BACK)


@dataclass
class DurableWalk:
    """One walk: peers, their claims, and what was said to the store."""

    suite: DurableSuite
    store: Store
    chance: random.Random
    peers: list[Peer]
    claims: list[tuple[Peer, Claim]] = field(default_factory=list[tuple[Peer, Claim]])
    ids: list[str] = field(default_factory=list[str])
    children: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    needs: dict[str, tuple[Need, ...]] = field(default_factory=dict[str, tuple[Need, ...]])
    steps: dict[tuple[str, str], bytes] = field(default_factory=dict[tuple[str, str], bytes])

    async def step(self) -> None:
        verbs = {
            self.enqueue: 2,
            self.claim: 6,
            self.spawn: 5,
            self.report: 3,
            self.suspend: 4,
            self.signal: 4,
            self.end: 5,
            self.cancel: 1,
        }
        (verb,) = self.chance.choices(list(verbs), list(verbs.values()))
        await verb()

    # -- commands

    async def enqueue(self) -> None:
        new = self.suite.make.instance()
        await self.store.enqueue([new])
        self.ids.append(new.id)

    async def claim(self) -> None:
        peer = self.chance.choice(self.peers)
        self.claims += [(peer, claim) for claim in await peer.take(2)]

    async def spawn(self) -> None:
        if not self.claims:
            return
        peer, claim = self.chance.choice(self.claims)
        known = self.children.setdefault(claim.id, [])
        given = [Need(id, self.chance.choice(("ended", "completed"))) for id in self.some(known)]
        child = self.suite.child(*given)
        if await self.suite.spawn(peer, claim, child) is not None:
            known.append(child.instance.id)
            self.ids.append(child.instance.id)
            self.needs[child.instance.id] = tuple(given)

    async def report(self) -> None:
        if self.claims:
            peer, claim = self.chance.choice(self.claims)
            step = Step(self.chance.choice("ab"), self.chance.choice((b"1", b"2")))
            if await peer.report(claim, steps=(step,)) is Ack.DONE:
                assert self.steps.setdefault((claim.id, step.name), step.value) == step.value

    async def suspend(self) -> None:
        if self.claims:
            peer, claim = self.claims.pop(self.chance.randrange(len(self.claims)))
            needs = tuple(map(Need, self.some(self.children.get(claim.id, []))))
            signals = tuple(self.some(SIGNALS)) or (() if needs else SIGNALS[:1])
            await peer.suspend(claim, Wait(signals=signals, needs=bool(needs)), needs=needs)

    async def signal(self) -> None:
        if self.ids:
            id, name = self.chance.choice(self.ids), self.chance.choice(SIGNALS)
            value = self.chance.choice((b"1", b"2"))
            if await self.store.signal(id, name, value) == "accepted":
                assert (id, SIGNAL_MARK + name) not in self.steps
                self.steps[id, SIGNAL_MARK + name] = value

    async def end(self) -> None:
        if self.claims:
            peer, claim = self.claims.pop(self.chance.randrange(len(self.claims)))
            await peer.commit(outcome(claim, self.chance.choice(ENDS)))

    async def cancel(self) -> None:
        if self.ids:
            running = [claim.id for _, claim in self.claims]
            id = self.chance.choice(running or self.ids)
            await self.store.cancel([id], request=self.suite.make.request())

    def some(self, ids: Sequence[str]) -> list[str]:
        return self.chance.sample(ids, min(len(ids), self.chance.choice((0, 1, 2, 3))))

    # -- what holds after each command

    async def check(self) -> None:
        await self.suite.settle(self.store)
        read = [record for record in await self.store.get(self.ids) if record is not None]
        records = {record.id: record for record in read}
        assert len(records) == len(self.ids)
        queued = [id for id, record in records.items() if record.state is State.SCHEDULED and record.wait is None]
        assert sum((await self.store.due()).values()) == len(queued), "in the queue, or waiting; never both"
        held = {claim.id for _, claim in self.claims}
        for record in read:
            await self.check_one(record, records, held)

    async def check_one(self, record: Record, records: dict[str, Record], held: set[str]) -> None:
        id, wait = record.id, record.wait
        steps = {name: value for (of, name), value in self.steps.items() if of == id}
        if steps or wait is not None:
            assert await self.suite.steps(self.store, id) == steps
        if wait is not None:
            assert record.state is State.SCHEDULED
            assert steps.keys().isdisjoint(SIGNAL_MARK + name for name in wait.signals), (
                "it waits for a signal that is there"
            )
            assert wait.signals or await self.store.open_needs([id]) > [0], "it waits for nothing"
        if record.parent:
            assert record.state.is_final or not records[record.parent].state.is_final, "its parent ended"
        entered = record.attempts > 0 or (wait is None and not record.state.is_final)
        for need in self.needs.get(id, ()) if entered else ():
            needed = records[need.id]
            assert needed.state.is_final, "it entered its queue before what it needs was over"
            assert need.id not in held or needed.state is not State.CANCELLED, "a body of what it needs runs"
            assert need.when == "ended" or needed.state is State.COMPLETED

    async def finish(self) -> None:
        """End all, and assert that all is final."""
        await self.store.cancel(self.ids, request=self.suite.make.request())
        await self.suite.settle(self.store)
        for peer, claim in self.claims:
            assert await peer.end(claim, Action.RELEASE) in (Ack.CANCELLED, Ack.LOST)
        await self.suite.settle(self.store)
        assert all(record is not None and record.state.is_final for record in await self.store.get(self.ids))
        assert (await self.store.health()).settling == 0


class DurableWalks(DurableSuite):
    """Every command about durable bodies in any order, on one namespace."""

    @pytest.mark.parametrize("seed", range(6))
    async def test_a_random_walk_of_durable_bodies(self, flows: Store, seed: int) -> None:
        peers = [await self.join(flows, f"peer {number}") for number in range(2)]
        walk = DurableWalk(self, flows, random.Random(seed), peers)
        for _ in range(STEPS):
            await walk.step()
            await walk.check()
        await walk.finish()
        await self.remove_all(flows, *peers)
