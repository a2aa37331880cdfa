"""A call with several items has the effect of one call per item, and housekeeping changes no answer.

Two namespaces see the same walk; in one of them, each call has one item and follows some housekeeping.
"""

from __future__ import annotations

import random  # noqa: TID251  # seeded, so that a failed walk can be repeated
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TypeVar

import msgspec
import pytest

from peerjob.model.firing import Fire, FireOutcome, FireRecord, Overlap
from peerjob.model.record import Ack, Action, Claim, Enqueued, NewInstance, Outcome, Record
from peerjob.model.run_now import RunNowAnswer
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .timetable import ScheduleSuite, nth

One = TypeVar("One")
Answer = TypeVar("Answer")

STEPS = 20
NAMES = ("s", "t")
HOUR_US = 3_600_000_000
ACTIONS = (Action.COMPLETE, Action.TERMINATE, Action.RETRY, Action.HAND_BACK)


@dataclass
class Twin:
    """One of the two namespaces."""

    store: Store
    singly: bool
    peer: Peer
    held: dict[str, Claim] = field(default_factory=dict[str, Claim])
    """Claims that the peer holds, by instance id."""

    async def each(self, call: Callable[[Sequence[One]], Awaitable[list[Answer]]], all: Sequence[One]) -> list[Answer]:
        """All answers so far."""
        if not self.singly:
            return await call(all) if all else []
        return [answer for item in all for answer in await call([item])]

    async def commit(self, outcomes: Sequence[Outcome]) -> list[Ack]:
        """Commit, under a fresh request id."""
        return await self.peer.commit(*outcomes)

    async def cancel(self, ids: Sequence[str]) -> list[State | None]:
        """Cancel, under a fresh request id."""
        return await self.store.cancel(ids, request=self.peer.make.request())

    async def run_now(self, ids: Sequence[str]) -> list[RunNowAnswer]:
        """Make due, under a fresh request id."""
        return await self.store.run_now(ids, request=self.peer.make.request())


class BatchRules(ScheduleSuite):
    """Rules of every command that takes several items."""

    @pytest.mark.parametrize("seed", range(4))
    async def test_a_batch_does_what_its_parts_do_one_after_another(self, store: Store, seed: int) -> None:
        chance = random.Random(seed)
        other = await self.open(namespace=f"{self.namespace}-singly")
        twins = [Twin(opened, opened is other, await self.join(opened)) for opened in (store, other)]
        walk = BatchWalk(self, twins, chance, due_us=twins[0].peer.joined_us - 1_000_000)
        for twin in twins:
            for name in NAMES:
                await self.schedule(twin.store, name)
        for _ in range(STEPS):
            steps = (walk.fire, walk.fire, walk.enqueue, walk.claim, walk.end, walk.cancel, walk.restart, walk.wait)
            await chance.choice((*steps, walk.run_now))()
            await walk.compare()
            await other.expire(100)

    async def test_a_key_that_a_call_frees_is_free_for_the_rest_of_it(self, store: Store) -> None:
        schedule, other = [await self.schedule(store, name) for name in NAMES]
        holder, first, second = self.make.instances(3, key="k")
        await self.done(store, self.a_fire(schedule, instance=holder, overlap=Overlap.REPLACE))
        records = await self.done(
            store,
            self.a_fire(other, 0, instance=first),
            self.a_fire(schedule, 1, overlap=Overlap.REPLACE),
            self.a_fire(other, 1, instance=second),
        )
        assert [record.outcome for record in records] == [FireOutcome.SKIPPED, FireOutcome.FIRED, FireOutcome.FIRED]
        assert records[1].cancelled == holder.id
        (taken,) = await store.enqueue([self.make.instance(key="k")])
        assert taken.id == second.id


@dataclass
class BatchWalk:
    """A random walk in both namespaces."""

    suite: BatchRules
    twins: Sequence[Twin]
    chance: random.Random
    due_us: int
    made: list[str] = field(default_factory=list[str])
    numbers: dict[str, count[int]] = field(default_factory=lambda: {name: count() for name in NAMES})

    def new(self, *keys: str) -> NewInstance:
        new = self.suite.make.instance(
            key=self.chance.choice((None, *keys)),
            due_us=self.due_us,
            tags=self.chance.choice(((), ("t",))),
            priority=self.chance.randrange(2),
        )
        self.made.append(new.id)
        return new

    async def enqueue(self) -> None:
        batch = [self.new(*NAMES) for _ in range(self.chance.randint(1, 4))]
        answers: list[list[Enqueued]] = [await twin.each(twin.store.enqueue, batch) for twin in self.twins]
        assert answers[0] == answers[1]

    async def fire(self) -> None:
        names = [self.chance.choice(NAMES) for _ in range(self.chance.randint(1, 6))]
        # each schedule has its own key: if fires of one batch shared a key, the store could give the key to any fire
        wanted = [(name, self.options(name)) for name in names]
        numbers = [next(self.numbers[name]) for name, _ in wanted]
        answers: list[list[FireRecord | None]] = []
        for twin in self.twins:
            rows = {name: await self.suite.row(twin.store, name) for name in NAMES}
            fires = [
                msgspec.structs.replace(
                    fire, schedule=name, revision=rows[name].revision, nominal_us=nth(number), next_us=nth(number + 1)
                )
                for (name, fire), number in zip(wanted, numbers, strict=True)
            ]
            fired = await twin.each(partial(twin.store.fire, term=None), fires)
            answers.append([timeless(answer.record) for answer in fired])
        assert answers[0] == answers[1]

    def options(self, key: str) -> Fire:
        outcome = self.chance.choice((FireOutcome.FIRED, FireOutcome.FIRED, FireOutcome.FIRED, FireOutcome.MISSED))
        instance = self.new(key) if outcome is FireOutcome.FIRED else None
        return Fire(
            schedule="",
            revision=0,
            nominal_us=0,
            outcome=outcome,
            request=self.suite.make.request() if instance is None else instance.id,
            instance=instance,
            overlap=self.chance.choice((*Overlap, Overlap.REPLACE, Overlap.REPLACE)),
        )

    async def claim(self) -> None:
        limit = self.chance.randint(1, 4)
        for twin in self.twins:
            twin.held |= {claim.id: claim for claim in await twin.peer.take(limit)}
        assert list(self.twins[0].held) == list(self.twins[1].held)

    async def end(self) -> None:
        """End held claims in the order of ids, so that retried instances become due in one order in both namespaces."""
        ids = sorted(id for id in self.twins[0].held if self.chance.random() < 0.7)
        actions = {id: self.chance.choice(ACTIONS) for id in ids}
        answers: list[list[Ack]] = []
        for twin in self.twins:
            outcomes = [Outcome(id=id, fence=twin.held.pop(id).fence, action=actions[id]) for id in ids]
            answers.append(await twin.each(twin.commit, outcomes))
        assert answers[0] == answers[1]

    async def cancel(self) -> None:
        ids = self.chance.sample(self.made, min(len(self.made), 3))
        answers = [await twin.each(twin.cancel, ids) for twin in self.twins]
        assert answers[0] == answers[1]

    async def run_now(self) -> None:
        """Make delayed instances due, in the order of ids, so that they become due in one order in both namespaces."""
        late = [self.suite.make.instance(delay_us=HOUR_US) for _ in range(2)]
        ids = self.chance.sample(self.made, min(len(self.made), 3))
        self.made += [new.id for new in late]
        for twin in self.twins:
            await twin.each(twin.store.enqueue, late)
        ids = sorted([*ids, late[0].id])
        answers = [await twin.each(twin.run_now, ids) for twin in self.twins]
        assert answers[0] == answers[1]

    async def restart(self) -> None:
        for twin in self.twins:
            await twin.store.leave(twin.peer.incarnation)
            twin.peer = await self.suite.join(twin.store)
            # as a node that restarts quickly, the new peer claims before housekeeping finds that the previous peer has
            # left
            twin.held = {claim.id: claim for claim in await twin.peer.take(1)}
        assert list(self.twins[0].held) == list(self.twins[1].held)

    async def wait(self) -> None:
        """A waiting peer is hinted the next instance, and claims it."""
        for twin in self.twins:
            while claims := await twin.peer.take():
                twin.held |= {claim.id: claim for claim in claims}
        await self.twins[-1].store.expire(100)
        new = self.new()
        for twin in self.twins:
            await twin.store.enqueue([new])
            assert await self.suite.hinted(twin.peer, "work")
            claim = await twin.peer.take_one()
            assert claim.id == new.id
            twin.held[new.id] = claim

    async def compare(self) -> None:
        """All visible data, except times and names that differ between the namespaces."""
        seen: list[object] = []
        for twin in self.twins:
            store, suite = twin.store, self.suite
            records = await store.get(self.made) if self.made else []
            seen.append(
                [
                    [record and outline(record) for record in records],
                    [[timeless(record) for record in await suite.ledger(store, name)] for name in NAMES],
                    [await suite.held(store, name) for name in NAMES],
                    await suite.counts(store),
                    await store.due(),
                ]
            )
        assert seen[0] == seen[1]


def timeless(record: FireRecord | None) -> FireRecord | None:
    """A record without its creation time."""
    return record and msgspec.structs.replace(record, at_us=0)


def outline(record: Record) -> list[object]:
    """A record without times and fences."""
    return [record.id, record.attempts, record.slot, [(entry.state, entry.note) for entry in record.history]]
